"""`corlld dead-letters` on a file of letters: counts, single letters, and the way back of those that may go back."""

import io
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from corlld.cli import main
from corlld.commands import letter_replay, letter_selection
from corlld.commands.letter_judgement import Judge, Judged, Verdict
from corlld.commands.letter_views import count, counts_table
from corlld.commands.out_of_reach import IN_A_ROW
from corlld.durable import StoreIdentity, UserState
from corlld.errors import ExitCode, InvalidEvent, InvalidReason, RetriableError
from corlld.events.decoder import EventDecoder
from corlld.events.pseudonyms import Pseudonyms
from corlld.loop.intake import TRY_AGAIN_HEADER
from corlld.records import DeadLetter, Record, SourcePartition, StoredLetter, Tenure
from corlld.settings.sections import DeadLetterSettings, EventSettings
from corlld.sources.letter_file import JsonlDeadLetters
from corlld.state.store import LocalFolderStore
from tests.support.commands import SECRET, clear_settings, fails, row
from tests.support.edits import edit, erasure

NAMES = Pseudonyms(SECRET)
PLACE = SourcePartition("edits", "topic-id", 3)
UNREADABLE, MISSING = InvalidReason.STATE_UNREADABLE, InvalidReason.MISSING_FIELD

Replayed = tuple[int, str, list[Any]]


class Site:
    """A daemon's place: a file of dead letters beside a state store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.letters = folder / "state" / "dead-letters.jsonl"
        self.store = LocalFolderStore(folder / "state")
        self.store.open(StoreIdentity(NAMES.fingerprint, "c", "g", "m", "r", "a"), must_exist=False)

    def set_aside(
        self, offset: int, value: Any, reason: InvalidReason = UNREADABLE, user: str | None = "ann", **more: Any
    ) -> str:
        """Write a letter, and return its key. `value`: an event, or bytes."""
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        record = Record(Tenure(PLACE, 1, 0), offset, offset + 1, None, raw)
        uid = None if user is None else NAMES.uid(user)
        letters = JsonlDeadLetters(self.letters, DeadLetterSettings(**more))
        letters.send(DeadLetter(record, InvalidEvent(reason, field="edited"), uid)).result(10)
        letters.close(1)
        return f"{uid or 'unknown'}/topic-id/3/{offset}"

    def save(self, user: str = "ann", **state: Any) -> None:
        uid = NAMES.uid(user)
        self.store.save(uid, UserState(uid, **state), self.store.load(uid)[1])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    clear_settings(monkeypatch)
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "jsonl")
    monkeypatch.setenv("CORLLD_SOURCE__PATH", str(tmp_path / "edits.jsonl"))
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "state"))
    return Site(tmp_path)


@pytest.fixture
def replay(site: Site, capsys: pytest.CaptureFixture[str]) -> Callable[..., Replayed]:
    """Replay to a new file. Returns the exit code, what was printed, and the events of the file."""

    def run(*arguments: str) -> Replayed:
        file = site.folder / "again.jsonl"
        file.unlink(missing_ok=True)
        capsys.readouterr()
        code = main(["dead-letters", "replay", "--to", str(file), *arguments])
        lines = file.read_bytes().splitlines() if file.exists() else []
        return code, capsys.readouterr().out, [json.loads(line) for line in lines]

    return run


# list


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["dead-letters", "list", "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_letters_are_counted_by_reason_with_their_users_and_a_copy_counts_once(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    for offset, user in ((5, "ann"), (6, "bob"), (7, "ann"), (6, "bob"), (5, "ann")):
        site.set_aside(offset, edit(offset, user), user=user)
    site.set_aside(8, b"no json", InvalidReason.NOT_JSON, user=None, payload=False)
    found = listed(capsys)
    assert (found["letters"], found["copies"], found["foreign"]) == (4, 2, 0)
    assert list(found["reasons"]) == ["state_unreadable", "not_json"]
    unreadable, not_json = found["reasons"].values()
    assert (unreadable["letters"], unreadable["users"], unreadable["users_or_more"]) == (3, 2, False)
    assert (not_json["users"], not_json["without_user"], not_json["without_payload"]) == (0, 1, 1)
    assert unreadable["oldest"] == {"place": "edits-3-5", "stored_at": None}
    assert unreadable["newest"] == {"place": "edits-3-7", "stored_at": None}


@pytest.mark.parametrize("offsets", [(5, 99), (99, 5)])
def test_the_first_and_the_last_letter_are_named_as_show_takes_them(
    site: Site, capsys: pytest.CaptureFixture[str], offsets: tuple[int, int]
) -> None:
    """A file has them as they were stored: no column may call the one with the higher offset the oldest."""
    for offset in offsets:
        site.set_aside(offset, edit(offset))
    assert main(["dead-letters", "list"]) == 0
    table = capsys.readouterr().out
    assert ["reason", "letters", "users", "first", "last"] in [line.split() for line in table.splitlines()]
    letters, users, *places = row(table, "state_unreadable").split()
    assert (letters, users, *places) == ("2", "1", *(f"edits-3-{offset}" for offset in offsets))
    for place in places:
        assert main(["dead-letters", "show", place]) == 0
        assert f"place: {place}\n" in capsys.readouterr().out


def test_a_long_topic_is_cut_nowhere() -> None:
    place = SourcePartition("t" * 249, "topic-id", 3)
    letter = StoredLetter("k", None, place, 99, "not_json", {}, has_payload=False, stored_at=0.0)
    shown = io.StringIO()
    Console(file=shown, width=80).print(counts_table(count([letter])))
    *_, table = shown.getvalue().partition("not_json")
    assert "…" not in table
    assert table.count("t") == 2 * 249  # the first and the last


def test_the_table_holds_no_text_and_no_user_id(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        site.set_aside(5, edit(5, "a-very-private-id", edited="a secret text"), user="a-very-private-id")
    with site.letters.open("a") as file:
        file.write("{}\n")
    assert main(["dead-letters", "list"]) == 0
    out = capsys.readouterr().out
    assert "state_unreadable" in out
    assert f"1 dead letter in file {site.letters} (copies beside them: 1, not of corlld: 1)\n" in out
    assert "private" not in out
    assert "secret text" not in out


def test_a_place_without_letters_is_no_error(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead-letters", "list"]) == 0
    assert capsys.readouterr().out == f"0 dead letters in file {site.letters}\n"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--reason", "missing_field"], 1),
        (["--reason", "missing_field", "--reason", "state_unreadable"], 4),
        (["--user", "bob"], 1),
        (["--uid", NAMES.uid("ann")], 2),
        (["--uid", NAMES.uid("ann")[:12]], 2),
        (["--since", "6"], 3),
        (["--since", "6", "--user", "ann"], 1),
    ],
)
def test_filters_narrow_what_is_counted(
    options: list[str], count: int, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    for offset, user in ((5, "ann"), (6, "bob"), (7, "ann")):
        site.set_aside(offset, edit(offset, user), user=user)
    site.set_aside(8, b"{}", MISSING, user=None)
    assert listed(capsys, *options)["letters"] == count


def test_the_beginning_of_two_pseudonyms_chooses_neither(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 17 users two at least have the same first digit."""
    users = {NAMES.uid(f"user-{number}"): f"user-{number}" for number in range(17)}
    alike = next([one, other] for one in users for other in users if one < other and one[0] == other[0])
    for offset, uid in enumerate(alike):
        site.set_aside(offset, edit(offset, users[uid]), user=users[uid])
    assert main(["dead-letters", "list", "--uid", alike[0][0]]) == ExitCode.USAGE
    said = f"--uid {alike[0][0]}: the pseudonyms of 2 users begin so, {alike[0]}, {alike[1]}: give more digits"
    assert said in capsys.readouterr().err
    assert listed(capsys, "--uid", alike[0][:12])["letters"] == 1


def test_copies_are_known_in_bounded_memory(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_selection, "REMEMBERED_LETTERS", 2)
    for offset in (1, 2, 1, 3, 1):  # at the end the first letter is forgotten
        site.set_aside(offset, edit(offset))
    found = listed(capsys)
    assert (found["letters"], found["copies"]) == (4, 1)


def test_a_time_is_refused_for_a_file_and_nonsense_for_everything(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = fails(capsys, "dead-letters", "list", "--since", "2026-01-31T12:00:00Z")
    assert (code, "have no times" in said) == (ExitCode.USAGE, True)
    with pytest.raises(SystemExit) as ended:
        main(["dead-letters", "list", "--since", "yesterday"])
    assert ended.value.code == ExitCode.USAGE


# show


def test_a_letter_is_shown_by_its_key_or_its_place_without_the_records_bytes(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.set_aside(5, edit(5))
    key = site.set_aside(6, edit(6, edited="a secret text"), MISSING)
    for name in (key, "edits-3-6"):
        assert main(["dead-letters", "show", name]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{key}\n")
        assert "  reason: missing_field\n" in out
        assert "  __connect.errors.exception.message: missing_field: edited\n" in out
        assert "secret" not in out
        assert "edits-3-5" not in out


def test_the_payload_is_shown_on_request_and_can_not_steer_the_terminal(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.set_aside(5, b"\x1b[2J {", InvalidReason.NOT_JSON)
    assert main(["dead-letters", "show", "--payload"]) == 0
    assert "  payload: \\x1b[2J {\n" in capsys.readouterr().out


def test_json_has_a_text_as_it_is_and_other_bytes_in_base64(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.set_aside(5, "né".encode(), InvalidReason.NOT_JSON)
    site.set_aside(6, b"\xff", InvalidReason.NOT_JSON)
    assert main(["dead-letters", "show", "--payload", "--json"]) == 0
    text, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert text["payload"] == "né"
    assert (other["payload_base64"], "payload" in other) == ("/w==", False)
    assert main(["dead-letters", "show", "--json"]) == 0
    assert '"payload' not in capsys.readouterr().out


def test_a_letter_that_is_not_there_is_a_sentence_and_an_exit_code(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.set_aside(5, edit(5))
    code, said = fails(capsys, "dead-letters", "show", "edits-3-6")
    assert code == ExitCode.DATA
    assert said == f"corlld: file {site.letters}: no dead letter matches"


# replay


def test_what_is_valid_today_goes_back_as_it_was_in_the_order_of_the_records(
    site: Site, replay: Callable[..., Replayed]
) -> None:
    for offset in (7, 5, 6):
        site.set_aside(offset, edit(offset))
    code, out, events = replay()
    assert code == 0
    assert events == [edit(5), edit(6), edit(7)]
    assert "3 events of 1 user: written to " in out
    assert stat.S_IMODE((site.folder / "again.jsonl").stat().st_mode) == 0o600


def test_without_a_destination_nothing_is_sent_and_what_would_be_is_printed(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.set_aside(5, edit(5, "a-very-private-id"), user="a-very-private-id")
    site.set_aside(6, erasure("bob"), user="bob")
    before = sorted(site.folder.rglob("*"))
    assert main(["dead-letters", "replay"]) == 0
    out = capsys.readouterr().out
    assert "2 events of 2 users, 1 to erase a user: nothing was sent yet" in out
    assert "private" not in out
    assert sorted(site.folder.rglob("*")) == before


def test_what_is_still_invalid_is_listed_and_the_others_go_back(site: Site, replay: Callable[..., Replayed]) -> None:
    broken = {name: value for name, value in edit(5).items() if name != "edited"}
    key = site.set_aside(5, broken, MISSING)
    bare = site.set_aside(6, edit(6), payload=False)
    site.set_aside(7, edit(7))
    code, out, events = replay()
    assert code == ExitCode.DATA
    assert events == [edit(7)]
    assert f"not sent: {key}: still invalid (missing_field: edited: a text)\n" in out
    assert f"not sent: {bare}: kept without its payload (dead_letters.payload is off)\n" in out
    assert "rises" not in out


def test_what_a_foreign_letter_holds_can_not_steer_the_terminal(site: Site, replay: Callable[..., Replayed]) -> None:
    site.set_aside(5, b"no json", InvalidReason.NOT_JSON)
    site.letters.write_text(site.letters.read_text().replace(NAMES.uid("ann"), "\\u001b[2J"))
    assert "not sent: \\x1b[2J/topic-id/3/5: still invalid" in replay()[1]


def test_no_more_than_a_bounded_number_of_letters_is_listed(
    site: Site, replay: Callable[..., Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_replay, "SHOWN_LETTERS", 2)
    for offset in range(5):
        site.set_aside(offset, b"no json", InvalidReason.NOT_JSON)
    out = replay()[1]
    assert out.count("/topic-id/3/") == 2
    assert "not sent: ... and 3 more\n5 letters: still invalid\nnothing to send\n" in out


def test_filters_choose_what_goes_back(site: Site, replay: Callable[..., Replayed]) -> None:
    site.set_aside(5, edit(5))
    site.set_aside(6, edit(6, "bob"), user="bob")
    site.set_aside(7, edit(7), InvalidReason.TOO_LARGE)
    assert replay("--user", "bob")[2] == [edit(6, "bob")]
    assert replay("--reason", "too_large")[2] == [edit(7)]
    assert replay("--since", "6")[2] == [edit(6, "bob"), edit(7)]


def test_a_file_that_is_there_is_not_touched(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.set_aside(5, edit(5))
    file = site.folder / "mine.jsonl"
    file.write_text("mine")
    code, said = fails(capsys, "dead-letters", "replay", "--to", str(file))
    assert (code, "exists already" in said, file.read_text()) == (ExitCode.USAGE, True, "mine")


def judged(letter: StoredLetter, topic: str | None = "edits") -> Judged | None:
    decoder = EventDecoder(EventSettings(), supports_messages=True, key_required=False)
    return Judge(decoder, NAMES, None, None, topic).judge(letter)


def stored(user: str = "ann", **more: Any) -> StoredLetter:
    known = StoredLetter("key", NAMES.uid(user), PLACE, 5, UNREADABLE, {}, has_payload=True)
    return replace(known, record_value=json.dumps(edit(5, user)).encode(), **more)


@pytest.mark.parametrize("again", [False, True])
def test_a_letter_of_a_crash_goes_back_with_the_header_that_has_it_tried_again(again: bool) -> None:
    mark = (TRY_AGAIN_HEADER, b"")
    found = judged(stored(reason=InvalidReason.CRASHED, record_headers=(("trace", b"t"), mark)[: 1 + again]))
    assert found is not None
    assert found.outgoing is not None
    assert found.outgoing.headers == (("trace", b"t"), mark)
    other = judged(stored(record_headers=(("trace", b"t"),)))
    assert other is not None
    assert other.outgoing is not None
    assert other.outgoing.headers == (("trace", b"t"),)


@pytest.mark.parametrize(
    ("letter", "verdict"),
    [
        (stored(), Verdict.SEND),
        (stored(uid=None), Verdict.SEND),
        (stored(partition=replace(PLACE, topic="tickets")), Verdict.OTHER_TOPIC),
        (stored(uid=Pseudonyms("another secret of 32 characters..").uid("ann")), Verdict.OTHER_IDENTITY),
    ],
)
def test_letters_that_another_deployment_set_aside_are_not_sent(letter: StoredLetter, verdict: Verdict) -> None:
    found = judged(letter)
    assert found is not None
    assert found.verdict is verdict
    assert (found.outgoing is not None) == (verdict is Verdict.SEND)


def test_the_letters_of_a_file_may_be_of_any_file() -> None:
    found = judged(stored(partition=replace(PLACE, topic="other.jsonl")), topic=None)
    assert found is not None
    assert found.verdict is Verdict.SEND


def test_a_state_that_answers_with_an_error_for_ever_keeps_its_own_users_letters_alone() -> None:
    def load_header(uid: str) -> UserState | None:
        if uid == NAMES.uid("ann"):
            raise RetriableError("Input/output error")
        return None

    decoder = EventDecoder(EventSettings(), supports_messages=True, key_required=False)
    judge = Judge(decoder, NAMES, load_header, None, "edits")
    found = [judge.judge(letter) for letter in (*[stored()] * 2 * IN_A_ROW, stored("bob"))]
    *anns, bob = [(each.verdict, each.detail) for each in found if each is not None]
    assert anns == [(Verdict.UNREADABLE, "Input/output error")] * 2 * IN_A_ROW
    assert bob == (Verdict.SEND, "")


def test_a_store_that_is_away_ends_a_replay() -> None:
    def load_header(uid: str) -> UserState | None:
        raise RetriableError("no answer")

    decoder = EventDecoder(EventSettings(), supports_messages=True, key_required=False)
    judge = Judge(decoder, NAMES, load_header, None, "edits")
    letters = [stored(f"user-{number}") for number in range(IN_A_ROW)]
    for letter in letters[:-1]:
        judge.judge(letter)
    with pytest.raises(RetriableError, match="no answer"):
        judge.judge(letters[-1])


def test_a_reason_that_does_not_exist_is_refused_with_those_that_do(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["dead-letters", "list", "--reason", "state_unreadible"])
    assert refused.value.code == ExitCode.USAGE
    err = capsys.readouterr().err
    assert "state_unreadible" in err
    assert all(reason.value in err for reason in InvalidReason)


def test_a_file_is_not_an_input_that_can_be_sent_to(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, "dead-letters", "replay", "--yes")
    assert (code, "--to FILE" in said) == (ExitCode.USAGE, True)


def test_too_many_letters_at_once_are_refused_before_anything_is_written(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_replay, "MAX_LETTERS", 1)
    for offset in (5, 6):
        site.set_aside(offset, edit(offset))
    code, said = fails(capsys, "dead-letters", "replay", "--to", str(site.folder / "again.jsonl"))
    assert (code, "more than 1 letters match" in said) == (ExitCode.USAGE, True)
    assert not (site.folder / "again.jsonl").exists()


def test_a_file_that_can_not_be_written_whole_is_not_left_behind(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.set_aside(5, edit(5))

    def full_disk(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("corlld.commands.letter_replay.os.fsync", full_disk)
    code, said = fails(capsys, "dead-letters", "replay", "--to", str(site.folder / "again.jsonl"))
    assert (code, "No space left" in said) == (ExitCode.CANNOT_WRITE, True)
    assert not (site.folder / "again.jsonl").exists()


# What the states know


def test_what_a_state_has_learnt_is_left_out_by_its_event_id(site: Site, replay: Callable[..., Replayed]) -> None:
    site.set_aside(5, edit(5))
    site.set_aside(6, edit(6))
    site.set_aside(7, edit(7))
    hashed = NAMES.event_id_hash(NAMES.uid("ann"), "ann-7")
    site.save(version=1, applied={PLACE.key: 9}, recent_event_ids=("ann-5",), older_event_ids=hashed)
    code, out, events = replay()
    assert (code, events) == (0, [edit(6)])
    assert "2 letters: learnt already\n" in out


def test_what_was_erased_does_not_come_back_and_what_came_after_the_erasure_does(
    site: Site, replay: Callable[..., Replayed]
) -> None:
    for offset in (5, 8, 9, 12):
        site.set_aside(offset, edit(offset))
    site.set_aside(5, edit(5, "bob"), user="bob")
    site.save(version=1, applied={PLACE.key: 9}, erased=True, erased_through=1)
    code, out, events = replay()
    assert (code, events) == (0, [edit(5, "bob"), edit(9), edit(12)])
    assert "2 letters: older than an erasure" in out


def test_letters_of_another_topic_than_the_erasures_do_not_come_back(
    site: Site, replay: Callable[..., Replayed]
) -> None:
    site.set_aside(5, edit(5))
    site.save(version=1, applied={"another-id/3": 2}, erased=True, erased_through=1)
    assert replay()[2] == []


def test_of_a_user_who_is_back_nothing_from_before_the_states_place_comes_back_but_a_wish_to_be_forgotten(
    site: Site, replay: Callable[..., Replayed]
) -> None:
    site.set_aside(5, edit(5))
    site.set_aside(6, erasure())
    site.set_aside(30, edit(30))
    site.save(version=2, applied={PLACE.key: 20}, erased_through=1)
    assert replay()[2] == [erasure(), edit(30)]


def test_a_user_who_was_never_erased_gets_older_letters_back(site: Site, replay: Callable[..., Replayed]) -> None:
    site.set_aside(5, edit(5))
    site.save(version=2, applied={PLACE.key: 20})
    assert replay()[2] == [edit(5)]


def test_who_asks_for_it_gets_everything_back(site: Site, replay: Callable[..., Replayed]) -> None:
    site.set_aside(5, edit(5))
    site.save(version=1, applied={PLACE.key: 9}, recent_event_ids=("ann-5",), erased=True, erased_through=1)
    assert replay("--include-erased")[2] == [edit(5)]


def test_letters_of_a_user_whose_state_is_still_torn_stay(site: Site, replay: Callable[..., Replayed]) -> None:
    site.set_aside(5, edit(5))
    site.save(version=1)
    (file,) = (site.folder / "state" / "users" / NAMES.uid("ann")).iterdir()
    file.write_bytes(file.read_bytes()[:20])
    code, out, events = replay()
    assert (code, events) == (ExitCode.DATA, [])
    assert "the user's state still can't be read" in out


def test_without_a_store_nobody_knows_what_was_erased(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.set_aside(5, edit(5))
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__PATH", str(site.letters))
    monkeypatch.setenv("CORLLD_STATE__PATH", str(site.folder / "elsewhere"))
    code, said = fails(capsys, "dead-letters", "replay")
    assert (code, "--include-erased" in said) == (ExitCode.DATA, True)
    assert main(["dead-letters", "replay", "--include-erased"]) == 0


def test_a_store_of_another_secret_is_refused(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET + "!")
    assert fails(capsys, "dead-letters", "replay")[0] == ExitCode.CONFIGURATION


# Repaired events


def repaired(site: Site, *lines: Any) -> str:
    file = site.folder / "repaired.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def test_a_repaired_event_takes_the_place_of_its_letter_and_no_other_letter_goes_back(
    site: Site, replay: Callable[..., Replayed]
) -> None:
    site.set_aside(5, edit(5, edited=None), MISSING, user=None)
    site.set_aside(6, edit(6))
    key = site.set_aside(7, b"no json", InvalidReason.NOT_JSON)
    file = repaired(site, {"key": key, "event": edit(7)}, edit(5))
    code, _, events = replay("--repaired", file)
    assert (code, events) == (0, [edit(5), edit(7)])


def test_a_repair_finds_the_letter_of_its_own_user_where_two_have_the_same_event_id(
    site: Site, replay: Callable[..., Replayed]
) -> None:
    for offset, user in ((5, "ann"), (6, "bob")):
        site.set_aside(offset, edit(1, user, event_id="one", edited=None), MISSING, user=None)
    fixed = [edit(1, user, event_id="one") for user in ("bob", "ann")]
    assert replay("--repaired", repaired(site, *fixed))[2] == [fixed[1], fixed[0]]


def test_a_repair_goes_through_a_pipe_too(
    site: Site, replay: Callable[..., Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.set_aside(5, edit(5, edited=None), MISSING)
    with (site.folder / "pipe.jsonl").open("w+b") as pipe:
        pipe.write(json.dumps(edit(5)).encode())
        pipe.seek(0)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(pipe))
        assert replay("--repaired", "-")[2] == [edit(5)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"event": edit(5), "key": "KEY", "more": 1}, "line 1: missing_field: event_id"),
        ({"event": edit(5), "key": 5}, "line 1: invalid_field: key"),
        ({"event": {}, "key": "KEY"}, "line 1: missing_field: event_id"),
        ({"event": edit(6), "key": "KEY"}, "line 1: its event id is not the letter's"),
        ({"event": edit(5, "bob", event_id="ann-5"), "key": "KEY"}, "line 1: its user is not the letter's"),
        (edit(6), "no letter belongs to line 1"),
        (edit(5, "bob", event_id="ann-5"), "no letter belongs to line 1"),
    ],
)
def test_a_repair_that_is_wrong_or_belongs_to_no_letter_stops_all(
    line: dict[str, Any], said: str, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    key = site.set_aside(5, edit(5, edited=None), MISSING)
    line = line | {"key": key} if line.get("key") == "KEY" else line
    file = site.folder / "again.jsonl"
    code, sentence = fails(capsys, "dead-letters", "replay", "--to", str(file), "--repaired", repaired(site, line))
    assert (code, said in sentence, file.exists()) == (ExitCode.DATA, True, False), sentence


def test_a_repaired_event_of_a_user_who_was_erased_does_not_bring_the_user_back(
    site: Site, replay: Callable[..., Replayed]
) -> None:
    site.set_aside(5, edit(5, edited=None), MISSING)
    site.save(version=1, applied={PLACE.key: 9}, erased=True, erased_through=1)
    assert replay("--repaired", repaired(site, edit(5)))[2] == []
