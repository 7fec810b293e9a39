"""One user's part of a step: the pairs, what is known of them so far, and what became of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from corlld.errors import RejectReason
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.slots import Slot

Sums = tuple[float, float]  # log pi of the chosen and of the rejected tail, in nats


@dataclass(eq=False)
class Candidate:
    """A pair on its way through an update, with what is known of it: it is kept while the pair waits or is retried.

    now: under the adapter as the pair's last step began. base: under the base model. previous: under the adapter as the
    micro-batch began. None: not known yet. rehearsed: not the user's: plain text, whose `base` is known.
    """

    pair: PreferencePair
    now: Sums | None = None
    base: Sums | None = None
    previous: Sums | None = None
    rehearsed: bool = False


@dataclass(frozen=True, eq=False)
class UserStep:
    """One user's part of a step: at most `pairs_per_step` pairs, and what is rehearsed beside them, if anything."""

    slot: Slot
    candidates: Sequence[Candidate]
    rehearsal: Candidate | None = None

    @property
    def scored(self) -> Sequence[Candidate]:
        """All that goes through the model: the pairs, then the rehearsal."""
        return self.candidates if self.rehearsal is None else (*self.candidates, self.rehearsal)

    @property
    def plain_text_drop_nats(self) -> float | None:
        """By how much the adapter, as the step began, makes the rehearsed passage less likely than the base model does,
        per scored token; None where nothing is rehearsed.
        """
        if (passage := self.rehearsal) is None or passage.now is None or passage.base is None:
            return None
        return (passage.base[0] - passage.now[0]) / len(passage.pair.chosen)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a user's step did. With a `failure` the user's slot is as it was, bit for bit.

    loss: mean over the pairs, and what a rehearsal adds. gradient_norm: before it was clipped. drift_nats,
    delta_chosen_logps: None where the step's drift was not due. plain_text_drop_nats: as of the `UserStep`.
    """

    failure: RejectReason | None
    loss: float | None = None
    gradient_norm: float | None = None
    drift_nats: float | None = None
    delta_chosen_logps: tuple[float, ...] | None = None
    plain_text_drop_nats: float | None = None


@dataclass(frozen=True, slots=True)
class PairScore:
    """What adapter and base model make of an event: log pi of the tails, in nats.

    policy, base: (edited, proposed); the second is 0 where both texts are one. edited_tokens: that the first is summed
    over.
    """

    policy: Sums
    base: Sums
    edited_tokens: int

    @property
    def margin(self) -> float:
        """How much more than the base model the adapter prefers the edited text."""
        return (self.policy[0] - self.policy[1]) - (self.base[0] - self.base[1])


def by_user(values: Sequence[float], group: Sequence[UserStep]) -> Iterator[Sequence[float]]:
    """Values of all that is scored, in order, as each user's part of them."""
    start = 0
    for step in group:
        end = start + len(step.scored)
        yield values[start:end]
        start = end


def mean_loss(pairs: int, losses: Sequence[float]) -> float:
    """Of the pairs, which come first; a rehearsal's adds to it."""
    return math.fsum(losses[:pairs]) / pairs + math.fsum(losses[pairs:])
