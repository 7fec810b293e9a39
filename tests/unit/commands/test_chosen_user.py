"""A user is named by the beginning of a pseudonym wherever a pseudonym is taken, unless several begin so."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from corlld.cli import main
from corlld.commands.chosen_user import beginning, whole
from corlld.durable import StoreIdentity, UserState
from corlld.errors import ExitCode, FatalError
from corlld.events.pseudonyms import Pseudonyms
from corlld.state.store import LocalFolderStore
from tests.support.commands import SECRET, clear_settings

ANN, BOB, CY = "a" * 32, "ab" * 16, "c" * 32


class Listed:
    """The users of a store."""

    def __init__(self, *uids: str) -> None:
        self._uids = uids

    def uids(self) -> Iterator[str]:
        yield from self._uids


@pytest.mark.parametrize("text", ["", "../../etc", "A" * 32, "g", "0" * 33, "0\n"])
def test_what_begins_no_pseudonym_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a pseudonym, or its first digits: at most 32 of"):
        beginning(text)


@pytest.mark.parametrize("given", ["c", CY[:12], CY])
def test_the_beginning_of_one_pseudonym_is_as_good_as_the_whole(given: str) -> None:
    assert beginning(given) == given
    assert whole(given, Listed(ANN, BOB, CY)) == CY


def test_a_whole_pseudonym_needs_no_listing_of_all_users() -> None:
    assert whole(ANN, Listed()) == ANN


def test_the_beginning_of_several_pseudonyms_names_some_and_asks_for_more_digits() -> None:
    with pytest.raises(FatalError) as caught:
        whole("a", Listed(ANN, BOB, CY))
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == f"--uid a: the pseudonyms of 2 users begin so, {ANN}, {BOB}: give more digits"
    many = [f"a{number:031x}" for number in range(5)]
    with pytest.raises(FatalError, match=f"of 5 users begin so, {', '.join(many[:3])} and 2 more: give more digits"):
        whole("a", Listed(*many))


def test_the_beginning_of_nobodys_pseudonym_is_a_sentence() -> None:
    with pytest.raises(FatalError, match="the store has no state of this user") as caught:
        whole("d", Listed(ANN, BOB, CY))
    assert caught.value.exit_code == ExitCode.DATA


@pytest.mark.parametrize(
    "command",
    ["state show", "state verify", "state repair", "state export {copy}", "state import {source}", "explain"],
)
def test_each_command_takes_the_beginning_of_a_pseudonym(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clear_settings(monkeypatch)
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    monkeypatch.setenv("CORLLD_PUBLISHING__ENABLED", "false")
    for name in ("state", "source"):
        store = LocalFolderStore(tmp_path / name)
        store.open(StoreIdentity(Pseudonyms(SECRET).fingerprint, "c", "g", "m", "r", "a"), must_exist=False)
        for uid in (ANN, BOB, CY):
            store.save(uid, UserState(uid), "0")
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "state"))
    words = command.format(copy=tmp_path / "copy", source=tmp_path / "source").split()
    assert main([*words, "--uid", "ab"]) == ExitCode.OK
    assert "3 users" not in capsys.readouterr().out
    assert main([*words, "--uid", "a"]) == ExitCode.USAGE
    assert "--uid a: the pseudonyms of 2 users begin so" in capsys.readouterr().err
