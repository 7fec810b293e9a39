"""Learners of several rules on one resident model: each user is taught by the rule of the user's arm.

Users of different arms share no pass: an objective is that of a whole row. The arms of a call are taught one after the
other, and share model, slots and passages.
"""

from collections.abc import Mapping, Sequence

from corlld.durable import ModelInfo
from corlld.learning.learner import CorllLearner
from corlld.records import TokenCounts, TrainingBatch, UpdateOutcome


class ArmLearners:
    """Implements `corlld.protocols.Learner`.

    Args:
        learners: by the name of the arm; not empty. They share model and slots.
    """

    def __init__(self, learners: Mapping[str, CorllLearner]) -> None:
        self._learners = dict(learners)

    @property
    def model_info(self) -> ModelInfo:
        return next(iter(self._learners.values())).model_info

    @property
    def start_digest(self) -> str | None:
        """The digest of the adapter that new users begin from; see `CorllLearner`."""
        return next(iter(self._learners.values())).start_digest

    @property
    def progress(self) -> int:
        """See the protocol."""
        return sum(learner.progress for learner in self._learners.values())

    @property
    def tokens(self) -> TokenCounts:
        """See the protocol."""
        counts = [learner.tokens for learner in self._learners.values()]
        return TokenCounts(sum(each.computed for each in counts), sum(each.padding for each in counts))

    def update(self, batches: Sequence[TrainingBatch]) -> list[UpdateOutcome]:
        """Return one outcome per batch, in order. See the protocol.

        Raises:
            KeyError: a batch names an arm that has no learner.
            ValueError: a user has two batches.
        """
        if len({batch.uid for batch in batches}) < len(batches):
            raise ValueError("a user has more than one batch in the same call")
        outcomes: dict[str, UpdateOutcome] = {}
        for arm in dict.fromkeys(batch.arm for batch in batches):
            own = [batch for batch in batches if batch.arm == arm]
            outcomes |= {outcome.uid: outcome for outcome in self._learners[arm].update(own)}
        return [outcomes[batch.uid] for batch in batches]
