"""`corlld state show` prints what is stored, and says so if it can't be read."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from corlld.commands.state_views import show_states
from corlld.durable import EditedRise, StoreIdentity
from corlld.errors import ExitCode, FatalError, RetriableError
from corlld.state.store import LocalFolderStore
from tests.support.states import OTHER_UID, PARTICIPATION, UID, released_state, tombstone

IDENTITY = StoreIdentity("f", "c", "g", "m", "r", "a")


@pytest.fixture
def store(tmp_path: Path) -> LocalFolderStore:
    opened = LocalFolderStore(tmp_path)
    opened.open(IDENTITY, must_exist=False)
    state = released_state(3, participation=PARTICIPATION)
    opened.save(UID, replace(state, statistics=replace(state.statistics, edited_rise=EditedRise(3, 0.12))), "0")
    opened.save(OTHER_UID, replace(tombstone(5, OTHER_UID), older_event_ids=bytes(24)), "0")
    return LocalFolderStore(tmp_path)  # as the command has it: not opened


def shown(store: LocalFolderStore, uid: str | None) -> str:
    text = io.StringIO()
    assert show_states(store, uid, as_json=False, console=Console(file=text, width=140)) == ExitCode.OK
    return text.getvalue()


def test_one_user_is_shown_whole(store: LocalFolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_states(store, UID, as_json=True, console=Console()) == ExitCode.OK
    row = json.loads(capsys.readouterr().out)
    assert (row["uid"], row["version"], row["published"], row["erased"]) == (UID, 3, 3, False)
    assert row["applied"] == {"topic-id/0": 30, "topic-id/3": 7}
    assert row["recent_event_ids"] == ["event-one", "ünï", "e3"]
    assert row["statistics"]["rejected"] == {"too_long": 1}
    assert row["arm"] == "imitating"
    assert row["accuracy"] == 2.5 / 4
    assert row["mean_margin_nats"] == (0.1 + 0.2) / 4
    assert row["mean_edited_rise_nats"] == 0.12 / 3
    assert row["base_accuracy"] == 1.0 / 2
    assert row["edit_ratio"] == (1 / 3 + 0.25) / 4


def test_one_user_is_shown_for_people_and_whole_only_as_json(store: LocalFolderStore) -> None:
    text = shown(store, UID)
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert lines == {
        "uid": UID,
        "version": "3",
        "published": "3",
        "arm": "imitating",
        "applied": "topic-id/0: 30, topic-id/3: 7",
        "recent_event_ids": "3",
        "older_event_ids": "0",
        "events": "7",
        "pairs_applied": "4",
        "acceptances": "1",
        "no_difference": "1",
        "rejected": "too_long: 1",
        "updates": "2",
        "accuracy": "0.625",
        "mean_margin_nats": "0.075",
        "mean_edited_rise_nats": "0.040",
        "base_accuracy": "0.500",
        "edit_ratio": "0.146",  # (1 / 3 + 1 / 4) / 4
        "first_drafts_repetition": "0.175",
    }
    starts = {line.index(lines[line.split()[0]], len(line.split()[0])) for line in text.splitlines()}
    assert len(starts) == 1, "values stand in one column"


def test_what_a_user_does_not_have_has_no_line(store: LocalFolderStore) -> None:
    lines = dict(line.split(maxsplit=1) for line in shown(store, OTHER_UID).splitlines())
    assert lines["erased"] == "yes"
    assert not {"arm", "start_adapter", "accuracy", "edit_ratio", "rejected", "statistics"}.intersection(lines)
    assert "None" not in lines.values()
    store.open(IDENTITY, must_exist=True)
    state, revision = store.load(UID)
    assert state is not None
    store.save(UID, replace(state, version=4, release=None), revision)
    assert ["published", "nothing", "yet"] in [line.split() for line in shown(store, UID).splitlines()]


def test_the_hashes_of_older_event_ids_are_counted(store: LocalFolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_states(store, None, as_json=True, console=Console()) == ExitCode.OK
    assert [row["older_event_ids"] for row in json.loads(capsys.readouterr().out)] == [0, 3]


def test_everyone_is_shown_a_line_each(store: LocalFolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(store, None).splitlines()
    assert [line for line in lines if UID in line and "0.62" in line and "+0.040" in line]  # 2.5 of 4 pairs; .12 / 3
    assert [line for line in lines if OTHER_UID in line and "erased" in line]
    show_states(store, None, as_json=True, console=Console())
    assert [row["uid"] for row in json.loads(capsys.readouterr().out)] == [UID, OTHER_UID]


@pytest.mark.parametrize("width", [80, 100, 120, 140])
def test_a_list_of_users_fits_the_terminal_and_cuts_no_cell(
    store: LocalFolderStore, tmp_path: Path, width: int
) -> None:
    """Of a user with many edits, an erased one, and one whose state can't be read."""
    store.open(IDENTITY, must_exist=True)
    state, revision = store.load(UID)
    assert state is not None
    many = replace(state.statistics, events=1_234_567, pairs_applied=1_000_000, rejected={"drift": 12_345})
    store.save(UID, replace(state, version=123_456, statistics=many), revision)
    store.save("f" * 32, tombstone(1, "f" * 32), "0")
    [torn] = (tmp_path / "users" / ("f" * 32)).iterdir()
    torn.write_bytes(b"")
    text = io.StringIO()
    show_states(store, None, as_json=False, console=Console(file=text, width=width))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text.getvalue()
    words = text.getvalue().split()
    is_wide = width == 140
    assert (UID in words, UID[:12] in words) == (is_wide, not is_wide)
    assert {"123456", "1234567", "12345", "+0.040", "erased", "unreadable"} <= set(words)
    assert ("1000000" in words) == is_wide
    assert ("--json" in words) == (not is_wide), "where the rest is"


def test_an_unreadable_state_is_said_and_fails(store: LocalFolderStore, tmp_path: Path) -> None:
    [file] = (tmp_path / "users" / UID).iterdir()
    file.write_bytes(file.read_bytes()[:40])
    for uid in (UID, None):
        text = io.StringIO()
        assert show_states(store, uid, as_json=False, console=Console(file=text, width=140)) == ExitCode.DATA
        assert "unreadable" in text.getvalue()


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data + b"0"], ids=["torn", "longer"])
def test_a_state_that_is_damaged_behind_its_header_does_not_look_sound_in_the_list(
    store: LocalFolderStore, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    [file] = (tmp_path / "users" / UID).iterdir()
    file.write_bytes(damage(file.read_bytes()))
    text = io.StringIO()
    assert show_states(store, None, as_json=False, console=Console(file=text, width=140)) == ExitCode.DATA
    assert [line.split() for line in text.getvalue().splitlines() if UID in line] == [[UID, "unreadable"]]
    assert store.load_header(UID) is not None, "a repair looks at the header of a torn state"


@pytest.mark.parametrize(("uid", "code"), [("0" * 32, ExitCode.DATA), ("../../etc", ExitCode.USAGE)])
def test_a_user_who_is_not_there_is_a_sentence_and_an_exit_code(
    store: LocalFolderStore, uid: str, code: ExitCode
) -> None:
    with pytest.raises(FatalError) as caught:
        show_states(store, uid, as_json=False, console=Console())
    assert caught.value.exit_code == code


def test_a_folder_that_is_no_store_is_not_shown_as_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(RetriableError, match="not a state store"):
        show_states(LocalFolderStore(tmp_path / "nowhere"), None, as_json=True, console=Console())


def test_looking_changes_nothing(store: LocalFolderStore, tmp_path: Path) -> None:
    """A reader may have no right to write, and must not tidy up behind a daemon."""
    left_over = tmp_path / "temporary" / f"{OTHER_UID}-left"
    left_over.write_bytes(b"")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    shown(store, OTHER_UID)
    shown(store, None)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
