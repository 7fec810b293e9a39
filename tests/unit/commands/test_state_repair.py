"""`corlld state repair` without a broker: what it can't mend, and what is lost or must be waited for."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from corlld.cli import main
from corlld.commands import repair_run
from corlld.commands.lacking_records import gather, untold_partitions
from corlld.commands.letter_replay import Outbox
from corlld.commands.repair_findings import Findings, Repair
from corlld.commands.state_repair import look, restore
from corlld.durable import StoreIdentity
from corlld.errors import ExitCode, FatalError
from corlld.events.decoder import EventDecoder
from corlld.events.pseudonyms import Pseudonyms
from corlld.loop.intake import TRY_AGAIN_HEADER
from corlld.loop.transitions import REPAIR_HEADER
from corlld.records import CommittedRecords, Record, SourcePartition, StoredLetter, Tenure
from corlld.settings.sections import EventSettings
from corlld.state.keys import repair_name
from corlld.state.store import LocalFolderStore
from corlld.system.progress import Advance
from tests.support.bad_disk import refuse
from tests.support.commands import SECRET, clear_settings
from tests.support.edits import edit
from tests.support.states import OTHER_UID, UID, released_state


@pytest.mark.parametrize("yes", [[], ["--yes"]])
def test_a_repair_of_a_state_whose_input_is_a_file_says_what_to_do_and_changes_nothing(
    yes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clear_settings(monkeypatch)
    settings = {"SOURCE__KIND": "jsonl", "SOURCE__PATH": tmp_path / "edits.jsonl", "STATE__PATH": tmp_path / "state"}
    for name, value in {**settings, "IDENTITY__SECRET": SECRET}.items():
        monkeypatch.setenv(f"CORLLD_{name}", str(value))
    (tmp_path / "edits.jsonl").touch()
    store = LocalFolderStore(tmp_path / "state")
    store.open(StoreIdentity("f", "jsonl", "jsonl", "m", "r", "a"), must_exist=False)
    token = store.save(UID, released_state(3, applied={"jsonl/0": 30}), "0")
    store.save(UID, released_state(4, applied={"jsonl/0": 40}), token)
    before, torn = sorted((tmp_path / "state" / "users" / UID).iterdir())
    torn.write_bytes(torn.read_bytes()[:100])

    assert main(["state", "repair", *yes]) == ExitCode.DATA
    printed = capsys.readouterr()
    [named] = printed.out.splitlines()
    assert named.startswith(f"{UID}: {torn} can't be used: ")
    assert "generation before" not in named, "the steps say what to do"
    first, *steps = [line for line in printed.err.splitlines() if line.startswith("corlld: ")]
    assert first.startswith("corlld: no state was repaired: corlld reads no line of a file again")
    words = ("stop the daemon", "in place of the damaged", "`applied` byte", "append", "start the daemon")
    for (number, word), step in zip(enumerate(words, 1), steps, strict=True):
        assert step.startswith(f"corlld: {number}. ")
        assert word in step
    assert len(torn.read_bytes()) == 100

    kept = before.read_bytes()
    before.write_bytes(kept[:100])
    assert main(["state", "repair", *yes]) == ExitCode.DATA
    printed = capsys.readouterr()
    [named] = printed.out.splitlines()
    assert named.startswith(f"{UID}: {torn} can't be used: ")
    assert "; the generation before can't be read either: " in named
    assert "; only a backup helps: " in named
    assert "corlld: 5. start the daemon" in printed.err
    before.write_bytes(kept)

    torn.unlink()  # as the sentence says of a folder
    assert main(["state", "show", "--uid", UID]) == ExitCode.OK
    assert "jsonl/0: 30" in capsys.readouterr().out
    assert before.exists()


@pytest.mark.parametrize(
    ("others", "summary"),
    [([], "1 user: can't be repaired"), ([OTHER_UID], "2 users: nothing to repair, 1 can't be repaired")],
)
def test_a_user_who_cannot_be_repaired_is_not_counted_as_sound_and_the_import_names_the_user(
    others: list[str],
    summary: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clear_settings(monkeypatch)
    settings = {"KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "KAFKA__TOPIC": "edits", "STATE__PATH": tmp_path / "state"}
    for name, value in {**settings, "IDENTITY__SECRET": SECRET}.items():
        monkeypatch.setenv(f"CORLLD_{name}", str(value))
    store = LocalFolderStore(tmp_path / "state")
    store.open(StoreIdentity("f", "c", "g", "m", "r", "a"), must_exist=False)
    for uid in (UID, *others):
        store.save(uid, released_state(3, uid=uid), "0")
    [torn] = (tmp_path / "state" / "users" / UID).iterdir()
    torn.write_bytes(torn.read_bytes()[:100])
    assert main(["state", "repair"]) == ExitCode.DATA
    sentence, last = capsys.readouterr().out.splitlines()
    assert f"`corlld state import FOLDER --replace --uid {UID}` takes the state from a backup" in sentence
    assert last == summary


NAMES = Pseudonyms(SECRET)
PLACE = SourcePartition("edits", "topic-id", 0)
ANN = NAMES.uid("ann")


def record(offset: int) -> Record:
    headers = ((TRY_AGAIN_HEADER, b""), ("trace", b"t"))
    return Record(Tenure(PLACE, 0, 0), offset, offset + 1, None, json.dumps(edit(offset)).encode(), headers)


def letter(offset: int, *, payload: bool, uid: str = ANN) -> StoredLetter:
    known = StoredLetter(f"key-{offset}", uid, PLACE, offset, "state_unreadable", {}, has_payload=payload)
    return replace(known, record_value=json.dumps(edit(offset)).encode()) if payload else known


def test_what_the_topic_lacks_is_taken_from_letters_and_those_without_payload_are_counted() -> None:
    findings = Findings({ANN: Repair(ANN, {"topic-id/0": 10})})
    stream = CommittedRecords("topic-id", 5, {}, iter([record(15)]), {0: 20}, {0: 30})
    letters = [
        letter(9, payload=False),  # the generation before has it
        letter(11, payload=True),
        letter(12, payload=False),  # lost
        letter(13, payload=False, uid=NAMES.uid("bob")),  # is not repaired
        letter(15, payload=False),  # the topic has it
        letter(20, payload=False),  # not committed yet: the topic has it
    ]
    decoder = EventDecoder(EventSettings(), supports_messages=True, key_required=False)
    with closing(Outbox()) as outbox:
        lost = gather(findings, stream, letters, decoder, NAMES, outbox, Advance(Console(quiet=True), 1))
        outgoing = list(outbox.records())
    assert lost == Counter({ANN: 1})
    assert [json.loads(value or b"")["event_id"] for _, value, _ in outgoing] == ["ann-11", "ann-15"]
    assert outgoing[1][2] == [("trace", b"t")], "not tried again where it crashed"


def test_what_is_sent_names_its_repair_and_no_earlier_one() -> None:
    sent = replace(record(15), headers=((REPAIR_HEADER, b"earlier"), ("trace", b"t")))
    stream = CommittedRecords("topic-id", 5, {}, iter([sent]), {0: 20}, {0: 30})
    decoder = EventDecoder(EventSettings(), supports_messages=True, key_required=False)
    findings = Findings({ANN: Repair(ANN, {"topic-id/0": 10}, id="ab12")})
    with closing(Outbox()) as outbox:
        gather(findings, stream, [letter(11, payload=True)], decoder, NAMES, outbox, Advance(Console(quiet=True), 1))
        headers = [headers for _, _, headers in outbox.records()]
    assert headers == [[(REPAIR_HEADER, b"ab12")], [("trace", b"t"), (REPAIR_HEADER, b"ab12")]]


@pytest.mark.parametrize(("repairs", "learnt"), [("", [16]), ("other", [16]), ("earlier", [15, 16]), (None, [15, 16])])
def test_what_a_repair_sent_before_an_erasure_is_not_sent_again_by_another(
    repairs: str | None, learnt: list[int]
) -> None:
    """repairs: those that the generation before came of since the user's last erasure."""
    sent = replace(record(15), headers=((REPAIR_HEADER, b"earlier"),))
    stream = CommittedRecords("topic-id", 5, {}, iter([sent, record(16)]), {0: 20}, {0: 30})
    decoder = EventDecoder(EventSettings(), supports_messages=True, key_required=False)
    findings = Findings({ANN: Repair(ANN, {"topic-id/0": 10}, id="ab12", repairs=repairs)})
    with closing(Outbox()) as outbox:
        gather(findings, stream, [], decoder, NAMES, outbox, Advance(Console(quiet=True), 1))
        assert [json.loads(value or b"")["event_id"] for _, value, _ in outbox.records()] == [
            f"ann-{offset}" for offset in learnt
        ]


def test_users_are_taken_out_who_are_in_no_partition_that_is_behind() -> None:
    both = Repair("both", {"t/1": 4, "t/10": 4, "before/0": 9})
    found = Repair("found", {"t/0": 4}, found={"t/2": 5})
    findings = Findings({each.uid: each for each in (Repair("one", {"t/1": 7}), both, found)})
    assert findings.users_by_partition("t") == {0: 1, 1: 2, 2: 1, 10: 1}
    assert findings.take_apart_from({"t/2", "t/10", "before/1"}).repairs.keys() == {"one"}
    assert findings.repairs.keys() == {"both", "found"}
    assert findings.starts == {"t/0": 4, "t/1": 4, "t/2": 5, "t/10": 4, "before/0": 9}
    assert findings.take_apart_from(set()).repairs == {"both": both, "found": found}
    assert findings.repairs == {}


def test_a_partition_that_the_generation_before_lacks_is_waited_for_and_noted_once_it_holds_something_of_the_user(
    tmp_path: Path,
) -> None:
    """Partitions were added: the user's edits came to lie in another one."""
    before = released_state(3, uid=ANN, applied={"topic-id/9": 30})
    findings = Findings({ANN: Repair(ANN, before.applied, before, "0")})
    stream = CommittedRecords("topic-id", 5, {}, iter([record(15), record(16)]), {0: 20}, {0: 30})
    there = replace(letter(40, payload=False), partition=SourcePartition("edits", "topic-id", 1))
    decoder = EventDecoder(EventSettings(), supports_messages=True, key_required=False)
    with closing(Outbox()) as outbox:
        gather(findings, stream, [there], decoder, NAMES, outbox, Advance(Console(quiet=True), 1))
        assert outbox.by_partition == {0: 2}
    places = {"topic-id/9": 30, "topic-id/0": 15, "topic-id/1": 40}
    assert findings.starts == places
    assert not findings.take_apart_from({"topic-id/1"}).repairs
    store = LocalFolderStore(tmp_path / "state")
    store.open(StoreIdentity("f", "c", "g", "m", "r", "a"), must_exist=False)
    assert list(restore(store, findings)) == [ANN]
    assert store.load_position(repair_name(ANN)) == places, "for the next run, if this one is interrupted"


def begins(**beginnings: int) -> CommittedRecords:
    """Return a stream of a topic whose partitions begin at these offsets. By the partitions' names: `p0`."""
    return CommittedRecords("t", 0, {int(name[1:]): offset for name, offset in beginnings.items()}, iter(()), {}, {})


def test_offsets_that_are_gone_are_counted_from_where_a_state_is_known_to_need_them() -> None:
    ann = Repair("ann", {"t/0": 30, "t/1": 8, "before/0": 1}, found={"t/2": 0, "t/3": 90})
    bob = Repair("bob", {"t/2": 40})
    both, one = Findings({"ann": ann, "bob": bob}), Findings({"ann": ann})
    gone = begins(p0=35, p1=8, p2=1_000_000, p3=95, p4=7)
    assert both.missing(gone, {}) == 5 + 0 + 999_960 + 5
    assert one.missing(gone, {}) == 5 + 0 + 0 + 5, "nothing tells since when she is in partition 2"
    assert both.missing(gone, {0: 33, 2: 999_999, 3: 80}) == 2 + 1 + 5


def test_what_is_lost_while_a_repair_waits_is_printed_before_it_sends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = Findings({ANN: Repair(ANN, {"t/0": 10})})
    gathered = [(12, 1), (12, 1), (15, 3), (15, 3)]  # the partition's beginning, and letters without payload
    answers = iter((begins(p0=beginning), Counter({ANN: letters})) for beginning, letters in gathered)
    monkeypatch.setattr(repair_run, "_gather", lambda *_: next(answers))
    for call in ("send_back", "finish"):
        monkeypatch.setattr(repair_run, call, lambda *_: None)
    site: Any = repair_run._Site(*[None] * 4)  # type: ignore[arg-type]
    said = []
    repair_run._look_at_input(site, findings)
    for _ in gathered[1:]:
        said.append(capsys.readouterr().out)
        repair_run._send(site, findings, "t", site)
    said.append(capsys.readouterr().out)
    sent = "partition 0: 1 state repaired, 0 records sent\n"
    assert said[1] == said[3] == sent
    assert [line.split()[:4] for line in said[0].splitlines()] == [
        ["1", "dead", "letter", "without"],
        ["2", "offsets", "between", "the"],
    ]
    assert [line.split()[:4] for line in said[2].splitlines()[:-1]] == [
        ["meanwhile:", "2", "dead", "letters"],
        ["meanwhile:", "3", "offsets", "between"],
    ]


class Looks:
    """An input whose partition 1, which no state names, is committed up to these offsets, look by look."""

    def __init__(self, *committed: int) -> None:
        self.committed = list(committed)

    @contextmanager
    def committed_records(self, *_: object) -> Iterator[CommittedRecords]:
        others = {1: 5} if len(self.committed) > 1 else {1: 9}  # a busy one goes on
        committed = {0: 30, 1: self.committed.pop(0)}
        yield CommittedRecords("t", 0, {}, iter(()), committed, {0: 30}, others)


@pytest.mark.parametrize(("seconds", "looks", "printed"), [(60.0, [3, 4, 5], False), (0.0, [3, 4], True)])
def test_a_partition_that_no_state_names_is_waited_for_a_while_and_then_printed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    looks: list[int],
    printed: bool,
) -> None:
    """A daemon may be setting a user's first record in it aside, by the state from before the repair."""
    the_input = Looks(*looks)
    sent_after: list[int] = []
    monkeypatch.setattr(repair_run, "OTHERS_SECONDS", seconds)
    monkeypatch.setattr(repair_run, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(repair_run, "build_input", lambda *_: the_input)
    monkeypatch.setattr(repair_run, "_send", lambda *_: sent_after.append(len(the_input.committed)) or 1)
    topic: Any = SimpleNamespace(kafka=SimpleNamespace(topic="edits"))
    site = repair_run._Site(topic, *[None] * 3)  # type: ignore[arg-type]
    repair_run._send_what_is_committed(site, Findings({ANN: Repair(ANN, {"t/0": 10})}), None)  # type: ignore[arg-type]
    assert sent_after == [1 if printed else 0]
    sentence = "not committed yet in partitions 1, which no state names: 2 offsets. "
    assert (sentence in capsys.readouterr().out) == printed


@pytest.fixture
def torn(tmp_path: Path) -> tuple[LocalFolderStore, Path]:
    """Return a store, and the newest state of a user, which alone knows partition 1 (and a name with a flipped bit)."""
    store = LocalFolderStore(tmp_path / "state")
    store.open(StoreIdentity("f", "c", "g", "m", "r", "a"), must_exist=False)
    token = store.save(UID, released_state(3, applied={"topic-id/0": 30}), "0")
    store.save(UID, released_state(4, applied={"topic-id/0": 40, "topic-id/1": 7, "topic-id/q": 9}), token)
    return store, max((tmp_path / "state" / "users" / UID).iterdir())


def untold(findings: Findings, *committed: int) -> list[str]:
    stream = CommittedRecords("topic-id", 0, {}, iter(()), dict.fromkeys(committed, 50), {})
    return list(untold_partitions(findings, stream))


def test_a_partition_that_the_torn_state_alone_names_is_read_from_its_beginning(
    torn: tuple[LocalFolderStore, Path],
) -> None:
    store, newest = torn
    newest.write_bytes(newest.read_bytes()[:-3])
    findings = look(store, [UID], Advance(Console(quiet=True), 1))
    assert findings.starts == {"topic-id/0": 30, "topic-id/1": 0}
    assert untold(findings, 0, 1, 2) == []
    assert findings.missing(replace(begins(p0=30, p1=1_000_000), name="topic-id"), {}) == 0


@pytest.mark.parametrize("damage", ["torn", "damaged"])
def test_partitions_are_untold_where_not_even_the_header_can_be_read(
    torn: tuple[LocalFolderStore, Path], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, newest = torn
    if damage == "torn":
        newest.write_bytes(newest.read_bytes()[:100])
    else:
        refuse(monkeypatch, [newest], ["read_bytes", "open"])
    findings = look(store, [UID], Advance(Console(quiet=True), 1))
    assert findings.hopeless == []
    assert findings.starts == {"topic-id/0": 30}
    [sentence] = untold(findings, 0, 1, 2)
    assert sentence.startswith(f"{UID}: not even the header of the state can be read")
    assert "from the 2 partitions that the generation before does not name is not sent" in sentence
    assert untold(findings, 0) == []


def test_commits_are_behind_until_each_partition_with_records_has_reached_its_end() -> None:
    stream = CommittedRecords("topic-id", 0, {}, iter(()), {0: 20, 1: 7}, {})
    assert stream.behind({}) == {}
    assert stream.behind({0: 20, 1: 5}) == {}
    assert stream.behind({1: 9, 0: 21}) == {0: 1, 1: 2}
    assert stream.behind({0: 20, 2: 4}) == {2: 4}, "a partition without a commit"


def test_a_state_that_is_repaired_once_more_keeps_the_id_of_the_repair_before(
    torn: tuple[LocalFolderStore, Path],
) -> None:
    """Else what the first repair sent, and a dead letter of it, would be passed over as if it were erased."""
    store, newest = torn
    for repairs in (0, 1):
        newest.write_bytes(newest.read_bytes()[:-3])
        findings = look(store, [UID], Advance(Console(quiet=True), 1))
        assert len((findings.repairs[UID].repairs or "").split()) == repairs
        assert list(restore(store, findings)) == [UID]
        store.remove_position(repair_name(UID))
        state, token = store.load(UID)
        assert state is not None
        assert len((state.repair or "").split()) == repairs + 1
        store.save(UID, replace(state, version=state.version + 1), token)
        newest = max((newest.parent).iterdir(), key=lambda file: file.name)


def test_a_state_that_something_else_stored_meanwhile_is_not_called_erased(
    torn: tuple[LocalFolderStore, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A daemon of an older corlld drops the repair's id. Its user may have been erased meanwhile, or not."""
    store, newest = torn
    newest.write_bytes(newest.read_bytes()[:-3])
    findings = look(store, [UID], Advance(Console(quiet=True), 1))
    assert list(restore(store, findings)) == [UID]
    state, token = store.load(UID)
    assert state is not None
    store.save(UID, replace(state, repair=None), token)
    site = repair_run._Site(SimpleNamespace(), store, Console(quiet=True), 1.0)  # type: ignore[arg-type]
    repair_run._send(site, findings, "topic-id", None)  # type: ignore[arg-type]
    assert site.overwritten == [UID]
    assert "erased" not in capsys.readouterr().out
    assert store.load_position(repair_name(UID)) is not None, "its note stays"

    site.overwritten.clear()
    monkeypatch.setattr(repair_run, "_Site", lambda *_: site)
    monkeypatch.setattr(repair_run, "_look_at_input", lambda *_: 0)
    monkeypatch.setattr(repair_run, "restore", lambda *_: [])
    monkeypatch.setattr(repair_run, "build_event_producer", lambda *_: SimpleNamespace(close=lambda _: None))
    monkeypatch.setattr(repair_run, "_send_what_is_committed", lambda site, *_: site.overwritten.append(UID))
    settings: Any = SimpleNamespace(operations=SimpleNamespace(startup_timeout_seconds=1.0))
    with pytest.raises(FatalError, match=f"{UID}: an import or an older corlld has stored the state") as raised:
        repair_run.repair(settings, store, findings, yes=True, console=Console(quiet=True))
    assert raised.value.exit_code == ExitCode.DATA
    again = look(store, [UID], Advance(Console(quiet=True), 1))
    assert "an import or an older corlld has stored a state since" in again.stale[UID]
