"""Two daemons share a topic, a store and a target. Whatever happens in whatever order, I1 to I3, I5, I6 and I8 hold.

hypothesis finds the order. CORLLD_TEST_EXAMPLES lets it look for longer: `CORLLD_TEST_EXAMPLES=20000 pytest ...`.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from corlld.durable import UserState
from corlld.loop import stages, transitions
from corlld.loop.durability import Durability
from corlld.loop.event_ids import EventIds
from corlld.loop.offsets import LowWatermark
from corlld.publishing.publisher import AdapterPublisher
from tests.support.fakes import MemoryStore
from tests.support.mutations import MUTATIONS
from tests.support.ownership import CALLS, SLOTS, USERS, Trouble, World

EXAMPLES = int(os.environ.get("CORLLD_TEST_EXAMPLES", "150"))
MOST_PARTITIONS = 4

slots = st.sampled_from(SLOTS)
records = st.tuples(
    st.sampled_from(("edit", "edit", "edit", "edit", "acceptance", "erase", "tombstone", "malformed")),
    st.sampled_from(USERS),
)
calls = st.sampled_from(CALLS)
# What was erased while its owner was cut off is the hardest case.
meanwhile = st.none() | records | st.tuples(st.sampled_from(("erase", "tombstone")), st.sampled_from(USERS))
troubles = st.one_of(
    st.builds(Trouble, st.sampled_from(("time-out", "lost answer", "kill before", "kill after")), calls),
    st.builds(Trouble, st.just("take-over"), calls, meanwhile),
    st.builds(Trouble, st.just("take-over and kill"), calls, meanwhile),
)


class Ownership(RuleBasedStateMachine):
    """Does one thing at a time: a record, a turn, a job, a fault, a rebalance, a kill."""

    @initialize(
        every_updates=st.sampled_from((1, 3)),
        host_memory_bytes=st.sampled_from((100, 10_000, 2_000_000_000)),  # no state, two, all
        flush_after_seconds=st.sampled_from((0.0, 3.0)),
    )
    def begin(self, every_updates: int, host_memory_bytes: int, flush_after_seconds: float) -> None:
        self.world = World(
            batching={"max_users_per_step": 2, "flush_after_seconds": flush_after_seconds},
            state={"host_memory_bytes": host_memory_bytes},
            snapshot={"every_updates": every_updates, "every_seconds": 3.0},
        )
        for slot in SLOTS:
            self.world.live(slot)

    @rule(new=st.lists(records, min_size=1, max_size=6))
    def send(self, new: list[tuple[str, str]]) -> None:
        for kind, user in new:
            self.world.send(kind, user)

    @rule(first=st.integers(0, 20), count=st.integers(1, 6))
    def send_again(self, first: int, count: int) -> None:
        self.world.send_again(first, count)

    @precondition(lambda self: len(self.world.topic) < MOST_PARTITIONS)
    @rule()
    def add_partition(self) -> None:
        self.world.add_partition()

    @rule(slot=slots, seconds=st.sampled_from((0.0, 0.2, 1.5, 5.0)), deaf=st.booleans())
    def turn(self, slot: str, seconds: float, deaf: bool) -> None:
        self.world.now += seconds
        self.world.turn(slot, deaf=deaf)

    @rule(slot=slots, which=st.integers(0, 2))
    def work(self, slot: str, which: int) -> None:
        self.world.work(slot, which)

    @rule(slot=slots, turns=st.integers(1, 8), deaf=st.booleans())
    def go_on(self, slot: str, turns: int, deaf: bool) -> None:
        self.world.go_on(slot, turns, deaf=deaf)

    @rule(slot=slots, trouble=troubles, new=st.lists(records, min_size=1, max_size=3))
    def run_into_trouble(self, slot: str, trouble: Trouble, new: list[tuple[str, str]]) -> None:
        self.send(new)
        self.world.go_on(slot, 12, trouble)

    @rule(eager=st.booleans(), shift=st.integers(0, 1))
    def rebalance(self, eager: bool, shift: int) -> None:
        self.world.rebalance(eager=eager, shift=shift)

    @rule(slot=slots, lands=st.booleans())
    def kill(self, slot: str, lands: bool) -> None:
        self.world.kill(slot, lands=lands)

    @rule(slot=slots)
    def stop(self, slot: str) -> None:
        self.world.stop(slot)

    @rule(fault=st.sampled_from(("refused", "unheard")))
    def fail_a_commit(self, fault: str) -> None:
        self.world.group.commit_faults.append(fault)

    @rule(partitions=st.sets(st.integers(0, MOST_PARTITIONS - 1), max_size=2))
    def sicken(self, partitions: set[int]) -> None:
        self.world.sick.clear()
        self.world.sick.update(partitions)

    @invariant()
    def nothing_is_wrong(self) -> None:
        if hasattr(self, "world"):
            self.world.ledger.judge_erasures()
            assert not self.world.ledger.problems, "; ".join(self.world.ledger.problems)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.finish()
                assert not self.world.ledger.problems, "; ".join(self.world.ledger.problems)
            finally:
                self.world.close()


def run(examples: int, **changes: Any) -> None:
    run_state_machine_as_test(
        Ownership,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            **changes,
        ),
    )


def test_two_daemons_keep_the_invariants_whatever_happens_in_whatever_order() -> None:
    run(EXAMPLES)


# --- the machine itself: with a rule of the protocol switched off it goes red, for that rule's own reason -------------


def learn_again_what_is_covered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stages, "select", transitions.select)  # so that it is put back afterwards
    MUTATIONS["forget-applied"]()


def commit_before_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LowWatermark, "committable", LowWatermark.committable)
    MUTATIONS["commit-before-durable"]()


def commit_before_visible(patch: pytest.MonkeyPatch) -> None:
    save = Durability.save

    def mutated(self: Durability, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **{**kwargs, "make_visible": False})

    patch.setattr(Durability, "save", mutated)


def swap_blindly(patch: pytest.MonkeyPatch) -> None:
    save = MemoryStore.save

    def mutated(self: MemoryStore, uid: str, state: UserState, _: str) -> str:
        return save(self, uid, state, str(self.states[uid][1] if uid in self.states else 0))

    patch.setattr(MemoryStore, "save", mutated)


def leave_versions_of_late_owners(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AdapterPublisher, "_erased_through", lambda self, uid: 0)


def forget_erased_ids(patch: pytest.MonkeyPatch) -> None:
    def mutated(self: EventIds, state: UserState, event_ids: Iterable[str]) -> UserState:
        return replace(state, recent_event_ids=(), older_event_ids=b"")

    patch.setattr(EventIds, "erase", mutated)


@pytest.mark.parametrize(
    ("mutate", "reason"),
    [
        (learn_again_what_is_covered, "I2"),
        (commit_before_durable, "I1"),
        (commit_before_visible, "I1"),
        (swap_blindly, "I6"),
        (leave_versions_of_late_owners, "I8"),
        (forget_erased_ids, "I2"),
    ],
)
def test_the_machine_goes_red_where_a_rule_is_switched_off(
    mutate: Callable[[pytest.MonkeyPatch], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure that does not come in the same words when it is replayed is red too."""
    mutate(monkeypatch)
    with pytest.raises((AssertionError, FlakyFailure)) as raised:
        run(1000, derandomize=True, database=None, phases=(Phase.generate,))
    error = raised.value
    told = [str(each) for each in (error.exceptions if isinstance(error, FlakyFailure) else [error])]
    assert any(re.search(f"{reason}: |{reason}, ", each) for each in told), told
