"""Settings that were set and that a run does not use, because of another setting. They may be meant, so they are named.

A combination that is certainly a mistake is refused: by its section, by `between_sections`, or by the input.
"""

from collections.abc import Iterator

from corlld.settings.kafka_cluster import KafkaSettings
from corlld.settings.sections import Settings

_OF_A_FILE = ("source.path", "source.follow", "dead_letters.path")
_OF_A_GROUP = (
    "kafka.group_id",
    "kafka.group_instance_id",
    "kafka.start_at",
    "kafka.assignor",
    "kafka.session_timeout_seconds",
    "kafka.heartbeat_interval_seconds",
    "kafka.max_poll_interval_seconds",
    "kafka.max_poll_records",
    "kafka.max_partition_fetch_bytes",
)
_OF_A_TOPIC = ("dead_letters.topic", "events.tombstones_erase", *_OF_A_GROUP)
_TOPIC = "kafka.topic"
_OF_A_CONNECTION = tuple(
    name for key in KafkaSettings.model_fields if (name := f"kafka.{key}") not in (*_OF_A_GROUP, _TOPIC)
)
_OF_VERSIONS = ("publishing.path", "publishing.keep_versions", "publishing.keep_seconds", "publishing.announce_topic")


def unused(settings: Settings, *, kind: str, is_topic: bool) -> list[str]:
    """Return a line per reason, with the settings that have another value than their default and are not used.

    Args:
        settings: those of a run.
        kind: of the input, as `source.kind` has it.
        is_topic: the input is a topic of Kafka.
    """
    lines = []
    for names, reason in _not_used(settings, kind, is_topic):
        changed = [name for name in names if _is_changed(settings, name)]
        if changed:
            lines.append(f"not used: {', '.join(changed)} ({reason})")
    return lines


def _not_used(settings: Settings, kind: str, is_topic: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield names of settings, and why they are not used."""
    publishing, weight = settings.publishing, settings.learning.imitation_weight
    if is_topic:
        yield _OF_A_FILE, f"source.kind is {kind}"
    else:
        yield _OF_A_TOPIC, f"source.kind is {kind}"
        announces = publishing.enabled and publishing.announce_topic is not None
        of_send = (_TOPIC,) if announces else (_TOPIC, *_OF_A_CONNECTION)
        yield of_send, f"source.kind is {kind}: only `corlld send` reads this"
    if settings.state.url is not None:
        yield ("state.path",), "state.url replaces it"
    if not publishing.enabled:
        yield _OF_VERSIONS, "publishing.enabled is off"
    if not weight and not any(arm.learning.get("imitation_weight") for arm in settings.experiment.arms):
        yield ("learning.imitation_tokens",), "learning.imitation_weight is 0"


def _is_changed(settings: Settings, name: str) -> bool:
    section, _, key = name.partition(".")
    return bool(getattr(settings, section).is_changed(key))
