"""Migrations of a state's text: each step makes the fields of one format from the fields of the format before.

The steps are pure. A step to a released format is never changed: states of every format lie in somebody's store. To add
a field, raise `store_format.FORMAT` and add a step that gives the field's value for states from before it: an older
program would read the state without the field, and store it so. A field may still join a format that is not released.
"""

from collections.abc import Callable, Mapping
from typing import Any

from corlld.state import store_format

Fields = dict[str, Any]

# New in format 2, with the values for states from before. Late programs of format 1 wrote the fields already, each only
# if it had a value.
_OF_STATES: Mapping[str, Any] = {"older_event_ids": "", "start": None, "kept_pairs": "", "participation": None}
_OF_STATISTICS: Mapping[str, Any] = {
    # States without these figures: their next drafts count as the first ones.
    "first_drafts": {"events": 0, "acceptances": 0, "edit_ratio_sum": 0.0, "repetition_sum": 0.0},
    "edited_rise": {"pairs": 0, "nats_sum": 0.0},
    "base_draft_pairs": {"pairs": 0, "correct": 0.0},
}
_OF_DRAFTS = {"repetition_sum": 0.0}
_BESIDE_STATISTICS = ("edited_rise", "base_draft_pairs")  # where format 1 has them
_BESIDE_RELEASE = "release_"  # before the names of what belongs to the release


def to_2(fields: Fields) -> Fields:
    """Make every field mandatory, and put what stood beside the statistics and the release into them."""
    release = fields["release"]
    if release is not None:
        release = {
            **release,
            "statistics": _statistics_2(release["statistics"], fields, _BESIDE_RELEASE),
            "module_names": fields.get(f"{_BESIDE_RELEASE}module_names"),
        }
    beside = {prefix + name for prefix in ("", _BESIDE_RELEASE) for name in (*_BESIDE_STATISTICS, "module_names")}
    known = {name: value for name, value in fields.items() if name not in beside}
    statistics = _statistics_2(fields["statistics"], fields)
    return {**_OF_STATES, **known, "statistics": statistics, "release": release}


STEPS: Mapping[int, Callable[[Fields], Fields]] = {1: to_2}  # by the format that a step begins with


def migrated(fields: Fields) -> Fields:
    """Return the fields of a state's text in today's format.

    Args:
        fields: in today's format or an older one. They are not changed.

    Raises:
        ValueError: the format is none of these.
        KeyError, TypeError, AttributeError: the fields are none of their format's.
    """
    number = fields["format"]
    if number != store_format.FORMAT and number not in STEPS:
        raise ValueError("it was written in a format that this version of corlld does not know")
    for step in range(number, store_format.FORMAT):
        fields = {**STEPS[step](fields), "format": step + 1}
    return fields


def _statistics_2(statistics: Fields, text: Fields, prefix: str = "") -> Fields:
    beside = {name: text[prefix + name] for name in _BESIDE_STATISTICS if prefix + name in text}
    figures = {**_OF_STATISTICS, **statistics, **beside}
    drafts = {version: {**_OF_DRAFTS, **of_version} for version, of_version in figures["drafts"].items()}
    return {**figures, "drafts": drafts}
