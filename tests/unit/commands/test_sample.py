"""The description of a sample of records: figures that can be counted by hand, and never a text or a user id."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from corlld.commands.sample import SHOWN_REFUSALS, Refusal, Sample, quantile, sample_table
from corlld.errors import InvalidReason
from corlld.events.decoder import EventDecoder
from corlld.records import EditEvent, Record, SourcePartition, Tenure
from corlld.settings.sections import EventSettings
from tests.support.commands import row
from tests.support.edits import edit, erasure

SECRET = "kanari7731"


def sample_of(
    *records: tuple[bytes | None, dict[str, Any] | bytes], is_renderable: Callable[[EditEvent], bool] | None = None
) -> Sample:
    """Return a sample of (key, event or raw value), at the offsets from 0."""
    sample = Sample(EventDecoder(EventSettings(), supports_messages=True), is_renderable)
    tenure = Tenure(SourcePartition("edits", "id", 2), 0, 0)
    for offset, (key, event) in enumerate(records):
        value = event if isinstance(event, bytes) else json.dumps(event).encode()
        sample.add(Record(tenure, offset, offset + 1, key, value))
    return sample


def own(event: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the event with its right key."""
    return str(event["user_id"]).encode(), event


def shown(sample: Sample, *, has_keys: bool = True) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(sample_table(sample, has_keys=has_keys))
    return capture.get()


def test_sizes_and_shares_are_those_of_the_valid_edits() -> None:
    chat = edit(4, proposed="", edited="ab", messages=[{"role": "user", "content": "123"}] * 2, adapter_version=0)
    del chat["prompt"]
    sample = sample_of(
        own(edit(1, prompt="12345", proposed="abcd", edited="abXY", adapter_version=7)),  # 2 of 4 characters differ
        own(edit(2, prompt="", proposed="same", edited="same")),
        own(edit(3, "bob", prompt="1", proposed="ab", edited="ab")),
        own(chat),  # nothing of 2 characters is left
        own(erasure()),
        (None, edit(9)),
    )
    assert (sample.records, sample.valid, sample.edits, sample.erasures) == (6, 5, 4, 1)
    assert sample.prompt_chars == [5, 0, 1, 6]
    assert sample.edit_ratios == [0.5, 0.0, 0.0, 1.0]
    text = shown(sample)
    assert row(text, "valid") == "5 of 6 (83.3%)"
    assert row(text, "users") == "2"
    assert row(text, "erasures") == "1"
    assert row(text, "acceptances") == "2 of 4 (50.0%)"
    assert row(text, "with adapter_version") == "2 of 4 (50.0%)"
    assert row(text, "events per user") == "2.5 4 4"
    assert row(text, "characters of prompt or messages") == "3 6 6"
    assert row(text, "characters of proposed") == "3 4 4"
    assert row(text, "characters of edited") == "3 4 4"
    assert row(text, "edit ratio (0: accepted)") == "0.25"


def test_each_reason_is_counted_with_its_field_and_a_place() -> None:
    right = own(edit(1))
    sample = sample_of(
        right,
        (b"someone else", edit(2)),
        (None, edit(3)),
        own(edit(4, edited=1)),
        own(edit(5, edited=2)),
        own(edit(6, prompt=None, messages=[{"role": "user", "content": 1}])),
        own(edit(7, prompt=None, messages=[{"role": "user", "content": "1"}, {"role": 1, "content": ""}])),
        own(edit(8, prompt=None, messages=[{"role": "user", "content": "1"}, {"role": "user", "content": 1}])),
    )
    assert sample.refused == {
        Refusal(InvalidReason.KEY_MISMATCH, "key"): 1,
        Refusal(InvalidReason.KEY_MISSING, "key"): 1,
        Refusal(InvalidReason.INVALID_FIELD, "edited"): 2,
        Refusal(InvalidReason.INVALID_FIELD, "messages[].content"): 2,
        Refusal(InvalidReason.INVALID_FIELD, "messages[].role"): 1,
    }
    assert sample.invalid_share == 7 / 8
    text = shown(sample)
    assert "2 of 8 (25.0%) invalid_field: edited; for example edits-2-4" in " ".join(text.split())
    assert row(text, "wrong keys") == "2 of 8 (25.0%)"
    assert row(shown(sample, has_keys=False), "wrong keys") == "a file has no keys"


def test_edits_that_the_chat_template_refuses_are_counted_where_a_model_is_known() -> None:
    records = [own(edit(number)) for number in range(4)]
    sample = sample_of(*records, is_renderable=lambda event: event.event_id not in ("ann-1", "ann-3"))
    assert row(shown(sample), "unrenderable") == "2 of 4 (50.0%) the chat template refuses them"
    for judge in (None, lambda event: True):
        assert "unrenderable" not in shown(sample_of(*records, is_renderable=judge))


def test_there_are_never_more_rows_of_reasons_than_a_reader_wants() -> None:
    sample = sample_of()
    for number in range(SHOWN_REFUSALS + 3):
        sample.refused[refusal := Refusal(InvalidReason.INVALID_FIELD, f"field{number}")] += 1
        sample.last_refused[refusal] = Record(Tenure(SourcePartition("edits", "", 0), 0, 0), 0, 1, None, None)
    assert shown(sample).count("dead letters") == SHOWN_REFUSALS + 1
    assert "for 3 more reasons" in shown(sample)


def test_nothing_of_a_record_is_shown_or_kept_but_counts() -> None:
    sample = sample_of(
        (SECRET.encode(), {"user_id": SECRET, SECRET: SECRET, "event_id": SECRET}),
        own(edit(1, SECRET, prompt=SECRET, proposed=SECRET, edited=f"{SECRET} {SECRET}")),
        (SECRET.encode(), SECRET.encode()),
        (SECRET.encode(), edit(1, proposed=SECRET)),
    )
    assert sample.valid == 1
    assert SECRET not in shown(sample)
    assert SECRET not in repr(sample).replace(f"Counter({{'{SECRET}': 1}})", "")


def test_a_sample_of_erasures_alone_has_no_sizes_of_texts() -> None:
    text = shown(sample_of(own(erasure())))
    assert row(text, "acceptances") == "0"
    assert "characters" not in text


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(1, 0.95, 1), (20, 0.95, 19), (21, 0.95, 20), (30, 0.95, 29), (100, 0.95, 95), (4, 1, 4)],
)
def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed(count: int, share: float, expected: int) -> None:
    assert quantile(range(count, 0, -1), share) == expected
