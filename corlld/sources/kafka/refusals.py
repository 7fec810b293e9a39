"""Explains Kafka's errors that waiting can't mend: one sentence each, with what to do."""

import ssl

from kafka import TopicPartition
from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    FencedInstanceIdError,
    IllegalSaslStateError,
    InconsistentGroupProtocolError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
    UnsupportedCompressionTypeError,
    UnsupportedSaslMechanismError,
    UnsupportedVersionError,
)

from corlld.errors import ConfigurationError, ExitCode, FatalError, UnavailableError
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.unpacking import UnreadableBatch, missing_packages

NO_IDS_REMEDY = (
    "The cluster gives topics no ids, so states take the new topic's records for those of before, and skip them. "
    "Create the topic under another name, and set kafka.topic to that"
)


def explain_refusal(error: BaseException) -> str | None:
    """Return a sentence if waiting can't mend the error (credentials, certificates, access rules), else None."""
    if isinstance(error, UnsupportedSaslMechanismError | IllegalSaslStateError):
        return "the broker does not offer kafka.sasl_mechanism on this listener"
    if isinstance(error, SaslAuthenticationFailedError):
        return "the broker refused the user name or the password: check kafka.sasl_plain_username and its password"
    if isinstance(error, AuthorizationError):
        return f"the broker's access rules forbid it ({type(error).__name__}): topic or group is not allowed"
    if isinstance(error, UnsupportedVersionError):
        return f"the broker does not understand what kafka-python asks: {error}"
    tls = _tls_error(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted ({tls.verify_message}): check kafka.ssl_cafile and the name"
    if tls is not None:
        reason = (getattr(tls, "reason", None) or "handshake failure").replace("_", " ").lower()
        return f"TLS failed ({reason}): check kafka.security_protocol, kafka.ssl_certfile and kafka.ssl_keyfile"
    return None


def fatal_error(error: KafkaError, settings: KafkaSettings) -> FatalError | None:
    """Return the error that a running consumer must stop with, or None if it should go on trying."""
    if isinstance(error, OffsetOutOfRangeError):
        partition, offset = next(iter(error.args[0].items()))
        return _out_of_range(partition, f"offset {offset}", settings)
    if isinstance(error, LogTruncationError):
        return _out_of_range(next(iter(error.divergent_offsets)), "the group's position", settings)
    if isinstance(error, FencedInstanceIdError):
        return ConfigurationError(
            f"another member of group {settings.group_id} has the same kafka.group_instance_id = "
            f"{settings.group_instance_id}: give every daemon its own"
        )
    if isinstance(error, InconsistentGroupProtocolError):
        return ConfigurationError(
            f"group {settings.group_id} has members with another assignor than kafka.assignor = {settings.assignor}: "
            "give all of them the same, or use another kafka.group_id"
        )
    if (fatal := unreadable(error, settings)) is not None:
        return fatal
    if (refusal := explain_refusal(error)) is not None:
        # Access was allowed at the start, and may be again.
        return UnavailableError(f"{', '.join(settings.bootstrap_servers)}: {refusal}")
    return None


def unreadable(error: KafkaError, settings: KafkaSettings) -> FatalError | None:
    """Return the error for records that can't be unpacked, or None if it is another error.

    A codec that is missing here is a ConfigurationError, since the records are sound.
    """
    if isinstance(error, CorruptRecordError | UnsupportedCompressionTypeError):  # the broker's answer to a fetch
        return FatalError(
            f"the broker can't deliver a batch of topic {settings.topic} ({type(error).__name__}): its log says which",
            ExitCode.DATA,
        )
    if not isinstance(error, UnreadableBatch):
        return None
    where = f"{error.partition.topic}:{error.partition.partition}"
    batch = f"the batch at offset {error.offset} of {where}"
    if isinstance(error.__cause__, UnsupportedCodecError):
        packages = ", ".join(missing_packages().values())
        problem = f"whose Python package is missing: install {packages}" if packages else "that is not known here"
        return ConfigurationError(f"{batch} is compressed with a codec {problem}")
    return FatalError(
        f"{batch} is damaged ({type(error.__cause__).__name__}). Give the partition a leader that has a sound copy, "
        f"and start again. To go on without the batch, stop all daemons of group {settings.group_id}, then "
        f"`{_reset(where, settings, '--to-offset OFFSET')}` with the offset behind the batch, and start again",
        ExitCode.DATA,
    )


def recreated(settings: KafkaSettings) -> FatalError:
    """Return the error for a topic whose id changed."""
    return FatalError(
        f"topic {settings.topic} was deleted and created again (its id changed), so the offsets of before mean "
        f"nothing: stop all daemons of group {settings.group_id}, then `{_reset(settings.topic, settings)}`, and start "
        "again",
        ExitCode.DATA,
    )


def ends_before(settings: KafkaSettings) -> FatalError:
    """Return the error for a topic without an id that ends before an offset that it had."""
    return FatalError(
        f"topic {settings.topic} ends before an offset that it had: it was deleted and created again, or its log was "
        f"truncated. {NO_IDS_REMEDY}",
        ExitCode.DATA,
    )


def without_ids(error: FatalError) -> FatalError:
    """Return the error about lost offsets with what it means for a topic without an id."""
    return FatalError(f"{error}. Or the topic was deleted and created again. {NO_IDS_REMEDY}", error.exit_code)


def _out_of_range(partition: TopicPartition, place: str, settings: KafkaSettings) -> FatalError:
    where = f"{partition.topic}:{partition.partition}"
    return FatalError(
        f"{place} of {where} is not in the topic any more: records expired before they were read, or the log was "
        f"truncated. To go on with what is there, stop all daemons of group {settings.group_id}, then "
        f"`{_reset(where, settings)}`, and start again",
        ExitCode.DATA,
    )


def _reset(topic: str, settings: KafkaSettings, to: str = "--to-earliest") -> str:
    return (
        f"kafka-consumer-groups --bootstrap-server {settings.bootstrap_servers[0]} --group {settings.group_id} "
        f"--topic {topic} --reset-offsets {to} --execute"
    )


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """Return the TLS error inside, or None. An end of file is left out: a broker that stops looks the same."""
    chain: list[BaseException | None] = [error, error.__cause__, error.__context__]
    chain += [arg for arg in error.args if isinstance(arg, BaseException)]
    for link in chain:
        if isinstance(link, ssl.SSLError) and not isinstance(link, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return link
    return None
