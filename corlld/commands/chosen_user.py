"""The user that a command line names: by user_id, by pseudonym (uid), or by the beginning of a pseudonym.

Tables cut pseudonyms to their first digits in a narrow terminal, and what is printed can be given back.
"""

import argparse
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from corlld.commands.shared import WHOLE_UID, read_user
from corlld.errors import ConfigurationError, ExitCode, FatalError
from corlld.system.plurals import counted

if TYPE_CHECKING:
    from corlld.assembly import AnyStore
    from corlld.settings.sections import Settings

NO_STATE = (
    "the store has no state of this user: either the id is misspelt, or no event of the user was applied yet. "
    "`corlld state show` lists the users of the store"
)
_BEGINNING = re.compile(rf"[0-9a-f]{{1,{WHOLE_UID}}}")
_NAMED = 3  # of the users whose pseudonyms begin alike


class Users(Protocol):
    """A state store, as far as it is read here; see `StateStore`."""

    def uids(self) -> Iterator[str]: ...


def add_user(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add USER and `--uid`, of which one names a user to `find_store`."""
    who = parser.add_mutually_exclusive_group(required=required)
    who.add_argument(
        "user", nargs="?", metavar="USER", help="only this user, by user_id; `-` reads it from standard input"
    )
    who.add_argument("--uid", type=beginning, help="only this user, by pseudonym or by its first digits")


def beginning(text: str) -> str:
    """Convert an argument. Raises ArgumentTypeError unless it is a pseudonym, or the beginning of one."""
    if not _BEGINNING.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"must be a pseudonym, or its first digits: at most {WHOLE_UID} of 0-9 and a-f, not {text!r}"
        )
    return text


def find_store(settings: "Settings", arguments: argparse.Namespace) -> "tuple[AnyStore, str | None]":
    """Return the store, not opened, and the uid of the user that the arguments of `add_user` name, if any.

    Raises what `uid_of` raises.
    """
    from corlld.assembly import build_store

    store = build_store(settings)
    return store, uid_of(arguments, settings, store)


def uid_of(arguments: argparse.Namespace, settings: "Settings", store: "AnyStore") -> str | None:
    """Return the pseudonym of the user that the command line names; None for all users.

    Raises FatalError without a store, and for the beginning of no pseudonym or of several; ConfigurationError if a
    user_id is given, and the store has another secret.
    """
    from corlld.assembly import no_store_yet, pseudonyms

    uid, fingerprint = None, store.secret_fingerprint()
    if arguments.user is not None:
        names = pseudonyms(settings)
        if fingerprint not in (None, names.fingerprint):
            raise ConfigurationError(
                "the store's pseudonyms were made with another identity.secret: with this one, no user can be found"
            )
        uid = names.uid(read_user(arguments.user))
    if fingerprint is None:
        raise FatalError(f"state store: {no_store_yet(settings)}", ExitCode.DATA)
    return uid if arguments.uid is None else whole(arguments.uid, store)


def whole(uid: str, users: Users) -> str:
    """Return the pseudonym that begins so. A whole one is not looked up: a listing takes long in a large bucket.

    Raises FatalError if none of the users' pseudonyms, or more than one, begins so.
    """
    if len(uid) == WHOLE_UID:
        return uid
    found = [each for each in users.uids() if each.startswith(uid)]
    if not found:
        raise FatalError(NO_STATE, ExitCode.DATA)
    if len(found) > 1:
        raise ambiguous(uid, found)
    return found[0]


def ambiguous(uid: str, found: list[str]) -> FatalError:
    """Return the error for the beginning of several pseudonyms. found: at least two of them."""
    named = ", ".join(each.encode("unicode_escape").decode() for each in found[:_NAMED])  # letters may hold anything
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return FatalError(
        f"--uid {uid}: the pseudonyms of {counted(len(found), 'user')} begin so, {named}{more}: give more digits",
        ExitCode.USAGE,
    )
