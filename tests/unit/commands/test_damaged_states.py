"""A state where the disk answers with an error for ever is repaired as a torn one is, and destroys nothing readable."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from structlog.testing import capture_logs

from corlld.commands.copied_state import Copied
from corlld.commands.repair_findings import Findings
from corlld.commands.repair_notes import finish, take_out_passed
from corlld.commands.state_copies import copy_states
from corlld.commands.state_repair import look, restore
from corlld.commands.state_verify import verify
from corlld.durable import StoreIdentity, UserState
from corlld.errors import LostSwap, RetriableError, StateUnreadable
from corlld.state.damage import DAMAGED
from corlld.state.generations import Generations
from corlld.state.keys import repair_name
from corlld.state.snapshot import encode
from corlld.state.store import LocalFolderStore
from corlld.system.progress import Advance
from tests.support.bad_disk import refuse
from tests.support.states import OTHER_UID, UID, released_state, same_state, tombstone

IDENTITY = StoreIdentity("fingerprint", "cluster", "group", "model", "revision", "shape")
USERS = sorted([UID, OTHER_UID])


@pytest.fixture
def store(tmp_path: Path) -> LocalFolderStore:
    """Two users, each with versions 3 and 4."""
    store = LocalFolderStore(tmp_path / "state")
    store.open(IDENTITY, must_exist=False)
    for uid in USERS:
        token = store.save(uid, state(3, uid), "0")
        store.save(uid, state(4, uid), token)
    return store


def state(version: int, uid: str = UID) -> UserState:
    return replace(released_state(version, uid=uid), applied={"topic-id/0": 10 * version})


def generation(tmp_path: Path, number: int, uid: str = UID) -> Path:
    return tmp_path / "state" / "users" / uid / f"{number:012d}.safetensors"


def advance() -> Advance:
    return Advance(Console(quiet=True), 1)


def repaired(store: LocalFolderStore) -> tuple[list[str], list[str]]:
    """Look and restore. Return the users who were restored, and the sentences on the others."""
    findings = look(store, USERS, advance())
    return list(restore(store, findings)), findings.hopeless


def assert_loads(store: LocalFolderStore, wanted: UserState) -> str:
    found, token = store.load(wanted.uid)
    assert found is not None
    assert same_state(replace(found, repair=None), wanted)
    return token


@pytest.mark.parametrize("problem", [errno.EIO, errno.EBADMSG, errno.EUCLEAN])
def test_a_state_that_the_disk_can_not_read_is_repaired_from_the_generation_before(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    refuse(monkeypatch, [generation(tmp_path, 2)], problem=problem)
    with pytest.raises(RetriableError):
        store.load(UID)  # the daemon waits: nobody has looked at the disk
    findings = look(store, USERS, advance())
    assert (list(findings.repairs), findings.hopeless) == ([UID], [])
    assert findings.starts == {"topic-id/0": 30}, "the records that it lacks are sent"
    assert list(restore(store, findings)) == [UID]
    token = assert_loads(store, state(3))
    assert not generation(tmp_path, 2).exists()
    store.save(UID, state(5), token)
    assert_loads(store, state(5))
    assert_loads(store, state(4, OTHER_UID))


def test_a_disk_that_is_away_is_no_damage_of_a_state(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, [generation(tmp_path, 2), tmp_path / "state" / "store.json"])
    assert repaired(store) == ([], [f"{UID}: {tmp_path / 'state'}: Input/output error"])
    assert generation(tmp_path, 2).exists()


@pytest.mark.parametrize("problem", [errno.EACCES, errno.EMFILE, errno.ESTALE])
def test_a_state_that_is_refused_for_another_reason_than_damage_is_not_replaced(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    refuse(monkeypatch, [generation(tmp_path, 2)], problem=problem)
    restored, [sentence] = repaired(store)
    assert restored == []
    assert sentence.startswith(UID)
    assert generation(tmp_path, 2).exists()


def test_a_state_that_can_be_read_again_before_it_is_replaced_stays(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {generation(tmp_path, 2)}
    refuse(monkeypatch, bad)
    findings = look(store, USERS, advance())
    bad.clear()
    assert list(restore(store, findings)) == []
    assert findings.hopeless == [f"{UID}: the state can be read again, and stays: look again"]
    assert findings.repairs == {}
    assert_loads(store, state(4))
    assert store.load_position(repair_name(UID)) is None


def broken_off(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_stored: bool = False
) -> None:
    """Repair UID's state, which the disk can't read for a while, on a full disk. is_stored: that shows afterwards."""

    def failing(uid: str, state: UserState, token: str) -> str:
        if is_stored:
            LocalFolderStore.restore(store, uid, state, token)
        raise RetriableError("No space left on device")

    with monkeypatch.context() as patch:
        refuse(patch, [generation(tmp_path, int(store.newest_token(UID)))])
        findings = look(store, USERS, advance())
        patch.setattr(store, "restore", failing)
        with pytest.raises(RetriableError, match="No space left"):
            list(restore(store, findings))


def test_a_state_that_is_whole_after_a_repair_that_failed_lacks_nothing(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(store, tmp_path, monkeypatch)
    assert look(store, USERS, advance()) == Findings()
    assert_loads(store, state(4))


def test_a_repair_whose_state_was_stored_before_the_error_goes_on(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(store, tmp_path, monkeypatch, is_stored=True)
    assert_loads(store, state(3))
    assert look(store, USERS, advance()).starts == {"topic-id/0": 30}


def killed(store: LocalFolderStore, *, is_stored: bool) -> None:
    """Tear UID's state, and repair it. The repair is killed before or after the generation before is stored."""
    file = Path(store._path / "users" / UID / f"{int(store.newest_token(UID)):012d}.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with pytest.MonkeyPatch.context() as patch:

        def dying(uid: str, state: UserState, token: str) -> str:
            if is_stored:
                LocalFolderStore.restore(store, uid, state, token)
            raise KeyboardInterrupt

        patch.setattr(store, "restore", dying)
        with pytest.raises(KeyboardInterrupt):
            list(restore(store, look(store, USERS, advance())))
    if not is_stored:
        file.write_bytes(whole)  # the damage passed


def test_a_repair_that_was_killed_before_it_stored_anything_says_nothing_of_a_newer_state(
    store: LocalFolderStore,
) -> None:
    killed(store, is_stored=False)
    found = look(store, USERS, advance())
    assert found == Findings(stale=found.stale)
    assert list(found.stale) == [UID]
    store.save(UID, state(5), store.newest_token(UID))
    found = look(store, USERS, advance())
    assert found == Findings(stale=found.stale)
    assert list(found.stale) == [UID]
    finish(store, [UID])
    assert look(store, USERS, advance()) == Findings()


def test_a_repair_that_was_killed_after_it_stored_the_generation_before_goes_on_over_newer_states(
    store: LocalFolderStore,
) -> None:
    killed(store, is_stored=True)
    assert look(store, USERS, advance()).starts == {"topic-id/0": 30}
    restored, token = store.load(UID)
    assert restored is not None
    assert restored.repair
    token = store.save(UID, replace(state(4), repair=restored.repair), token)
    assert look(store, USERS, advance()).starts == {"topic-id/0": 30}
    killed(store, is_stored=False)  # again, and the damage passes
    assert look(store, USERS, advance()).starts == {"topic-id/0": 30}, "the first one has not sent anything yet"
    killed(store, is_stored=True)
    assert look(store, USERS, advance()).starts == {"topic-id/0": 30}


@pytest.mark.parametrize("repair", [None, "", "another"], ids=["import", "erasure", "another repair"])
def test_a_repair_that_was_killed_says_nothing_of_a_state_that_did_not_come_of_it(
    store: LocalFolderStore, repair: str | None
) -> None:
    killed(store, is_stored=True)
    findings = look(store, USERS, advance())
    store.save(UID, replace(state(5), repair=repair), store.newest_token(UID))
    found = look(store, USERS, advance())
    assert found == Findings(stale=found.stale)
    assert list(found.stale) == [UID]
    passed = ([], [UID]) if repair is None else ([UID], [])
    assert take_out_passed(store, findings) == passed, "a repair that is under way sends nothing"
    assert not findings.repairs


@pytest.mark.parametrize("is_stored", [False, True])
def test_what_an_earlier_repair_has_not_sent_yet_is_still_sent_after_the_next(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    store.save_position(repair_name(UID), {"topic-id/0": 20, "topic-id/1": 5})
    broken_off(store, tmp_path, monkeypatch, is_stored=is_stored)
    assert look(store, USERS, advance()).starts == {"topic-id/0": 20, "topic-id/1": 5}


def test_a_user_both_of_whose_generations_are_damaged_is_hopeless_and_an_import_writes_over_them(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = LocalFolderStore(tmp_path / "backup")
    backup.open(IDENTITY, must_exist=False)
    backup.save(UID, state(7), "0")
    refuse(monkeypatch, [generation(tmp_path, 1), generation(tmp_path, 2)])
    restored, [sentence] = repaired(store)
    assert restored == []
    assert sentence.startswith(f"{UID}: {generation(tmp_path, 2)} can't be used: ")
    assert "; the generation before can't be read either: " in sentence
    assert f"`corlld state import FOLDER --replace --uid {UID}`" in sentence
    for others, outcome in ((False, Copied.UNREADABLE_THERE), (True, Copied.COPIED)):
        counts, _ = copy_states(backup, store, [UID], advance(), replace_others=others, hashed=None)
        assert counts == {outcome: 1}
    assert_loads(store, state(7))


@pytest.fixture
def backup(tmp_path: Path) -> LocalFolderStore:
    """A copy of a user's state, from before any erasure."""
    backup = LocalFolderStore(tmp_path / "backup")
    backup.open(IDENTITY, must_exist=False)
    backup.save(UID, state(4), "0")
    return backup


def imported(backup: LocalFolderStore, store: LocalFolderStore) -> Copied:
    """Import the user with --replace. Return what became of the state."""
    counts, _ = copy_states(backup, store, [UID], advance(), replace_others=True, hashed=None)
    [outcome] = counts
    return outcome


def fail_at_first(monkeypatch: pytest.MonkeyPatch, file: Path, times: int, name: str) -> None:
    """Have the disk refuse this file in the first calls, as many as `times`."""
    call, failures = getattr(Path, name), iter(range(times))

    def failing(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if path == file and next(failures, None) is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return call(path, *arguments, **keywords)

    monkeypatch.setattr(Path, name, failing)


@pytest.mark.parametrize("header_can_be_read", [False, True])
@pytest.mark.parametrize("came_back_since", [False, True])
def test_an_import_brings_nobody_back_though_the_disk_refuses_a_tombstone_or_what_came_after_it_for_a_while(
    store: LocalFolderStore,
    backup: LocalFolderStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    header_can_be_read: bool,
    came_back_since: bool,
) -> None:
    newest, token = ERASED, store.save(UID, ERASED, "2")
    if came_back_since:
        newest, token = came_back(5), store.restore(UID, came_back(5), token)
    file = generation(tmp_path, int(token))
    assert list(file.parent.iterdir()) == [file]
    with monkeypatch.context() as patch:
        fail_at_first(patch, file, 2, "read_bytes")
        if header_can_be_read:
            assert imported(backup, store) is Copied.ERASED_THERE
        else:
            fail_at_first(patch, file, 1, "open")
            with pytest.raises(RetriableError, match="can be read again, and stays"):
                imported(backup, store)
    assert_loads(store, newest)
    assert imported(backup, store) is Copied.ERASED_THERE


def test_an_import_brings_nobody_back_over_a_torn_tombstone_whose_header_can_be_read(
    store: LocalFolderStore, backup: LocalFolderStore, tmp_path: Path
) -> None:
    file = generation(tmp_path, int(store.save(UID, ERASED, "2")))
    torn = file.read_bytes() + b"torn"
    file.write_bytes(torn)
    assert imported(backup, store) is Copied.ERASED_THERE
    assert file.read_bytes() == torn
    backup.save(UID, ERASED, "1")
    assert imported(backup, store) is Copied.COPIED, "the backup knows the erasure"
    assert_loads(store, ERASED)


def test_a_damaged_file_that_can_not_be_removed_either_stays_and_the_repaired_user_goes_on(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, [generation(tmp_path, 2)], ["read_bytes", "unlink"])
    assert repaired(store) == ([UID], [])
    token = assert_loads(store, state(3))
    for version in (5, 6):
        token = store.save(UID, state(version), token)
    assert_loads(store, state(6))
    assert generation(tmp_path, 2).exists()
    with pytest.raises(RetriableError):
        store.save(UID, tombstone(6), token)  # what was erased must go


ERASED = replace(tombstone(4), applied={"topic-id/0": 50})


def left_beside_the_tombstone(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> set[Path]:
    """Erase the user whose generation 1 is damaged. Return the files that the disk refuses, which may be changed."""
    (tmp_path / "state" / "temporary" / f"{UID}-left").write_bytes(b"personal")
    bad = {generation(tmp_path, 1)}
    refuse(monkeypatch, bad, ["read_bytes", "unlink"], problem=problem)
    with pytest.raises(RetriableError):
        store.save(UID, ERASED, "2")
    with pytest.raises(LostSwap):
        store.save(UID, ERASED, "2")
    return bad


@pytest.mark.parametrize("problem", DAMAGED)
def test_a_tombstone_is_loaded_and_all_else_goes_though_a_damaged_file_can_not_be_removed(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    bad = left_beside_the_tombstone(store, tmp_path, monkeypatch, problem)
    with capture_logs() as lines:
        assert_loads(store, ERASED)
    assert [(line["event"], line["uid"]) for line in lines] == [("erased_file_left", UID)]
    assert not generation(tmp_path, 2).exists()
    assert not list((tmp_path / "state" / "temporary").iterdir())
    assert generation(tmp_path, 1).exists()
    bad.clear()
    assert_loads(store, ERASED)
    assert not generation(tmp_path, 1).exists(), "each load tries again"


@pytest.mark.parametrize("of_the_tombstone", ["all is torn", "the header is sound"])
def test_no_repair_brings_back_an_erased_user_whose_file_the_disk_would_not_let_go(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_the_tombstone: str
) -> None:
    """The directory is damaged, and the file in it can be read."""
    refuse(monkeypatch, {generation(tmp_path, 2)}, ["unlink"])
    with pytest.raises(RetriableError):
        store.save(UID, ERASED, "2")
    assert_loads(store, ERASED)
    tear(generation(tmp_path, 3), header=of_the_tombstone == "all is torn")
    restored, [sentence] = repaired(store)
    assert restored == []
    assert sentence.startswith(f"{UID}: ")
    assert sentence.endswith("send the erasure again")
    assert generation(tmp_path, 2).exists()


def tear(file: Path, *, header: bool) -> None:
    """Damage the file's end, or all of it."""
    data = file.read_bytes()
    file.write_bytes(data[:100] if header else data + b"torn")


def test_a_mark_that_can_not_be_made_keeps_no_tombstone_from_being_loaded(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, {generation(tmp_path, 2)}, ["unlink"])
    refuse(monkeypatch, {generation(tmp_path, 3).with_suffix(".erased")}, ["touch"])
    with pytest.raises(RetriableError):
        store.save(UID, ERASED, "2")
    with capture_logs() as lines:
        assert_loads(store, ERASED)
    assert [line["event"] for line in lines] == ["erased_file_left", "erased_file_not_marked"]
    tear(generation(tmp_path, 3), header=False)
    restored, [sentence] = repaired(store)
    assert restored == []
    assert "the header of the state says that the user was erased" in sentence


def test_a_state_that_shows_an_erasure_which_the_generation_before_does_not_know_is_not_repaired(
    store: LocalFolderStore, tmp_path: Path
) -> None:
    store.save(UID, came_back(5), "2")
    tear(generation(tmp_path, 3), header=False)
    restored, [sentence] = repaired(store)
    assert restored == []
    assert sentence.startswith(f"{UID}: the header of the state says that the user was erased")


def test_an_erased_user_whose_tombstone_is_torn_goes_on_as_the_repair_says(
    store: LocalFolderStore, tmp_path: Path
) -> None:
    store.save(UID, ERASED, "2")
    tear(generation(tmp_path, 3), header=False)
    restored, [sentence] = repaired(store)
    assert restored == []
    assert "move the user's folder out of the store, and send the erasure again" in sentence
    generation(tmp_path, 3).parent.rename(tmp_path / "moved")
    assert store.load(UID) == (None, "0")
    store.save(UID, ERASED, "0")
    assert_loads(store, ERASED)


def test_a_user_who_came_back_is_repaired_from_the_tombstone(store: LocalFolderStore, tmp_path: Path) -> None:
    token = store.save(UID, ERASED, "2")
    store.save(UID, came_back(5), token)
    tear(generation(tmp_path, 4), header=False)
    assert repaired(store) == ([UID], [])
    assert_loads(store, ERASED)


@pytest.mark.parametrize(("hidden", "fails"), [("unlink", "fsync"), ("fsync", "unlink")])
def test_an_error_that_is_no_damage_is_hidden_by_no_error_of_the_disk(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str, fails: str
) -> None:
    """A right that is missing must be given: only damage is let lie."""
    store.save(UID, ERASED, "2")
    generation(tmp_path, 1).write_bytes(b"left by a kill")
    problems = {hidden: errno.EACCES, fails: errno.EIO}
    refuse(monkeypatch, {generation(tmp_path, 1)}, ["unlink"], problem=problems["unlink"])
    synced: list[Path] = []

    def fsync_folder(folder: Path) -> None:
        synced.append(folder)
        if len(synced) > 2:  # `load` has made sure of the tombstone itself
            raise OSError(problems["fsync"], os.strerror(problems["fsync"]))

    for module in ("store", "folder_erasure"):
        monkeypatch.setattr(f"corlld.state.{module}.fsync_folder", fsync_folder)
    with pytest.raises(RetriableError, match="Permission denied"):
        store.load(UID)
    assert synced[2:] == [generation(tmp_path, 1).parent, tmp_path / "state" / "temporary"], "each is tried"


@pytest.mark.parametrize(("problem", "and_all_of_the_disk"), [(errno.EIO, True), (errno.EBUSY, False)])
def test_a_tombstone_waits_for_a_disk_that_is_away_and_for_what_is_no_damage(
    store: LocalFolderStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: int,
    and_all_of_the_disk: bool,
) -> None:
    bad = left_beside_the_tombstone(store, tmp_path, monkeypatch, problem)
    if and_all_of_the_disk:
        bad.add(tmp_path / "state" / "store.json")
    with pytest.raises(RetriableError):
        store.load(UID)


def test_verify_names_what_is_left_of_an_erased_user_also_after_the_user_came_back(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = left_beside_the_tombstone(store, tmp_path, monkeypatch, errno.EUCLEAN)
    left = [f"{UID}: {generation(tmp_path, 1)} is there still, and may hold what was erased"]
    assert problems(tmp_path) == left
    token = assert_loads(store, ERASED)
    for version in (5, 6):
        token = store.save(UID, came_back(version), token)
    assert problems(tmp_path) == left
    generation(tmp_path, 1).write_bytes(b"torn")
    assert problems(tmp_path) == left, "it may hold anything"
    bad.clear()
    token = store.save(UID, came_back(7), token)
    assert problems(tmp_path) == []


@pytest.mark.parametrize("damage", ["torn", "refused"])
def test_verify_names_a_damaged_generation_before_until_the_next_state_is_stored(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    assert problems(tmp_path) == []
    before = generation(tmp_path, 1)
    if damage == "torn":
        before.write_bytes(before.read_bytes()[:-3])
    else:
        refuse(monkeypatch, [before])
    [problem] = problems(tmp_path)
    assert problem.startswith(f"{UID}: the state is sound, but the generation before it can't be read: ")
    assert problem.endswith(
        "A repair would need that one: until the next state of the user is stored, only a backup mends the state if it "
        "is damaged"
    )
    store.save(UID, state(5), "2")
    assert problems(tmp_path) == []
    generation(tmp_path, 3).write_bytes(b"")
    generation(tmp_path, 2).write_bytes(b"")
    [problem] = problems(tmp_path)
    assert "sound" not in problem


@pytest.mark.parametrize("version", [4, 0], ids=["version 4", "before the first version"])
def test_verify_takes_no_state_that_a_daemon_is_writing_for_what_a_kill_left(
    store: LocalFolderStore, tmp_path: Path, version: int
) -> None:
    """The user comes back, or is erased once more, while the tombstone is looked at."""
    erased = replace(ERASED, version=version, erased_through=version)
    token = store.save(UID, erased, "2")
    back = replace(came_back(version + 1), erased_through=version, applied={"topic-id/0": 60, "topic-id/1": 7})
    again = replace(erased, applied={"topic-id/0": 70})
    temporary = tmp_path / "state" / "temporary"
    for number, live in enumerate((back, again)):
        (temporary / f"{UID}-{number}").write_bytes(encode(live))
    assert problems(tmp_path) == []
    left = [
        state(4),
        replace(state(4), version=0, applied={"topic-id/1": 90}),
        replace(back, applied={"topic-id/0": 49}),
    ]
    for number, personal in enumerate(left):
        (temporary / f"{UID}-left-{number}").write_bytes(encode(personal))
    (temporary / f"{UID}-left-torn").write_bytes(encode(back)[:100])
    assert [line.split()[1] for line in problems(tmp_path)] == sorted(map(str, temporary.glob("*-left-*")))
    assert store.newest_token(UID) == token


def test_verify_takes_no_generation_from_after_an_erasure_for_erased(store: LocalFolderStore, tmp_path: Path) -> None:
    token = store.save(UID, ERASED, "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generations, "try_to_remove", lambda self, numbers: None)  # as if each save was killed there
        for version in (5, 6, 7):
            token = store.save(UID, came_back(version), token)
    assert len(list(generation(tmp_path, 1).parent.iterdir())) == 4
    assert problems(tmp_path) == []


def came_back(version: int) -> UserState:
    return replace(state(version), erased_through=4)


def problems(tmp_path: Path) -> list[str]:
    """Return what `corlld state verify` finds."""
    return verify(LocalFolderStore(tmp_path / "state"), None, USERS, advance()).problems


def test_a_folder_that_can_not_be_listed_is_said_and_the_others_are_repaired(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, [generation(tmp_path, 2, OTHER_UID), generation(tmp_path, 2).parent], ["read_bytes", "iterdir"])
    assert repaired(store) == ([OTHER_UID], [f"{UID}: {tmp_path / 'state'}: Input/output error"])
    assert_loads(store, state(3, OTHER_UID))


def test_a_sound_state_is_readable(store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.check_readable(UID)
    store.check_readable(f"{0:032x}")  # nobody's
    refuse(monkeypatch, [generation(tmp_path, 2)])
    with pytest.raises(StateUnreadable, match="Input/output error"):
        store.check_readable(UID)
    assert look(store, [OTHER_UID], advance()) == Findings()
