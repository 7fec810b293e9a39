"""A user's last pairs, kept in the user's state to be trained again beside new ones: as token ids, without their texts.

All pairs lie in one flat tensor of int32, oldest first: for each pair the lengths of prompt, chosen and rejected tail,
then their ids.
"""

from collections.abc import Iterator, Sequence

import torch

from corlld.learning.model.pairs import PreferencePair


def pack_pairs(pairs: Sequence[PreferencePair]) -> torch.Tensor:
    """Return the pairs as int32, (numbers,)."""
    numbers: list[int] = []
    for pair in pairs:
        parts = (pair.prompt, pair.chosen, pair.rejected)
        numbers += map(len, parts)
        for part in parts:
            numbers += part
    return torch.tensor(numbers, dtype=torch.int32)


def unpack_pairs(kept: torch.Tensor) -> Iterator[PreferencePair]:
    """Yield what `pack_pairs` was given, from int32, (numbers,)."""
    numbers: list[int] = kept.tolist()
    place = 0
    while place < len(numbers):
        lengths = numbers[place : place + 3]
        place += 3
        parts: list[tuple[int, ...]] = []
        for length in lengths:
            parts.append(tuple(numbers[place : place + length]))
            place += length
        yield PreferencePair(*parts)


def last_pairs(pairs: Sequence[PreferencePair], number: int) -> Sequence[PreferencePair]:
    """Return the last `number` of the pairs; -0 would mean all of them."""
    return pairs[max(0, len(pairs) - number) :]
