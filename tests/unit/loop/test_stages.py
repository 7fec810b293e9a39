"""One user's micro-batch is judged against the state, trained, counted, or covered by an erasure."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from corlld.durable import ModuleNames, UserState
from corlld.errors import FatalError, RejectReason, RetriableError
from corlld.records import PairOutcome, PairStatus, Polled, SourcePartition, Tenure, TrainingBatch, UpdateOutcome
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, begun, records, value
from tests.support.event_ids import hashes
from tests.support.fakes import ListingLearner

HISTORY = (*(value(f"h{i}") for i in range(5)), value("x", type="erase"))


def test_a_duplicate_is_filtered_and_the_batch_is_refilled_from_the_buffer() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"), value("a"), value("b"), value("c"))))
    assert parts.applied_ids() == ("a", "b", "c")
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1, 2]  # [a b] with the duplicate refilled, then [c]


def test_duplicates_leave_a_trace_without_an_id() -> None:
    parts = Parts()
    with capture_logs() as first:
        parts.run(begun(*records(value("raw-a"), value("raw-b"))))
    with capture_logs() as again:
        parts.run(begun(*records(value("raw-a"), value("raw-b"), value("raw-a"))))
    assert not [line for line in first if line["event"] == "duplicates"]
    [line] = [line for line in again if line["event"] == "duplicates"]
    assert line == {
        "event": "duplicates",
        "log_level": "debug",
        "uid": PSEUDONYMS.uid("ann"),
        "offset": 2,
        "event_id": 1,
    }


def test_a_duplicate_alone_moves_applied_durably_and_makes_no_version() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"))))
    parts.run(begun(*records(value("a"), first=7)))
    assert parts.applied_ids() == ("a",)
    assert parts.state().applied == {T0.partition.key: 8}
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1]


def test_a_version_keeps_the_names_of_modules_of_the_model_that_made_it() -> None:
    parts = Parts()
    names = ModuleNames("model", "language_model.model")
    parts.learner.model_info = replace(parts.learner.model_info, module_names=names)
    parts.run(begun(*records(value("a"))))
    release = parts.state().release
    assert release is not None
    assert release.module_names == names


def test_an_acceptance_that_is_learnt_from_makes_a_version_and_counts_once() -> None:
    parts = Parts()
    parts.learner = ListingLearner(learns_acceptances=True)
    accepted = value("a", edited="draft")
    parts.run(begun(*records(accepted)))  # a batch of nothing else
    source = parts.run(begun(*records(accepted, accepted, value("b"))))  # read again, sent again, and an edit
    assert parts.applied_ids() == ("a", "b")
    figures = parts.state().statistics
    assert (figures.acceptances, figures.pairs_applied, figures.updates, parts.state().version) == (1, 1, 2, 2)
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1, 2]
    assert source.final == {T0: 3}


def test_an_acceptance_that_is_not_learnt_from_is_counted_and_makes_no_version() -> None:
    parts = Parts()
    source = parts.run(begun(*records(value("a", edited="draft"))))
    assert (parts.state().statistics.acceptances, parts.state().version) == (1, 0)
    assert parts.publisher.out == {}
    assert source.final == {T0: 1}


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        ((RejectReason.DRIFT, None, RejectReason.DRIFT, RejectReason.TOO_LONG), [(3, {"drift": 2, "too_long": 1})]),
        ((None, None, None, None), []),
    ],
)
def test_rejected_edits_are_logged_by_their_number_and_reasons(
    reasons: tuple[RejectReason | None, ...], told: list[tuple[int, dict[str, int]]]
) -> None:
    class Rejecting(ListingLearner):
        def update(self, batches: Sequence[TrainingBatch]) -> list[UpdateOutcome]:
            (outcome,) = super().update(batches)
            pairs = [
                PairOutcome(PairStatus.REJECTED, reason) if reason else pair
                for reason, pair in zip(reasons, outcome.pairs, strict=True)
            ]
            return [replace(outcome, pairs=tuple(pairs))]

    parts = Parts(batching={"max_events": 4})
    parts.learner = Rejecting()
    with capture_logs() as entries:
        parts.run(begun(*records(*(value(f"e{i}") for i in range(4)))))
    lines = [entry for entry in entries if entry["event"] == "rejected"]
    assert [(line["edits"], line["reasons"]) for line in lines] == told
    assert all(line["uid"] == PSEUDONYMS.uid("ann") for line in lines)


def test_an_erasure_leaves_a_tombstone_withdraws_and_trains_nothing_before_it() -> None:
    parts = Parts(batching={"max_events": 8})
    parts.run(begun(*records(value("a"))))
    trained: list[str] = []
    parts.learner = ListingLearner(lambda batches: trained.extend(e.event_id for b in batches for e in b.events))
    source = parts.run(begun(*records(value("b"), value("c", type="erase"), first=1)))
    assert trained == []
    assert parts.state() == UserState(
        PSEUDONYMS.uid("ann"),
        version=1,
        applied={T0.partition.key: 3},
        recent_event_ids=("c",),  # the erasure's own
        older_event_ids=hashes("a", "b", uid=PSEUDONYMS.uid("ann")),
        erased=True,
        erased_through=1,
    )
    assert parts.publisher.out == {}
    assert source.final == {T0: 3}
    parts.run(begun(*records(value("a"), value("b"), value("c", type="erase"), value("d"))))
    assert parts.applied_ids() == ("d",), "a replay can't bring back what came before the erasure"
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [2]


def test_an_erasure_that_is_delivered_twice_erases_once() -> None:
    parts = Parts(batching={"max_events": 8})
    parts.run(begun(*records(value("a"), value("x", type="erase"))))
    parts.run(begun(*records(value("b"), value("x", type="erase"), value("c"), first=2)))
    assert parts.applied_ids() == ("b", "c")
    assert parts.state().applied == {T0.partition.key: 5}


def erased_after_five_edits() -> Parts:
    """The state's window holds two ids: it has moved on when the erasure comes."""
    parts = Parts(batching={"max_events": 2}, state={"recent_event_ids": 2})
    parts.run(begun(*records(*HISTORY[:5])))
    assert parts.applied_ids() == ("h0", "h1", "h2", "h3", "h4")
    parts.run(begun(*records(HISTORY[5], first=5)))
    return parts


def test_i8_history_that_is_delivered_once_more_brings_no_erased_user_back() -> None:
    parts = erased_after_five_edits()
    parts.run(begun(*records(*HISTORY, first=6)))
    assert (parts.state().erased, parts.state().adapter, parts.publisher.out) == (True, None, {})
    parts.run(begun(*records(*HISTORY[:3], value("new"), first=12)))
    assert parts.applied_ids() == ("new",), "who comes back with new edits is welcome"


def test_i8_history_that_is_copied_to_another_topic_brings_no_erased_user_back() -> None:
    parts = erased_after_five_edits()
    copy = Tenure(SourcePartition("copy", "another-id", 0), 2, 0)
    parts.run(Polled(records(*reversed(HISTORY), of=copy), begun=(copy,)))
    assert (parts.state().erased, parts.state().adapter, parts.publisher.out) == (True, None, {})


def test_edits_that_wait_when_the_erasure_comes_are_erased_for_good() -> None:
    parts = Parts(batching={"max_events": 8})
    parts.run(begun(*records(*HISTORY)))
    parts.run(begun(*records(*HISTORY[:5], value("new"), first=6)))
    assert parts.applied_ids() == ("new",)


def test_a_late_duplicate_of_an_older_erasure_erases_no_newer_edits() -> None:
    parts = Parts(batching={"max_events": 8})
    deliveries = (value("er1", type="erase"), value("a"), value("er2", type="erase"), value("b"))
    for offset, delivered in enumerate((*deliveries, deliveries[0], value("c"))):
        parts.run(begun(*records(delivered, first=offset)))
    assert parts.applied_ids() == ("b", "c")


def test_two_tombstones_erase_twice() -> None:
    parts = Parts(batching={"max_events": 8}, events={"tombstones_erase": True})
    parts.run(begun(*records(value("a"), None, value("b"), None, value("c"))))
    assert parts.applied_ids() == ("c",)


def test_a_kill_between_tombstone_and_withdrawal_is_made_good_by_the_replay() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"))))
    parts.publisher.faults = [RetriableError("busy"), FatalError("killed here")]
    with pytest.raises(FatalError):
        parts.run(begun(*records(value("c", type="erase"), first=1)))
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1]
    parts.run(begun(*records(value("c", type="erase"), first=1)))
    assert parts.publisher.out == {}
