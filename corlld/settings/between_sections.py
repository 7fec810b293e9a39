"""Combinations of values of two sections that can't work. They are refused whatever the command."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from corlld.settings.fields import is_to_blame
from corlld.settings.path_conflicts import problems_of_paths

if TYPE_CHECKING:
    from corlld.settings.sections import Settings


def problems_between_sections(settings: "Settings") -> Iterator[str]:
    """Yield a line for each problem, which begins with the name of a setting and a colon."""
    kafka, letters = settings.kafka, settings.dead_letters
    if letters.topic == kafka.topic:
        names = ("dead_letters.topic", "kafka.topic")
        wrong, other = names if is_to_blame(letters, "topic", "topic", of=kafka) else reversed(names)
        yield f"{wrong}: found {kafka.topic!r}, allowed: another topic than {other}"
    yield from problems_of_paths(settings)
    learning, arms = settings.learning, settings.experiment.arms
    rehearses = learning.rehearsal_weight or any(arm.learning.get("rehearsal_weight") for arm in arms)
    if learning.rehearsal_path is not None and not rehearses:
        yield (
            "learning.rehearsal_path: set, allowed: only with learning.rehearsal_weight > 0, in [learning] or in an arm"
        )
    if settings.publishing.enabled:
        yield from _problems_of_publishing(settings)


def _problems_of_publishing(settings: "Settings") -> Iterator[str]:
    publishing = settings.publishing
    for name, topic in (("kafka.topic", settings.kafka.topic), ("dead_letters.topic", settings.dead_letters.topic)):
        if publishing.announce_topic == topic:
            yield f"publishing.announce_topic: found {topic!r}, allowed: another topic than {name}"
