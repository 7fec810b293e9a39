"""One user's part of a step: the pairs, what is known of them so far, and what became of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from corlld.errors import RejectReason
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.objective import PairSums, Sums
from corlld.learning.slots import Slot


@dataclass(eq=False)
class Candidate:
    """A pair on its way through an update, with what is known of it. That is kept while the pair waits or is retried.

    now: sums under the adapter as the pair's last step began. base: under the base model. previous: under the adapter
    as the micro-batch began. None: not known yet. rehearsed: a passage of plain text, not the user's; its `base` is
    known. replayed: one of the user's pairs of before, trained again; both references are known.
    """

    pair: PreferencePair
    now: PairSums | None = None
    base: PairSums | None = None
    previous: PairSums | None = None
    rehearsed: bool = False
    replayed: bool = False

    @property
    def is_new(self) -> bool:
        """Return whether it is an edit or an acceptance of this micro-batch."""
        return not self.rehearsed and not self.replayed


@dataclass(frozen=True, eq=False)
class UserStep:
    """One user's part of a step: at most `pairs_per_step` new pairs, and what is trained beside them.

    replayed: pairs of before. They have the weight of new ones. rehearsal: the passage that is rehearsed.
    """

    slot: Slot
    candidates: Sequence[Candidate]
    replayed: Sequence[Candidate] = ()
    rehearsal: Candidate | None = None

    @property
    def pairs(self) -> Sequence[Candidate]:
        """The pairs, new ones first."""
        return (*self.candidates, *self.replayed)

    @property
    def scored(self) -> Sequence[Candidate]:
        """All candidates that go through the model: the pairs, then the rehearsal."""
        return self.pairs if self.rehearsal is None else (*self.pairs, self.rehearsal)

    @property
    def plain_text_drop_nats(self) -> float | None:
        """The fall of the rehearsed passage's log pi, from the base model to the adapter as the step began.

        In nats per scored token. None if nothing is rehearsed.
        """
        if (passage := self.rehearsal) is None or passage.now is None or passage.base is None:
            return None
        return (passage.base.tail.chosen - passage.now.tail.chosen) / len(passage.pair.chosen)


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of a user's step. After a `failure` the user's slot is as it was, bit for bit.

    loss: the mean over the pairs, plus the rehearsal's. gradient_norm: before it was clipped.
    drift_nats, delta_chosen_logps (per new pair): None if the step's drift was not due.
    plain_text_drop_nats: see `UserStep`.
    """

    failure: RejectReason | None
    loss: float | None = None
    gradient_norm: float | None = None
    drift_nats: float | None = None
    delta_chosen_logps: tuple[float, ...] | None = None
    plain_text_drop_nats: float | None = None


@dataclass(frozen=True, slots=True)
class PairScore:
    """The log pi of an event's tails under the adapter (`policy`) and under the base model.

    edited_tokens: length of the chosen tail.
    """

    policy: Sums
    base: Sums
    edited_tokens: int

    @property
    def margin(self) -> float:
        """The margin h in nats: how much more than the base model the adapter prefers the edited text."""
        return self.policy.preference - self.base.preference


def by_user(values: Sequence[float], group: Sequence[UserStep]) -> Iterator[Sequence[float]]:
    """Yield each user's part of `values`, which has one value per scored candidate, in order."""
    start = 0
    for step in group:
        end = start + len(step.scored)
        yield values[start:end]
        start = end


def mean_loss(pairs: int, losses: Sequence[float]) -> float:
    """Return the mean loss of a user's `pairs`, which come first in `losses`, plus the rehearsal's loss."""
    return math.fsum(losses[:pairs]) / pairs + math.fsum(losses[pairs:])
