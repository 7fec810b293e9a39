"""The daemon's loop moves the metrics: what comes in, what is learnt, stored, published and committed."""

import itertools
from collections.abc import Mapping
from typing import Any

from corlld.errors import LostSwap, RetriableError
from corlld.records import Polled
from tests.support.daemon_parts import Parts, begun, records, value
from tests.support.fakes import ScriptedSource, tenure
from tests.support.metric_series import STARTED_AT, Figures, Watched, run


def test_the_loop_reports_lag_age_buffer_and_memory(watched: Watched) -> None:
    ticks = itertools.count(0.0, 2.0)  # every look at the clock is two seconds after the last: each turn is reported
    parts = Parts(batching={"max_events": 3, "flush_after_seconds": 1e6, "max_buffered_events": 10})

    def tick() -> float:
        watched.now = next(ticks)
        return watched.now

    parts.clock = tick
    looks: list[Figures] = []

    class Source(ScriptedSource):
        def ends(self) -> Mapping[Any, int]:
            return dict.fromkeys(self.positions(), 9)

    source = Source(
        [begun(*records(value("a"), value("b"))), Polled(), lambda: (looks.append(watched.moved()), Polled())[1]],
    )
    parts.observer = watched.observer
    parts.daemon(source).run()
    assert looks[0]["corlld_partitions"] == 1
    assert looks[0]["corlld_consumer_lag{partition=0}"] == 9
    assert looks[0]["corlld_buffered_events"] == 2
    assert looks[0]["corlld_buffered_chars"] == 2 * len("x" + "draft" + "text")
    assert looks[0]["corlld_low_watermark_age_seconds"] > 0
    assert watched["corlld_buffered_events"] == 0
    assert watched["corlld_host_memory_users"] == 1
    assert watched["corlld_host_memory_bytes"] > 0
    assert watched["corlld_low_watermark_age_seconds"] == 0


def test_a_full_buffer_shows_as_paused_reading(watched: Watched) -> None:
    ticks = itertools.count(0.0, 2.0)
    parts = Parts(batching={"max_events": 2, "max_buffered_events": 2, "flush_after_seconds": 1e6})
    parts.clock = lambda: next(ticks)
    parts.observer = watched.observer
    source = ScriptedSource([begun(*records(value("a"), value("b")))])
    paused: set[float] = set()
    parts.store.load_faults = [RetriableError("away")] * 3
    source.idle = lambda: paused.add(watched["corlld_reading_paused"])
    parts.daemon(source).run()
    assert 1.0 in paused


def test_what_came_in_is_counted_by_what_it_was(watched: Watched) -> None:
    moved = run(
        watched,
        begun(*records(value("a"), value("b", edited="draft"), b"{", None, value("c"), value("a"))),
        Polled(records(value("d", type="erase"), first=6)),
        parts=Parts(batching={"max_events": 1}, dead_letters={"max_share": 1.0}),
    )
    assert moved["corlld_records_total"] == 7
    assert {name: by for name, by in moved.items() if "_events_total" in name or "dead_letters" in name} == {
        "corlld_events_total{type=edit}": 3,
        "corlld_events_total{type=acceptance}": 1,
        "corlld_events_total{type=erase}": 1,
        "corlld_dead_letters_total{reason=not_json}": 1,
        "corlld_dead_letters_total{reason=no_value}": 1,
    }
    assert moved["corlld_duplicates_total{reason=event_id}"] == 1
    assert "corlld_duplicates_total{reason=offset}" not in moved


def test_what_is_replayed_counts_as_duplicates_also_before_an_erasure(watched: Watched) -> None:
    parts = Parts(batching={"max_events": 8})
    first = run(watched, begun(*records(value("a"), value("b"))), parts=parts)
    assert not [name for name in first if "duplicates" in name]
    again = run(watched, begun(*records(value("a"), value("b"), value("c", type="erase"))), parts=parts)
    assert again["corlld_duplicates_total{reason=offset}"] == 2
    assert again["corlld_erasures_total"] == 1


def test_one_edit_is_one_step_one_state_one_version(watched: Watched) -> None:
    moved = run(watched, begun(*records(value("a"))))
    expected = {
        "corlld_step_users_count": 1,
        "corlld_updates_total": 1,
        "corlld_states_stored_total": 1,
        "corlld_state_commit_seconds_count": 1,
        "corlld_versions_published_total": 1,
        "corlld_publish_seconds_count": 1,
        "corlld_edit_to_published_seconds_count": 1,
        "corlld_last_snapshot_timestamp_seconds": watched.unix_now - STARTED_AT,
        "corlld_last_publication_timestamp_seconds": watched.unix_now - STARTED_AT,
    }
    assert {name: moved.get(name) for name in expected} == expected
    assert not any("erasures" in name or "lost" in name or "retries" in name for name in moved)


def test_an_acceptance_that_is_not_learnt_from_is_stored_and_publishes_nothing(watched: Watched) -> None:
    moved = run(watched, begun(*records(value("a", edited="draft"))))
    assert moved["corlld_states_stored_total"] == 1
    assert not any("publish" in name or "publication" in name or "updates" in name for name in moved)


def test_with_publishing_off_nothing_counts_as_published(watched: Watched) -> None:
    moved = run(watched, begun(*records(value("a"))), parts=Parts(publishing={"enabled": False}))
    assert moved["corlld_updates_total"] == 1
    assert not any("publish" in name or "publication" in name for name in moved)


def test_a_commit_counts_when_it_is_begun(watched: Watched) -> None:
    parts = Parts()
    parts.observer = watched.observer
    source = parts.run(begun(*records(value("a"))), Polled(), Polled())
    assert watched.moved()["corlld_commits_total"] == len(source.commits)


def test_a_lost_swap_is_counted_and_the_event_once_stored(watched: Watched) -> None:
    parts = Parts()
    parts.store.faults = [LostSwap("newer")]
    moved = run(watched, begun(*records(value("a"))), parts=parts)
    assert (moved["corlld_lost_swaps_total"], moved["corlld_states_stored_total"]) == (1, 1)


def test_retries_are_counted_by_stage(watched: Watched) -> None:
    parts = Parts(dead_letters={"max_share": 1.0})
    parts.store.faults = [RetriableError("full")] * 2
    parts.publisher.faults = [RetriableError("full")] * 3
    parts.dead_letters.faults = [RetriableError("away")]
    moved = run(watched, begun(*records(value("a"), b"{")), parts=parts)
    assert {name: by for name, by in moved.items() if "retries" in name} == {
        "corlld_retries_total{stage=state}": 2,
        "corlld_retries_total{stage=publishing}": 3,
        "corlld_retries_total{stage=dead_letters}": 1,
    }
    assert moved["corlld_dead_letters_total{reason=not_json}"] == 1, "sent twice, set aside once"


def test_tenures_of_a_partition_share_a_series(watched: Watched) -> None:
    moved = run(watched, begun(), Polled(ended=(tenure(),), begun=(tenure(number=2),)))
    assert moved["corlld_partitions"] == 1
