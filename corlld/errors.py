"""Errors whose type decides their fate.

`InvalidEvent` sends its record to the dead letters. `UserTrouble` sets one user aside. `RetriableError` leads to
another try, after a pause. `FatalError` stops the daemon with its exit code. No message may quote a user's text or a
raw user id.
"""

from enum import IntEnum, StrEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of every command; values from sysexits.h if one fits."""

    OK = 0
    USAGE = 2
    # The input was refused: a file with too many dead letters, a replaced file, a recreated topic, a damaged batch. Or
    # the states or versions of too many users can't be used.
    DATA = 65
    UNAVAILABLE = 69  # broker, topic, model or bucket could not be reached, or a port is taken
    INTERNAL = 70  # a bug, or a stop that never came to its end
    # The state store, the adapters or the dead letters on this machine, or an output: no right, no space, a bad disk.
    CANNOT_WRITE = 73
    CONFIGURATION = 78  # wrong settings, an unusable model, a missing package or access rule, another settings' store


class InvalidReason(StrEnum):
    """The reason why a record was set aside; a closed set, since it becomes a metric label."""

    NO_VALUE = "no_value"  # the record has no value, and it does not erase
    TOO_LARGE = "too_large"  # the record or a text is over its limit
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    NOT_CLOUDEVENTS = "not_cloudevents"  # looks like a CloudEvent, but is not valid
    UNKNOWN_TYPE = "unknown_type"
    MISSING_FIELD = "missing_field"
    INVALID_FIELD = "invalid_field"
    KEY_MISSING = "key_missing"
    KEY_MISMATCH = "key_mismatch"
    NO_CHAT_TEMPLATE = "no_chat_template"  # `messages` for a model without a chat template
    UNSUPPORTED_CONTENT = "unsupported_content"  # an image, a sound or another part that is no text
    CRASHED = "crashed"  # its step ended the process, or never came to an end, again and again: also alone
    STATE_UNREADABLE = "state_unreadable"  # the user is set aside until the state can be read and written again
    PUBLICATION_FAILED = "publication_failed"  # the user is set aside until the version can be published again


class RejectReason(StrEnum):
    """The reason why a valid pair did not change the adapter; a closed set (metric label)."""

    TOO_LONG = "too_long"
    NON_FINITE = "non_finite"
    DRIFT = "drift"
    REPETITIVE = "repetitive"  # the edited text repeats itself far more than the draft
    OUT_OF_MEMORY = "out_of_memory"
    # The chat template refuses the chat, or reads a field that engines may drop; or the model can't write a character.
    UNRENDERABLE = "unrenderable"


class CorlldError(Exception):
    """Base of every error that corlld raises on purpose."""


class InvalidEvent(CorlldError):
    """A record can never be applied. Its fate: the dead letters.

    Args:
        reason: from a closed set.
        field: name of the wrong field, never its value.
        detail: what is allowed, in words; must not quote the input.
    """

    def __init__(self, reason: InvalidReason, *, field: str | None = None, detail: str = "") -> None:
        self.reason = reason
        self.field = field
        self.detail = detail
        super().__init__(": ".join(part for part in (reason.value, field, detail) if part))


class UserTrouble(CorlldError):
    """One user's state or version can't be used. Its fate: the user is set aside, and the other users go on.

    reason: of the dead letters that the user's records become.
    detail: what they say, in words.
    """

    reason: ClassVar[InvalidReason]
    detail: ClassVar[str]


class StateUnreadable(UserTrouble):
    """A user's stored state is torn or corrupt, or has not been reached for long. The user never gets a fresh state.

    Args:
        problem: names the file where it is known, and the reason.
        advice: what mends it; the message ends with it.
    """

    reason = InvalidReason.STATE_UNREADABLE
    detail = "the user's stored state can't be read or written"

    def __init__(self, problem: str, advice: str = "") -> None:
        self.problem = problem
        super().__init__("; ".join(part for part in (problem, advice) if part))


class PublicationFailed(UserTrouble):
    """A user's version was published with other content than the state says, or can't be published for long."""

    reason = InvalidReason.PUBLICATION_FAILED
    detail = "the user's version can't be published, or was published with other content than the state says"


class AttemptsUnreadable(CorlldError):
    """What is kept of a partition's attempts is corrupt or damaged. Its fate: a log line, and counting begins anew."""


class RetriableError(CorlldError):
    """Something outside failed and may work later. Its fate: another try after a pause, and no commit meanwhile.

    exit_code: of a command, or of a start, that does not try again.
    """

    def __init__(self, message: str = "", exit_code: ExitCode = ExitCode.UNAVAILABLE) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class TooLargeForTopic(RetriableError):
    """The record is larger than the topic's `max.message.bytes`. The same record must not be sent again."""


class LostSwap(CorlldError):
    """Another owner stored this user's state first. Its fate: the user's memory is dropped, and the state is loaded."""


class FatalError(CorlldError):
    """The daemon or a command can't go on. Its fate: it reports one sentence and exits with `exit_code`."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.INTERNAL) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class ConfigurationError(FatalError):
    """The settings can't work, or the store was made under other settings."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.CONFIGURATION)


class MissingRightError(ConfigurationError):
    """The broker answers, and its access rules refuse what is needed. Other topics can still be checked."""


class NewerFormat(ConfigurationError):
    """The state store, or a state in it, was written by a newer corlld. It is not the trouble of a single user."""


class UnavailableError(FatalError):
    """Something that the start needs could not be reached before the deadline."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.UNAVAILABLE)


class MissingTopicError(UnavailableError):
    """The broker answers and has no such topic. Other topics can still be checked."""
