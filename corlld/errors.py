"""Errors whose type decides their fate.

`InvalidEvent` goes to the dead-letter topic, `RetriableError` is tried again with back-off, `FatalError` stops the
daemon with its exit code. No message may quote a user's text or a raw user id.
"""

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of every command (values from sysexits.h where one fits)."""

    OK = 0
    USAGE = 2
    DATA = 65  # the input was refused: too many dead letters, a replaced file, a recreated topic
    UNAVAILABLE = 69  # broker, topic or store could not be reached before the start deadline
    INTERNAL = 70  # a bug, or an integrity alarm
    CANNOT_WRITE = 73  # no permission or no space at the start
    CONFIGURATION = 78  # wrong settings, or a store that belongs to other settings


class InvalidReason(StrEnum):
    """Why a record was set aside; a closed set, since it becomes a metric label."""

    NO_VALUE = "no_value"  # no value, and tombstones do not erase
    TOO_LARGE = "too_large"  # the record's bytes or a text pass their limit
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    NOT_CLOUDEVENTS = "not_cloudevents"  # looks like a CloudEvent, but is not a valid one
    UNKNOWN_TYPE = "unknown_type"
    MISSING_FIELD = "missing_field"
    INVALID_FIELD = "invalid_field"
    KEY_MISSING = "key_missing"
    KEY_MISMATCH = "key_mismatch"
    NO_CHAT_TEMPLATE = "no_chat_template"  # `messages` for a model without a chat template
    STATE_UNREADABLE = "state_unreadable"  # the user is set aside until the state is repaired


class RejectReason(StrEnum):
    """Why a valid pair did not change the adapter; a closed set (metric label)."""

    TOO_LONG = "too_long"
    NON_FINITE = "non_finite"
    DRIFT = "drift"
    REPETITIVE = "repetitive"  # the edit makes the text repeat itself far more than the draft did
    OUT_OF_MEMORY = "out_of_memory"
    UNRENDERABLE = "unrenderable"  # the chat template refuses the messages, or the model has no embedding for a token


class CorlldError(Exception):
    """Base of every error that corlld raises on purpose."""


class InvalidEvent(CorlldError):
    """A record that can never be applied. Its fate: the dead-letter topic.

    Args:
        reason: one of a closed set.
        field: name of the offending field, never its value.
        detail: what is allowed, in words; must not quote the input.
    """

    def __init__(self, reason: InvalidReason, *, field: str | None = None, detail: str = "") -> None:
        self.reason = reason
        self.field = field
        self.detail = detail
        super().__init__(": ".join(part for part in (reason.value, field, detail) if part))


class StateUnreadable(CorlldError):
    """A user's stored state is torn or corrupt. Its fate: the user is set aside, nothing is started afresh."""


class RetriableError(CorlldError):
    """Something outside failed and may work later. Its fate: again, after a pause; nothing is committed meanwhile."""


class TooLargeForTopic(RetriableError):
    """The topic's `max.message.bytes` does not let this record in. Sending the same again is no use."""


class LostSwap(CorlldError):
    """Another owner stored this user's state first. Its fate: drop the user's memory and load again."""


class FatalError(CorlldError):
    """The daemon can't go on. Its fate: one sentence, and `exit_code`."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.INTERNAL) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class ConfigurationError(FatalError):
    """Settings that can't work, or a store that was made under other settings."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.CONFIGURATION)


class UnavailableError(FatalError):
    """Something that the start needs could not be reached before its deadline."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.UNAVAILABLE)


class MissingTopicError(UnavailableError):
    """The broker answers, and has no such topic: other topics can be asked for."""
