"""The runs of the study of harm: the defaults, and variants with another guard or another rule. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from corlld.settings.sections import LearningSettings

DEFAULTS = "defaults"  # the variant without a change
UNGUARDED = "any repetition"  # the guard lets pasted words through
UNREHEARSED = "no rehearsal"


@dataclass(frozen=True, slots=True)
class Variant:
    """A run with some settings changed, and its users.

    kinds: of users. edits: per user. learning, guard: the changed settings. every_seed: it is run for every seed, and
    not for the first one alone.
    """

    name: str
    kinds: tuple[str, ...]
    edits: int
    learning: Mapping[str, float] = field(default_factory=dict)
    guard: Mapping[str, float] = field(default_factory=dict)
    every_seed: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """The amount of work.

    edits: per user. measure_every: edits between two measurements. learning: the rule of all variants.
    """

    edits: int
    measure_every: int
    variants: tuple[Variant, ...]
    learning: LearningSettings = field(default_factory=LearningSettings)


FULL = Scale(
    edits=80,
    measure_every=20,
    variants=(
        # What becomes of an adapter that learns pasted words, and which figure would show it?
        Variant(UNGUARDED, ("pasting",), 80, guard={"max_repetition_rise": 1.0}),
        # Does a smaller bound of drift stop the leaping user before it stops the honest one?
        Variant("drift 0.1", ("honest", "leaping"), 20, guard={"max_drift_nats": 0.1}),
        # What keeps noise from doing harm, and at what price?
        Variant(UNREHEARSED, ("honest", "noisy"), 80, {"rehearsal_weight": 0.0}, every_seed=True),
    ),
)
QUICK = Scale(
    edits=8,
    measure_every=4,
    variants=(
        Variant(UNGUARDED, ("pasting",), 8, guard={"max_repetition_rise": 1.0}),
        Variant(UNREHEARSED, ("honest", "noisy"), 8, {"rehearsal_weight": 0.0}, every_seed=True),
    ),
)
