"""Pairs packed end to end into rows, without padding, and the mask that keeps them apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from corlld.learning.pairs import PreferencePair

_PROMPT, _CHOSEN, _REJECTED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Row:
    """Pairs laid end to end, each as [prompt | chosen | rejected]. T tokens, N of them in tails.

    members: index of each pair in what `pack` was given. lengths: tokens of each tail: chosen, rejected, chosen ...
    (0 for the rejected one of an acceptance). input_ids, position_ids: (1, T); both tails go on from their prompt's
    last position. segment, part: (T,), the pair, and which of its three stretches. predict: (N,), where in the row the
    logits for each tail token are; the first one of both tails is predicted by the prompt's last. targets: (N,).
    """

    pairs: tuple[PreferencePair, ...]
    members: tuple[int, ...]
    lengths: tuple[int, ...]
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segment: torch.Tensor
    part: torch.Tensor
    predict: torch.Tensor
    targets: torch.Tensor

    def allowed(self, window: int | None = None) -> torch.Tensor:
        """Which token (row) sees which (column), shape (T, T), bool.

        window: tokens that a sliding layer sees, its own included, by position and not by place in the row: the
        rejected tail lies behind the chosen one, but continues the prompt.
        """
        place = torch.arange(self.segment.numel(), device=self.segment.device)
        see = place[:, None] >= place[None, :]
        see &= self.segment[:, None] == self.segment[None, :]
        see &= (self.part[None, :] == _PROMPT) | (self.part[:, None] == self.part[None, :])
        if window is not None:
            position = self.position_ids[0]
            see &= position[:, None] - position[None, :] < window
        return see

    def sums(self, token_logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed log-probabilities of the chosen and of the rejected tails in nats, each (pairs,), from (N,)."""
        # Not index_add: on a GPU that adds in no fixed order.
        tails = torch.stack([tail.sum() for tail in torch.split(token_logps, list(self.lengths))])
        return tails[0::2], tails[1::2]

    def halves(self) -> tuple["Row", "Row"]:
        """The same pairs in two rows, for a device that could not hold one. Needs two pairs at least."""
        middle = len(self.pairs) // 2
        device = self.input_ids.device
        return (
            make_row(self.pairs[:middle], self.members[:middle], device),
            make_row(self.pairs[middle:], self.members[middle:], device),
        )


def pack(pairs: Sequence[PreferencePair], max_row_tokens: int, device: torch.device) -> list[Row]:
    """Rows of at most `max_row_tokens`, in the pairs' order. A pair that is longer has a row of its own."""
    rows: list[Row] = []
    members: list[int] = []
    tokens = 0
    for index, pair in enumerate(pairs):
        if members and tokens + pair.tokens > max_row_tokens:
            rows.append(make_row([pairs[i] for i in members], members, device))
            members, tokens = [], 0
        members.append(index)
        tokens += pair.tokens
    if members:
        rows.append(make_row([pairs[i] for i in members], members, device))
    return rows


def make_row(pairs: Sequence[PreferencePair], members: Sequence[int], device: torch.device) -> Row:
    """One row of all `pairs`, whose numbers in the caller's list are `members`."""
    ids: list[int] = []
    positions: list[int] = []
    segment: list[int] = []
    part: list[int] = []
    predict: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    for number, pair in enumerate(pairs):
        prompt_end = len(ids) + len(pair.prompt)
        ids += pair.prompt
        positions += range(len(pair.prompt))
        part += [_PROMPT] * len(pair.prompt)
        for which, tail in ((_CHOSEN, pair.chosen), (_REJECTED, pair.rejected)):
            lengths.append(len(tail))
            if tail:
                predict += [prompt_end - 1, *range(len(ids), len(ids) + len(tail) - 1)]
            targets += tail
            ids += tail
            positions += range(len(pair.prompt), len(pair.prompt) + len(tail))
            part += [which] * len(tail)
        segment += [number] * pair.tokens

    def on_device(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Row(
        pairs=tuple(pairs),
        members=tuple(members),
        lengths=tuple(lengths),
        input_ids=on_device(ids)[None],
        position_ids=on_device(positions)[None],
        segment=on_device(segment),
        part=on_device(part),
        predict=on_device(predict),
        targets=on_device(targets),
    )
