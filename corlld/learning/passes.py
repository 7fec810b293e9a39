"""Passes of several users' pairs through the base model: which users share them, and what happens if memory is short.

The device's limits are met here: a group of users or a row of tokens that does not fit is halved. What is learnt, and
what a step may do, is not known here.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from corlld.errors import RejectReason
from corlld.learning.model.packing import Item, Row, cut
from corlld.learning.model.resident import ResidentModel
from corlld.learning.model.stacked_lora import StackedAdapters
from corlld.learning.objective import Objective, PairSums, RowSums, ScoredPairs, Sums
from corlld.learning.slots import Slots, is_out_of_memory
from corlld.learning.start_adapter import References
from corlld.learning.user_step import Candidate, StepResult, UserStep
from corlld.records import TokenCounts

# How many times as long the rows without gradient are: longer rows are faster, and these keep nothing for later. Where
# `max_row_tokens` is 1, for results to the bit, such a row is still shorter than two pairs.
_SCORED = 4


class _RowTooLarge(Exception):
    """The device could not hold a row. number: the row's; None if the memory was short between rows."""

    def __init__(self, number: int | None) -> None:
        self.number = number


@dataclass(frozen=True, eq=False)
class Group:
    """Users whose pairs go through the model together, in a step.

    steps: K users' parts of it. rows: the candidates of all of them, laid out.
    """

    steps: Sequence[UserStep]
    rows: Sequence[Row]

    @cached_property
    def candidates(self) -> list[Candidate]:
        """All that is scored, user by user."""
        return _flat(self.steps)

    @property
    def pairs(self) -> list[int]:
        """The number of each user's pairs, without what is rehearsed."""
        return [len(step.pairs) for step in self.steps]


class RowPass(NamedTuple):
    """The results of a row's passes, without a graph. logps: of tail tokens, (N,). losses: of pairs, (pairs,)."""

    logps: torch.Tensor
    losses: torch.Tensor


class GroupPass(NamedTuple):
    """The results of a group's passes. logps: of each row's tail tokens, (N,) each. losses: of each candidate."""

    logps: Sequence[torch.Tensor]
    losses: Sequence[float]


class Passes:
    """Runs pairs through the base model.

    Args:
        resident: the base model with its injected LoRA.
        slots: the users' places.
        objective: the loss of each pair.
        row_tokens: how many tokens of pairs share a forward and a backward pass. References are scored in longer rows.
        references: the adapters that are the reference `base`.
    """

    def __init__(
        self,
        resident: ResidentModel,
        slots: Slots,
        objective: Objective,
        row_tokens: int,
        references: References,
    ) -> None:
        self._resident = resident
        self._slots = slots
        self._objective = objective
        self._row_tokens = row_tokens
        self._references = references
        self.rows = 0  # run so far; read by other threads, as the tokens are
        self._computed = 0
        self._padding = 0

    @property
    def tokens(self) -> TokenCounts:
        """Tokens of the rows that were run so far."""
        return TokenCounts(self._computed, self._padding)

    def score(self, steps: Sequence[UserStep], *, base: bool) -> None:
        """Fill in `base`, or else `previous`, of the candidates, by a pass without gradient.

        A candidate that the device can't hold is left as it was.
        """
        for users in self._groups(steps, _SCORED * self._row_tokens):
            self._score_group(users, base=base)

    def _score_group(self, users: Sequence[UserStep], *, base: bool) -> None:
        adapters, fits = None, False
        with contextlib.suppress(_RowTooLarge), blaming(None):
            adapters, fits = self._reference(users, base=base), True
        if not fits:
            self._free_memory()
            if len(users) > 1:
                middle = len(users) // 2
                self._score_group(users[:middle], base=base)
                self._score_group(users[middle:], base=base)
            return
        candidates, items = _flat(users), _items(users)
        waiting = self._resident.collator.pack(items, _SCORED * self._row_tokens, len(users))
        while waiting:
            row = waiting.pop(0)
            logps = None
            with contextlib.suppress(_RowTooLarge), blaming(None):
                logps = self.scored(row, adapters)
            if logps is None:
                self._free_memory()
                if len(row.items) > 1:
                    waiting[:0] = self._resident.collator.halves(items, row)
                continue
            for member, sums in zip(row.members, _by_pair(self._objective.sums(row, logps)), strict=True):
                if base:
                    candidates[member].base = sums
                else:
                    candidates[member].previous = sums

    def _reference(self, users: Sequence[UserStep], *, base: bool) -> StackedAdapters | None:
        """Return the adapters that give `base`, or else `previous`; None for the base model alone."""
        slots = [step.slot for step in users]
        weights = self._references.weights(slots) if base else self._slots.gather(slots).weights
        return None if weights is None else self._resident.lora.stack(weights)

    def scored(self, row: Row, adapters: StackedAdapters | None) -> torch.Tensor:
        """Return log pi of each tail token, (N,), by a pass without gradient."""
        logps = self._resident.scored(row, adapters)
        self._count(row)
        return logps

    def take_steps(self, steps: Sequence[UserStep], attempt: Callable[[Group], list[StepResult]]) -> list[StepResult]:
        """Return each user's result, in order. A user's step fails if one of its pairs does not fit alone.

        attempt: takes the step of a group, and is called again with half of it if the device has too little memory.
        """
        return [
            result for users in self._groups(steps, self._row_tokens) for result in self._take_group(users, attempt)
        ]

    def _take_group(self, users: list[UserStep], attempt: Callable[[Group], list[StepResult]]) -> list[StepResult]:
        rows = self._rows(users)
        while True:
            try:
                return attempt(Group(users, rows))
            except _RowTooLarge as error:
                number = error.number
            # Out of the handler, since its traceback would hold on to the tensors of the failed row.
            self._free_memory()
            if len(users) > 1:
                middle = len(users) // 2
                return self._take_group(users[:middle], attempt) + self._take_group(users[middle:], attempt)
            if number is None or len(rows[number].items) == 1:
                return [StepResult(RejectReason.OUT_OF_MEMORY)]
            rows[number : number + 1] = self._resident.collator.halves(_items(users), rows[number])

    def train(self, group: Group, adapters: StackedAdapters) -> GroupPass:
        """Run each row of the group forward and backward, and fill in the candidates' sums."""
        before: list[torch.Tensor] = []
        losses = [0.0] * len(group.candidates)
        for number, row in enumerate(group.rows):
            own = [group.candidates[member] for member in row.members]
            with blaming(number):
                found = self.row_losses(row, adapters, own, group.pairs)
            self._count(row)
            before.append(found.logps)
            for candidate, sums in zip(own, _by_pair(self._objective.sums(row, found.logps)), strict=True):
                candidate.now = sums
                candidate.base = candidate.base or sums
                candidate.previous = candidate.previous or sums
            for member, loss in zip(row.members, found.losses.tolist(), strict=True):
                losses[member] = loss
        return GroupPass(before, losses)

    def row_losses(
        self, row: Row, adapters: StackedAdapters, candidates: Sequence[Candidate], pairs: Sequence[int]
    ) -> RowPass:
        """Run a row forward and backward. The forward pass gives the prequential figures at no cost.

        Args:
            row: a part of the step.
            adapters: of the step's users; their gradients grow by the row's part of each user's mean loss.
            candidates: the row's, in its order.
            pairs: how many pairs each user has in the step, without what is rehearsed.
        """
        with self._resident.bound(row, adapters):
            logps = self._resident.token_logps(row)
            losses = self._objective.losses(
                ScoredPairs(
                    policy=self._objective.sums(row, logps),
                    base=[candidate.base for candidate in candidates],
                    previous=[candidate.previous for candidate in candidates],
                    accepted=[candidate.pair.is_acceptance for candidate in candidates],
                    rehearsed=[candidate.rehearsed for candidate in candidates],
                    chosen_tokens=[len(candidate.pair.chosen) for candidate in candidates],
                )
            )
            shares = torch.tensor(
                [1.0 if c.rehearsed else 1 / pairs[i.user] for i, c in zip(row.items, candidates, strict=True)],
                dtype=losses.dtype,
            )
            torch.autograd.backward(losses @ shares.to(losses.device))
        return RowPass(logps.detach(), losses.detach())

    def _groups(self, steps: Sequence[UserStep], row_tokens: int) -> Iterator[list[UserStep]]:
        """Yield users whose pairs fit in one row together. A user with more pairs is alone; passages don't count.

        There are as few groups as possible, of about the same size: a last one of what is left over would be slow.
        """
        sizes = [sum(candidate.pair.tokens for candidate in step.pairs) for step in steps]
        share = sum(sizes) / max(1, -(-sum(sizes) // row_tokens))
        group: list[UserStep] = []
        tokens, before, given = 0, 0, 0
        for step, size in zip(steps, sizes, strict=True):
            if group and (tokens + size > row_tokens or before + size / 2 > share * (given + 1)):
                yield group
                group, tokens = [], 0
                given += 1
            group.append(step)
            tokens += size
            before += size
        if group:
            yield group

    def _rows(self, users: Sequence[UserStep]) -> list[Row]:
        """Return the rows of a step. All is one packed row if it fits, since shorter ones are slow.

        Otherwise passages have rows of their own: the guard leaves those out, and no pair is padded to their length.
        """
        collator, candidates, items = self._resident.collator, _flat(users), _items(users)
        if collator.shares_prefixes and sum(item.pair.tokens for item in items) <= self._row_tokens:
            return [collator.row(items, range(len(items)), len(users))]
        pairs = [member for member, candidate in enumerate(candidates) if not candidate.rehearsed]
        passages = [member for member, candidate in enumerate(candidates) if candidate.rehearsed]
        rows = itertools.chain(cut(items, pairs, self._row_tokens), cut(items, passages, self._row_tokens))
        return [collator.row(items, members, len(users)) for members in rows]

    def _count(self, row: Row) -> None:
        self.rows += 1
        self._computed += row.tokens
        self._padding += row.padding

    def _free_memory(self) -> None:
        self._slots.release()  # a smaller group needs less of it
        if self._resident.device.type == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def blaming(number: int | None) -> Iterator[None]:
    """Have `Passes` halve the row of this number, or the group if None, if the device runs out of memory inside."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise _RowTooLarge(number) from None
        raise


def _flat(users: Sequence[UserStep]) -> list[Candidate]:
    return [candidate for step in users for candidate in step.scored]


def _items(users: Sequence[UserStep]) -> list[Item]:
    return [Item(user, candidate.pair) for user, step in enumerate(users) for candidate in step.scored]


def _by_pair(sums: RowSums) -> list[PairSums]:
    """Return the sums of each pair as numbers. One synchronisation with the device."""
    numbers = torch.stack([*sums.tail, *sums.changed], dim=1).tolist()
    return [PairSums(Sums(*both[:2]), Sums(*both[2:])) for both in numbers]
