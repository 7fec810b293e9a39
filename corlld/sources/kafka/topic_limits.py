"""Judges a topic's own settings by what is written to it: what can never be acknowledged, and what would be cut."""

from collections.abc import Mapping

from corlld.errors import ConfigurationError

MIN_INSYNC, MAX_MESSAGE = "min.insync.replicas", "max.message.bytes"
LIMITS = (MIN_INSYNC, MAX_MESSAGE)
# Key and headers of a letter without its payload (the reason is a sentence of corlld's own), or an announcement.
SMALLEST_BYTES = 2_048
# What a letter has beside the record's value: its own key and headers, and the record's.
AROUND_BYTES = 16_384


def refuse_unacknowledged(topic: str, replicas: int, limits: Mapping[str, str], *, capped: bool) -> None:
    """Refuse a topic that never acknowledges, since corlld waits for all replicas.

    Args:
        topic: its name.
        replicas: of the partition that has the fewest.
        limits: those of `LIMITS` that are known.
        capped: the broker asks no more replicas to acknowledge than there are: see `features.REPLICAS_CAPPED`.

    Raises:
        ConfigurationError: names the topic's setting, and what to do.
    """
    if not capped and (fewer := _fewer_replicas(replicas, limits)) is not None:
        raise ConfigurationError(f"topic {topic} never acknowledges a record: {fewer}")
    if (most := _number(limits, MAX_MESSAGE)) is not None and most < SMALLEST_BYTES:
        raise ConfigurationError(
            f"topic {topic} takes no record of corlld: its {MAX_MESSAGE} is {most:,}. Set it to {SMALLEST_BYTES:,} at "
            "least"
        )


def acknowledged_by_newer(topic: str, replicas: int, limits: Mapping[str, str]) -> str | None:
    """Return the sentence for a topic that only newer brokers acknowledge; None if all do. Arguments as above."""
    if (fewer := _fewer_replicas(replicas, limits)) is None:
        return None
    return f"Brokers before Kafka 3.7 never acknowledge a record of topic {topic}: {fewer}"


def _fewer_replicas(replicas: int, limits: Mapping[str, str]) -> str | None:
    if (least := _number(limits, MIN_INSYNC)) is None or not 0 < replicas < least:
        return None
    return (
        f"it has {replicas} {'replica' if replicas == 1 else 'replicas'}, and its {MIN_INSYNC} is {least}. Give it "
        f"more replicas, or set {MIN_INSYNC} to {replicas} at most"
    )


def letters_cut(topic: str, max_record_bytes: int, limits: Mapping[str, str]) -> str | None:
    """Return the sentence for a topic that takes letters of large records without their payload; None if it does not.

    Args:
        topic: of the dead letters.
        max_record_bytes: the largest value of a valid event.
        limits: those of `LIMITS` that are known.
    """
    wanted = max_record_bytes + AROUND_BYTES
    if (most := _number(limits, MAX_MESSAGE)) is None or most >= wanted:
        return None
    return (
        f"Dead letters of large records lose their payload: {MAX_MESSAGE} of topic {topic} is {most:,}, and "
        f"events.max_record_bytes allows values of {max_record_bytes:,}. Set {MAX_MESSAGE} to {wanted:,}"
    )


def unknown_limits(topic: str, limits: Mapping[str, str], *, refused: bool) -> str | None:
    """Return the sentence for limits that are not known; None if all are.

    refused: the access rules forbid to ask.
    """
    if not (unknown := [name for name in LIMITS if _number(limits, name) is None]):
        return None
    names = " and ".join(unknown)
    if refused:
        return f"{names} could not be asked: that needs DescribeConfigs on topic {topic}"
    return f"The broker does not report {names} of topic {topic}"


def _number(limits: Mapping[str, str], name: str) -> int | None:
    """Return a limit; None if it is not known. Services beside Apache Kafka may answer anything."""
    try:
        return int(limits[name])
    except (KeyError, ValueError):
        return None
