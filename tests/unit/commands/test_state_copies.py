"""`corlld state export|import|verify`: copies are stores, nobody erased comes back, and what is wrong is named."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from corlld.cli import main
from corlld.commands.state_copies import (
    Copied,
    CopiedStore,
    copy_notes,
    copy_positions,
    copy_states,
    open_copy,
)
from corlld.commands.state_repair import Repair, finish, look, restore
from corlld.commands.state_verify import verify
from corlld.durable import ModelInfo, OutboxNote, StoreIdentity, UserState
from corlld.errors import ConfigurationError, ExitCode, FatalError
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
    assert list(restore(source, [Repair(UID, {"topic-id/0": 5}, released_state(2), "1")])) == [UID]
    copied(source, other)
    assert list(other.position_names()) == ["ab12"]
    assert look(source, [UID, OTHER_UID], advance()).starts == {"topic-id/0": 5}
    finish(source, [Repair(UID, {})])
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
