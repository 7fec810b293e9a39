"""`corlld state export|import|verify`: copies are stores, nobody erased comes back, and what is wrong is named."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from corlld.cli import main
from corlld.commands.copied_state import Copied, CopiedStore
from corlld.commands.out_of_reach import IN_A_ROW
from corlld.commands.repair_notes import finish
from corlld.commands.state_copies import copy_notes, copy_positions, copy_states, open_copy
from corlld.commands.state_repair import Findings, Repair, look, restore
from corlld.commands.state_verify import verify
from corlld.commands.state_views import show_states
from corlld.durable import Head, ModelInfo, OutboxNote, Statistics, StoreIdentity, UserState
from corlld.errors import ConfigurationError, ExitCode, FatalError, RetriableError, StateUnreadable
from corlld.publishing.folder import FolderTarget
from corlld.publishing.peft_format import adapter_files
from corlld.state.object_store import ObjectStore
from corlld.state.store import LocalFolderStore
from corlld.state.store_format import FORMAT
from corlld.system.progress import Advance
from tests.support import format_1
from tests.support.commands import clear_settings
from tests.support.daemon_parts import PSEUDONYMS
from tests.support.event_ids import event_ids
from tests.support.s3 import new_bucket_name, s3_server
from tests.support.states import OTHER_UID, SMALL_LAYOUT, UID, released_state, same_state, tombstone

MODEL = ModelInfo("served/name", "r1", "fingerprint", supports_messages=False)
IDENTITY = StoreIdentity("f", "c", "g", "m", "r", "a")


def advance() -> Advance:
    return Advance(Console(file=io.StringIO()), 1)


def copied(source: CopiedStore, destination: CopiedStore, *, others: bool = False) -> dict[Copied, int]:
    open_copy(source, destination, where="here")
    uids = list(source.uids())  # type: ignore[attr-defined]
    counts, left = copy_states(
        source, destination, uids, advance(), replace_others=others, hashed=PSEUDONYMS.event_id_hash
    )
    copy_positions(source, destination)
    assert len(left) == sum(n for outcome, n in counts.items() if outcome not in (Copied.COPIED, Copied.ALREADY_THERE))
    return dict(counts)


@pytest.fixture(params=["folder", "bucket"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CopiedStore]:
    if request.param == "folder":
        yield LocalFolderStore(tmp_path / "other")
        return
    with s3_server():
        yield ObjectStore(f"s3://{new_bucket_name()}/states")


@pytest.fixture
def source(tmp_path: Path) -> LocalFolderStore:
    store = LocalFolderStore(tmp_path / "source")
    store.open(IDENTITY, must_exist=False)
    store.save(UID, released_state(3), "0")
    store.save(OTHER_UID, tombstone(5, OTHER_UID), "0")
    store.save_position("ab12", {"offset": 7})
    return store


def test_a_copy_holds_every_state_bit_for_bit_and_comes_back_alike(
    source: LocalFolderStore, other: CopiedStore, tmp_path: Path
) -> None:
    assert copied(source, other) == {Copied.COPIED: 2}
    assert other.identity() == IDENTITY
    assert other.load_position("ab12") == {"offset": 7}
    back = LocalFolderStore(tmp_path / "back")
    assert copied(other, back) == {Copied.COPIED: 2}
    for uid in (UID, OTHER_UID):
        first, last = (Path(tmp_path, name, "users", uid, f"{1:012d}.safetensors") for name in ("source", "back"))
        assert first.read_bytes() == last.read_bytes()
    assert copied(other, back) == {Copied.ALREADY_THERE: 2}


def test_who_is_still_to_be_announced_is_so_in_the_copy_once(source: LocalFolderStore, other: CopiedStore) -> None:
    note = OutboxNote(7.5, (UID, OTHER_UID))
    source.outbox.add(note)
    for _ in range(2):
        copied(source, other)
        assert copy_notes(source, other) == []
    assert [other.outbox.read(name) for name in other.outbox.names()] == [note]


def test_a_store_from_before_the_outbox_has_no_notes_and_a_corrupt_note_is_named(
    source: LocalFolderStore, other: CopiedStore, tmp_path: Path
) -> None:
    [name] = [source.outbox.add(OutboxNote(7.5, (UID,)))]
    note = tmp_path / "source/outbox" / f"{name}.json"
    note.write_bytes(b"{")
    copied(source, other)
    [problem] = copy_notes(source, other)
    assert name in problem
    note.unlink()
    note.parent.rmdir()
    assert copy_notes(source, other) == []


def test_a_repair_that_was_interrupted_goes_on_in_its_own_store_alone(
    source: LocalFolderStore, other: CopiedStore
) -> None:
    assert list(restore(source, Findings({UID: Repair(UID, {"topic-id/0": 5}, released_state(2), "1")}))) == [UID]
    copied(source, other)
    assert list(other.position_names()) == ["ab12"]
    assert look(source, [UID, OTHER_UID], advance()).starts == {"topic-id/0": 5}
    finish(source, [UID])
    assert not look(source, [UID], advance()).repairs


def test_who_was_erased_since_the_copy_is_not_brought_back(source: LocalFolderStore, other: CopiedStore) -> None:
    copied(source, other)
    source.save(UID, replace(tombstone(3), uid=UID), "1")
    assert copied(other, source, others=True) == {Copied.ERASED_THERE: 1, Copied.ALREADY_THERE: 1}
    state, _ = source.load(UID)
    assert state is not None
    assert state.erased


@pytest.mark.parametrize("version", [0, 3])
def test_what_was_erased_since_the_copy_is_not_brought_back_though_the_user_came_back(
    source: LocalFolderStore, other: CopiedStore, version: int
) -> None:
    ids = event_ids(recent=100)
    backup = ids.remember(replace(released_state(version), version=version), ["learnt-1", "learnt-2"])
    source.save(UID, backup, "1")
    copied(source, other)
    back = ids.remember(replace(ids.erase(backup, ["erasure"]), erased_through=version, adapter=None), ["new"])
    source.save(UID, back, "2")
    for others in (False, True):
        assert copied(other, source, others=others) == {Copied.ERASED_THERE: 1, Copied.ALREADY_THERE: 1}
    assert source.load(UID)[0] == back


def test_a_user_without_a_version_who_was_never_erased_is_brought_back(
    source: LocalFolderStore, other: CopiedStore
) -> None:
    ids = event_ids(recent=100)
    backup = ids.remember(UserState(UID), ["old"])
    source.save(UID, backup, "1")
    copied(source, other)
    source.save(UID, ids.remember(backup, ["new"]), "2")
    assert copied(other, source, others=True) == {Copied.COPIED: 1, Copied.ALREADY_THERE: 1}
    assert source.load(UID)[0] == backup


def test_another_state_is_kept_unless_asked_and_versions_never_go_back(
    source: LocalFolderStore, other: CopiedStore
) -> None:
    copied(source, other)
    source.save(UID, released_state(9), "1")
    assert copied(other, source) == {Copied.KEPT: 1, Copied.ALREADY_THERE: 1}
    assert copied(other, source, others=True) == {Copied.COPIED: 1, Copied.ALREADY_THERE: 1}
    state, _ = source.load(UID)
    assert state is not None
    assert state.version == 9, "the next version is above all that were out"
    assert state.release is None
    assert state.applied == released_state(3).applied


def test_an_unreadable_state_is_named_and_the_others_are_copied(
    source: LocalFolderStore, other: CopiedStore, tmp_path: Path
) -> None:
    [file] = (tmp_path / "source/users" / UID).iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert copied(source, other) == {Copied.UNREADABLE: 1, Copied.COPIED: 1}


@pytest.fixture
def live(source: LocalFolderStore, other: CopiedStore) -> CopiedStore:
    """A copy of the source, to be written to."""
    copied(source, other)
    return other


def tear(store: CopiedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have UID's newest state be unreadable until it is written again, whatever kind of store it is."""
    load, token = store.load, store.newest_token(UID)

    def torn(uid: str) -> tuple[UserState | None, str]:
        if uid == UID and store.newest_token(UID) == token:
            raise StateUnreadable("torn")
        return load(uid)

    monkeypatch.setattr(store, "load", torn)


def test_an_import_writes_over_a_torn_state_if_it_is_asked_to(
    source: LocalFolderStore, live: CopiedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tear(live, monkeypatch)
    [advice] = look(live, [UID], advance()).hopeless  # type: ignore[arg-type]
    assert f"`corlld state import FOLDER --replace --uid {UID}` takes the state from a backup" in advice
    assert copied(source, live) == {Copied.UNREADABLE_THERE: 1, Copied.ALREADY_THERE: 1}
    assert copied(source, live, others=True) == {Copied.COPIED: 1, Copied.ALREADY_THERE: 1}
    state, _ = live.load(UID)
    assert state is not None
    assert same_state(state, released_state(3))
    assert live.previous(UID)[0] is None


def test_an_import_over_a_torn_state_heeds_the_generation_before_it(
    source: LocalFolderStore, live: CopiedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = live.save(UID, replace(released_state(5), erased_through=3), live.newest_token(UID))
    live.save(UID, released_state(6), token)
    tear(live, monkeypatch)
    assert copied(source, live, others=True) == {Copied.ERASED_THERE: 1, Copied.ALREADY_THERE: 1}


def test_an_import_over_a_torn_state_numbers_it_as_the_generation_before(
    source: LocalFolderStore, live: CopiedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = live.save(UID, released_state(5), live.newest_token(UID))
    live.save(UID, released_state(6), token)
    tear(live, monkeypatch)
    assert copied(source, live, others=True) == {Copied.COPIED: 1, Copied.ALREADY_THERE: 1}
    state, _ = live.load(UID)
    assert state is not None
    assert (state.version, state.release) == (5, None)


def came_back(version: int, erased_through: int, backup: UserState) -> tuple[UserState, UserState]:
    """The tombstone of an erasure after the backup, and the user who came back since."""
    ids = event_ids(recent=100)
    erased = replace(ids.erase(backup, ["erasure"]), adapter=None, release=None, erased=True, statistics=Statistics())
    erased = replace(erased, erased_through=erased_through, applied={"topic-id/0": 50})
    back = replace(released_state(version), version=version, erased_through=erased_through, applied={"topic-id/0": 60})
    return erased, ids.remember(replace(back, recent_event_ids=(), older_event_ids=erased.older_event_ids), ["new"])


@pytest.mark.parametrize("version", [0, 3], ids=["before the first version", "version 3"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_copy_that_is_brought_up_to_date_keeps_nothing_of_what_was_erased_meanwhile(
    source: LocalFolderStore, other: CopiedStore, version: int, interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = event_ids(recent=100).remember(replace(released_state(version), version=version), ["learnt"])
    source.save(UID, backup, "1")
    copied(source, other)
    erased, back = came_back(version + 1 if version else 0, version, backup)
    source.save(UID, back, source.save(UID, erased, "2"))
    if interrupted:
        with monkeypatch.context() as patch:
            patch.setattr("corlld.commands.copied_state._forget_erased", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                copied(source, other, others=True)
    outcome = Copied.ALREADY_THERE if interrupted else Copied.COPIED
    assert copied(source, other, others=True)[outcome] >= 1
    for state in (other.load(UID)[0], other.previous(UID)[0]):
        assert state is not None
        assert same_state(state, back)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_copy_of_a_tombstone_is_brought_up_to_date_once_the_user_came_back(
    source: LocalFolderStore, other: CopiedStore
) -> None:
    backup = event_ids(recent=100).remember(released_state(3), ["learnt"])
    erased, back = came_back(4, 3, backup)
    token = source.save(UID, erased, "1")
    copied(source, other)
    source.save(UID, back, token)
    assert copied(source, other, others=True) == {Copied.COPIED: 1, Copied.ALREADY_THERE: 1}
    state, _ = other.load(UID)
    assert state is not None
    assert same_state(state, back)


def test_an_older_tombstone_over_a_newer_state_withdraws_all_that_were_out(
    source: LocalFolderStore, other: CopiedStore
) -> None:
    source.save(UID, tombstone(3, UID), "1")
    copied(source, other)
    source.save(UID, replace(released_state(5), erased_through=3), "2")
    assert copied(other, source, others=True) == {Copied.COPIED: 1, Copied.ALREADY_THERE: 1}
    state, _ = source.load(UID)
    assert state is not None
    assert (state.erased, state.version, state.erased_through) == (True, 5, 5)


def test_a_note_on_a_user_who_got_an_older_state_does_not_announce_an_erasure(
    source: LocalFolderStore, live: CopiedStore
) -> None:
    source.outbox.add(OutboxNote(7.5, (UID,)))
    live.save(UID, released_state(5), live.newest_token(UID))
    assert copied(source, live, others=True)[Copied.COPIED] == 1
    assert copy_notes(source, live) == []
    assert live.head(UID) == Head(5, erased=False)  # type: ignore[attr-defined]


def test_a_corrupt_note_at_the_destination_keeps_no_note_from_being_copied(
    source: LocalFolderStore, tmp_path: Path
) -> None:
    there = LocalFolderStore(tmp_path / "there")
    copied(source, there)
    name = there.outbox.add(OutboxNote(1.5, (OTHER_UID,)))
    (tmp_path / "there/outbox" / f"{name}.json").write_bytes(b"{")
    note = OutboxNote(7.5, (UID,))
    added = source.outbox.add(note)
    unread = source.outbox.add(OutboxNote(8.5, (UID,)))
    (tmp_path / "source/outbox" / f"{unread}.json").unlink()
    (tmp_path / "source/outbox" / f"{unread}.json").mkdir()  # it answers with an error for ever
    [problem] = copy_notes(source, there)
    assert "Is a directory" in problem
    assert [there.outbox.read(each) for each in there.outbox.names() if each != name] == [note]
    assert source.outbox.read(added) == note


# --- out of reach -----------------------------------------------------------------------------------------------------


def fail_for(uids: Sequence[str], store: CopiedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have these users' states answer with an error for ever."""
    for name in ("load", "load_header"):
        read = getattr(store, name)

        def failing(uid: str, read: Callable[..., object] = read, **options: bool) -> object:
            if uid in uids:
                raise RetriableError("Input/output error")
            return read(uid, **options)

        monkeypatch.setattr(store, name, failing)


def test_a_state_that_answers_with_an_error_for_ever_is_one_users_trouble(
    source: LocalFolderStore, other: CopiedStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_for([UID], source, monkeypatch)
    uids = [UID, OTHER_UID]
    assert verify(source, None, uids, advance()).problems == [f"{UID}: Input/output error"]
    assert look(source, uids, advance()).hopeless == [f"{UID}: Input/output error"]
    assert show_states(source, None, as_json=True, console=Console()) == ExitCode.DATA
    assert "Input/output error" in capsys.readouterr().out
    assert copied(source, other) == {Copied.OUT_OF_REACH: 1, Copied.COPIED: 1}


def test_a_destination_that_cannot_take_one_user_takes_the_others(
    source: LocalFolderStore, live: CopiedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_for([UID], live, monkeypatch)
    assert copied(source, live, others=True) == {Copied.OUT_OF_REACH: 1, Copied.ALREADY_THERE: 1}


def test_a_state_that_cannot_be_written_is_hopeless_and_the_others_are_restored(
    source: LocalFolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore_one = source.restore

    def failing(uid: str, state: UserState, token: str) -> str:
        if uid == UID:
            raise RetriableError("Input/output error")
        return restore_one(uid, state, token)

    monkeypatch.setattr(source, "restore", failing)
    repairs = {uid: Repair(uid, {}, replace(released_state(2), uid=uid), "1") for uid in (UID, OTHER_UID)}
    findings = Findings(dict(repairs))
    assert list(restore(source, findings)) == [OTHER_UID]
    assert findings.hopeless == [f"{UID}: Input/output error"]
    assert list(findings.repairs) == [OTHER_UID]
    with pytest.raises(RetriableError):
        list(restore(source, Findings({UID: repairs[UID]})))


@pytest.mark.parametrize("number", [1, 2, IN_A_ROW])
def test_a_store_that_is_away_ends_the_command_at_the_latest_after_some_users(
    source: LocalFolderStore, other: CopiedStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    uids = [f"{each:032x}" for each in range(number)]
    fail_for(uids, source, monkeypatch)
    tried = [] if number < IN_A_ROW else [OTHER_UID]  # whoever can be read before or after makes no difference
    open_copy(source, other, where="here")
    for command in (
        lambda: verify(source, None, [*tried, *uids], advance()),
        lambda: look(source, [*tried, *uids], advance()),
        lambda: copy_states(source, other, [*tried, *uids], advance(), replace_others=False, hashed=None),
    ):
        with pytest.raises(RetriableError, match="Input/output error"):
            command()


def test_a_store_of_format_1_is_copied_into_todays_format_and_stays_as_it_is(
    other: CopiedStore, tmp_path: Path
) -> None:
    format_1.make_store(tmp_path / "old")
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    old = LocalFolderStore(tmp_path / "old")
    assert copied(old, other) == {Copied.COPIED: len(format_1.STATES)}
    for state in format_1.STATES.values():
        found, _ = other.load(state.uid)
        assert found is not None
        assert same_state(found, state)
    back = LocalFolderStore(tmp_path / "back")
    assert copied(other, back) == {Copied.COPIED: len(format_1.STATES)}
    assert json.loads((tmp_path / "back" / "store.json").read_bytes())["format"] == FORMAT
    assert copied(old, back) == {Copied.ALREADY_THERE: len(format_1.STATES)}
    assert verify(old, None, list(old.uids()), advance()).problems == []
    assert {path: path.read_bytes() for path in before} == before


def test_a_store_of_other_settings_takes_no_copy(source: LocalFolderStore, other: CopiedStore) -> None:
    other.open(replace(IDENTITY, secret_fingerprint="another"), must_exist=False)
    with pytest.raises(ConfigurationError, match=r"identity\.secret"):
        open_copy(source, other, where="here")


def test_a_folder_that_is_no_store_is_not_copied_from(other: CopiedStore, tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="not a state store"):
        open_copy(LocalFolderStore(tmp_path / "nothing"), other, where="nothing")


def test_verify_names_what_is_wrong_with_states_and_published_versions(
    source: LocalFolderStore, tmp_path: Path
) -> None:
    target = FolderTarget(tmp_path / "adapters")
    target.open()
    state = released_state(3)
    location = Path(target.put(UID, 3, adapter_files(state, SMALL_LAYOUT, MODEL)))
    assert verify(source, target, [UID, OTHER_UID], advance()).problems == []
    assert verify(source, target, [UID, OTHER_UID], advance()).versions == 1

    tensors = location / "adapter_model.safetensors"
    flipped = bytearray(tensors.read_bytes())
    flipped[-1] ^= 1
    tensors.chmod(0o600)
    tensors.write_bytes(flipped)
    target.put(OTHER_UID, 4, adapter_files(replace(state, uid=OTHER_UID), SMALL_LAYOUT, MODEL))
    [file] = (tmp_path / "source/users" / UID).iterdir()
    problems = verify(source, target, [UID, OTHER_UID], advance()).problems
    assert problems == [
        f"{UID}: version 3: adapter_model.safetensors is not what its manifest names",
        f"{OTHER_UID}: version 4 is published still, and it was erased",
    ]
    file.write_bytes(file.read_bytes()[:-1])
    assert "can't be used" in verify(source, None, [UID], advance()).problems[0]


def put(target: FolderTarget, version: int, uid: str = UID) -> None:
    target.put(uid, version, adapter_files(released_state(version, uid=uid), SMALL_LAYOUT, MODEL))


def sentence_on(newest: int, at: str) -> str:
    return (
        f"{UID}: adapter version {newest} is published, {at}: was an older backup restored? The user's next version "
        f"will be {newest + 1}. For what was learnt since, import a newer backup, or send the records since once more"
    )


def test_verify_and_show_name_versions_that_are_newer_than_an_imported_state(
    source: LocalFolderStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = FolderTarget(tmp_path / "adapters")
    target.open()
    put(target, 5)
    new, numbered = LocalFolderStore(tmp_path / "new"), LocalFolderStore(tmp_path / "numbered")
    copied(source, new)
    numbered.open(IDENTITY, must_exist=False)
    numbered.save(UID, released_state(5), "0")
    copied(source, numbered, others=True)
    for store, at in ((new, "at 3"), (numbered, "of before it")):
        found = verify(store, target, [UID, OTHER_UID], advance(), everybody=True)
        assert found.problems == [sentence_on(5, f"the state is {at}")]
        assert (found.versions, found.not_out) == (0, 0)
        text = io.StringIO()
        show_states(store, UID, target, as_json=False, console=Console(file=text, width=140))
        words = "newer version 5 is published, newer than this state: `corlld state verify` says what to do"
        assert words in [" ".join(line.split()) for line in text.getvalue().splitlines()]
        text = io.StringIO()
        show_states(store, None, target, as_json=False, console=Console(file=text, width=140))
        assert f"{3 if store is new else 5}*" in text.getvalue().split()
        *_, last = text.getvalue().splitlines()
        assert last == "* published versions are newer than this state: `corlld state verify` says what to do"
    show_states(new, OTHER_UID, target, as_json=True, console=Console())
    assert json.loads(capsys.readouterr().out)["newer_out"] is None


def test_states_are_shown_if_the_versions_cannot_be_read(
    source: LocalFolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    class Away:
        def newest(self, uid: str) -> int:
            raise RetriableError("adapters: Input/output error")

    assert show_states(source, None, Away(), as_json=True, console=Console()) == ExitCode.OK
    rows = json.loads(capsys.readouterr().out)
    assert {row["versions_unreadable"] for row in rows} == {"adapters: Input/output error"}
    text = io.StringIO()
    assert show_states(source, None, Away(), as_json=False, console=Console(file=text, width=140)) == ExitCode.OK
    assert "3?" in text.getvalue().split()
    *_, last = text.getvalue().splitlines()
    assert last == "? the published versions can't be read: adapters: Input/output error"


def test_verify_names_users_whose_versions_are_out_and_whom_an_imported_store_does_not_know(
    source: LocalFolderStore, tmp_path: Path
) -> None:
    target = FolderTarget(tmp_path / "adapters")
    target.open()
    put(target, 2)
    (tmp_path / "adapters" / f"{1:032x}").mkdir()  # nothing is out
    new = LocalFolderStore(tmp_path / "new")
    open_copy(source, new, where="here")
    new.save(OTHER_UID, tombstone(5, OTHER_UID), "0")
    [said] = verify(new, target, [OTHER_UID], advance(), everybody=True).problems
    beginning = f"{UID}: adapter version 2 is published, and this store has no state of the user. If the version is "
    assert said.startswith(beginning + "another store's, move it to another folder")
    assert said.endswith(sentence_on(2, "X").partition("X: ")[2])
    assert verify(new, target, [OTHER_UID], advance()).problems == []
    new.save(UID, released_state(2), "0")  # the user came since the store was listed
    assert verify(new, target, [OTHER_UID], advance(), everybody=True).problems == []


def test_verify_takes_no_version_that_a_daemon_publishes_meanwhile_for_one_of_a_newer_state(
    source: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = FolderTarget(tmp_path / "adapters")
    target.open()
    put(target, 3)
    newest = target.newest

    def publish_first(uid: str) -> int:
        if source.newest_token(uid) == "1":
            source.save(uid, released_state(4), "1")
            put(target, 4)
        return newest(uid)

    monkeypatch.setattr(target, "newest", publish_first)
    found = verify(source, target, [UID], advance())
    assert (found.problems, found.versions) == ([], 1)


def test_a_manifest_that_cannot_be_understood_and_a_config_that_is_none_are_one_users_problems(
    source: LocalFolderStore, tmp_path: Path
) -> None:
    target = FolderTarget(tmp_path / "adapters")
    target.open()
    location = Path(target.put(UID, 3, adapter_files(released_state(3), SMALL_LAYOUT, MODEL)))
    config, manifest = location / "adapter_config.json", location / "manifest.json"
    sound = config.read_bytes()
    config.unlink()
    config.write_bytes(b"garbage")
    [problem] = verify(source, target, [UID, OTHER_UID], advance()).problems
    assert problem == f"{UID}: version 3: adapter_config.json is no JSON"
    config.write_bytes(sound)
    manifest.unlink()
    manifest.write_bytes(b'{"a":1}')
    found = verify(source, target, [UID, OTHER_UID], advance())
    assert found.users == 2
    assert len(found.problems) == 1
    assert found.problems[0].startswith(f"{UID}: ")


@pytest.mark.parametrize("where", ["source/inside", "full"])
def test_an_export_goes_to_a_folder_of_its_own(
    source: LocalFolderStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    clear_settings(monkeypatch)
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "source"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    assert main(["state", "export", str(tmp_path / where)]) == ExitCode.USAGE
    assert "name a" in capsys.readouterr().err
    assert not (tmp_path / where / "store.json").exists()


def test_an_import_of_another_secrets_states_or_of_no_store_is_refused(
    source: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clear_settings(monkeypatch)
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "new"))
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", "a secret of somebody else, which is long enough")
    assert main(["state", "import", str(tmp_path / "source")]) == ExitCode.CONFIGURATION
    assert "identity.secret" in capsys.readouterr().err
    assert main(["state", "import", str(tmp_path)]) == ExitCode.DATA
    assert "no exported state store" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_import_names_who_is_erased_again_and_an_export_does_not(
    source: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clear_settings(monkeypatch)
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "source"))
    monkeypatch.setenv("CORLLD_PUBLISHING__PATH", str(tmp_path / "adapters"))
    copy = str(tmp_path / "copy")
    assert main(["state", "export", copy]) == ExitCode.OK
    token = source.save(UID, tombstone(3, UID), "1")
    capsys.readouterr()
    assert main(["state", "export", copy, "--replace"]) == ExitCode.OK
    assert capsys.readouterr().out == "1 user: copied\n1 user: there already, the same\n"

    source.save(UID, replace(released_state(5), erased_through=3, applied={"topic-id/0": 120}), token)
    put(FolderTarget(tmp_path / "adapters"), 5)
    assert main(["state", "import", copy, "--replace"]) == ExitCode.OK
    line, *summary = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{UID}: is erased in the backup, and has a state here: erased again. ")
    assert "Until then `corlld state verify` names what is still published" in line
    assert summary == [
        "1 user: is erased in the backup, and has a state here: erased again",
        "1 user: there already, the same",
    ]
    assert main(["state", "verify"]) == ExitCode.DATA
    assert f"{UID}: version 5 is published still, and it was erased" in capsys.readouterr().out


def test_the_commands_copy_and_verify_a_store(
    source: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clear_settings(monkeypatch)
    source.outbox.add(OutboxNote(7.5, (UID,)))
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "source"))
    monkeypatch.setenv("CORLLD_PUBLISHING__PATH", str(tmp_path / "adapters"))
    assert main(["state", "export", str(tmp_path / "copy")]) == ExitCode.OK
    assert "2 users: copied" in capsys.readouterr().out
    assert len(list((tmp_path / "copy/outbox").iterdir())) == 1
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "new"))
    assert main(["state", "import", str(tmp_path / "copy"), "--uid", UID]) == ExitCode.OK
    assert "1 user: copied" in capsys.readouterr().out
    assert main(["state", "verify"]) == ExitCode.OK
    assert "1 user (0 erased), 0 published versions (1 not out yet): 0 problems" in capsys.readouterr().out
    [file] = (tmp_path / "new/users" / UID).iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["state", "verify"]) == ExitCode.DATA
    assert main(["state", "import", str(tmp_path / "nowhere")]) == ExitCode.DATA
