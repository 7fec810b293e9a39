"""A state of every format that was ever released is read with all that is in it, and written in today's."""

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from corlld.adapters.tensor_file import header_end, read_tensors, write_tensors
from corlld.durable import AdapterHeader, DraftFigures, UserState
from corlld.errors import StateUnreadable
from corlld.state import store_format
from corlld.state.migrations import STEPS, migrated
from corlld.state.snapshot import CHECKSUM_KEY, STATE_KEY, _checksum, decode, decode_header, encode
from corlld.state.store_identity import identity_of, raised_identity_file
from tests.support import format_1
from tests.support.states import same_state

NOT_OF_THE_STATE = {"uid", "write_id"}  # asked for by whoever reads, and by whoever wrote the file


def text_of(data: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(read_tensors(data)[0][STATE_KEY])
    return fields


def state_of(fields: dict[str, Any]) -> UserState:
    """Return the state whose text has these fields, and the tensors of the released state of format 1."""
    _, tensors = read_tensors(format_1.state_file("released"))
    text = json.dumps(fields)
    return decode(write_tensors(tensors, {STATE_KEY: text, CHECKSUM_KEY: _checksum(text, tensors)}), fields["uid"])


@pytest.mark.parametrize("name", format_1.STATES)
def test_a_state_of_format_1_is_read_with_all_its_values_and_written_in_todays_format(name: str) -> None:
    data, state = format_1.state_file(name), format_1.STATES[name]
    assert text_of(data)["format"] == 1
    assert same_state(decode(data, state.uid), state)
    adapter = None if state.adapter is None else AdapterHeader(state.adapter.optimizer_step, state.adapter.start)
    assert decode_header(data[: header_end(data)], state.uid) == replace(state, adapter=adapter)
    again = encode(decode(data, state.uid))
    assert text_of(again)["format"] == store_format.FORMAT
    assert same_state(decode(again, state.uid), state)


@pytest.mark.parametrize("name", format_1.STATES)
def test_a_migration_gives_exactly_the_fields_that_are_written_today_and_changes_nothing_in_place(name: str) -> None:
    fields = text_of(format_1.state_file(name))
    before = copy.deepcopy(fields)
    assert migrated(fields) == text_of(encode(format_1.STATES[name]))
    assert fields == before


def test_each_format_has_a_step_to_the_next_one() -> None:
    assert list(STEPS) == list(range(1, store_format.FORMAT))


def test_a_state_of_before_there_were_figures_of_repetition_is_read_and_its_next_drafts_are_the_first() -> None:
    def older(statistics: dict[str, Any]) -> dict[str, Any]:
        drafts = {
            name: {field: figure for field, figure in figures.items() if field != "repetition_sum"}
            for name, figures in statistics["drafts"].items()
        }
        return {name: figure for name, figure in statistics.items() if name != "first_drafts"} | {"drafts": drafts}

    fields = text_of(format_1.state_file("released"))
    fields["statistics"] = older(fields["statistics"])
    fields["release"]["statistics"] = older(fields["release"]["statistics"])
    assert "repetition" not in json.dumps(fields)
    for figures in (migrated(fields)["statistics"], migrated(fields)["release"]["statistics"]):
        assert figures["drafts"]["0"] == asdict(DraftFigures(3, 1, 1 / 3, 0.0))
        assert figures["first_drafts"] == asdict(DraftFigures())
    statistics = state_of(fields).statistics
    assert statistics.first_drafts == DraftFigures()
    assert statistics.drafts["0"] == DraftFigures(3, 1, 1 / 3, 0.0)
    whole = format_1.STATES["released"].statistics
    assert replace(statistics, drafts={}) == replace(whole, drafts={}, first_drafts=DraftFigures())


@pytest.mark.parametrize("field", sorted(text_of(encode(format_1.STATES["released"])).keys() - NOT_OF_THE_STATE))
def test_a_state_of_todays_format_without_one_of_its_fields_is_unreadable_and_never_filled_up(field: str) -> None:
    fields = text_of(encode(format_1.STATES["released"]))
    del fields[field]
    with pytest.raises(StateUnreadable, match="its header is corrupt"):
        state_of(fields)


@pytest.mark.parametrize("number", [0, -1, "1", None, 1.5])
def test_a_number_that_no_format_has_is_refused(number: object) -> None:
    with pytest.raises(StateUnreadable, match="format that this version of corlld does not know"):
        state_of({**text_of(format_1.state_file("released")), "format": number})


def test_a_relative_base_model_of_an_older_version_is_read_as_the_daemon_compares_it() -> None:
    content = json.loads(format_1.STORE_FILE) | {"base_model": "./models/tiny"}
    found = identity_of(json.dumps(content).encode(), where="store.json")
    assert found.base_model == str(Path("models/tiny").absolute())


def test_the_store_file_of_format_1_is_read_and_raised_with_all_that_is_in_it() -> None:
    assert identity_of(format_1.STORE_FILE, where="store.json") == format_1.IDENTITY
    raised = raised_identity_file(format_1.STORE_FILE, format_1.IDENTITY)
    assert raised is not None
    assert json.loads(raised) == {**json.loads(format_1.STORE_FILE), "format": store_format.FORMAT}
    assert raised_identity_file(raised, format_1.IDENTITY) is None
