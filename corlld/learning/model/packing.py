"""Pairs laid end to end in rows, without padding, each user's together; or, where a model needs it, two rows a pair."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from corlld.learning.model.attention import Branch, Segments
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.vocabulary import Predictions

# Prompts of one user that begin with as many equal tokens are computed once; fewer are not worth a piece of their own.
LEAST_SHARED_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Item:
    """A pair, and the number of its user in the step, from 0."""

    user: int
    pair: PreferencePair


@dataclass(frozen=True, eq=False)
class Row:
    """Pairs that go through the model together; T tokens that are computed, N of them predicted in tails.

    items: in the row's order. members: index of each in what `pack` was given. lengths: tokens of each tail: chosen,
    rejected, chosen ... (0 for the rejected one of an acceptance). input_ids, position_ids: (1, T) packed, where both
    tails go on from their prompt's last position; (texts, longest) for two rows a pair. segments: None for those.
    users: tokens of each user, in order. states: (U,), places in the flattened row that predict something.
    padding: tokens that are computed for nothing.
    """

    items: tuple[Item, ...]
    members: tuple[int, ...]
    lengths: tuple[int, ...]
    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    segments: Segments | None
    users: tuple[int, ...]
    states: torch.Tensor
    predictions: Predictions
    padding: int

    @property
    def tokens(self) -> int:
        return self.input_ids.numel()

    def sums(self, token_logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed log-probabilities of the chosen and of the rejected tails in nats, each (pairs,), from (N,)."""
        # Not index_add: on a GPU that adds in no fixed order.
        tails = torch.stack([tail.sum() for tail in torch.split(token_logps, list(self.lengths))])
        return tails[0::2], tails[1::2]

    def tails(self, token_logps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The part of each pair, both tails together, from (N,)."""
        both = [self.lengths[i] + self.lengths[i + 1] for i in range(0, len(self.lengths), 2)]
        return torch.split(token_logps, both)


@dataclass(frozen=True, eq=False)
class Collator:
    """Makes rows for one model.

    Args:
        device: of the model.
        shares_prefixes: False for a model whose layers carry a state from token to token: each text is a row then.
    """

    device: torch.device
    shares_prefixes: bool = True

    def pack(self, items: Sequence[Item], max_tokens: int, users: int) -> list[Row]:
        """Rows of at most `max_tokens`, in order. A pair that is longer has a row of its own.

        Args:
            items: sorted by user.
            max_tokens: of a row, shared ones counted for each.
            users: in the step.
        """
        return [self.row(items, members, users) for members in cut(items, range(len(items)), max_tokens)]

    def row(self, items: Sequence[Item], members: Sequence[int], users: int) -> Row:
        """One row of those `items` whose numbers are `members`."""
        make = self._packed if self.shares_prefixes else self._padded
        return make([items[member] for member in members], members, users)

    def halves(self, items: Sequence[Item], row: Row) -> tuple[Row, Row]:
        """The same pairs in two rows, for a device that could not hold one. Needs two pairs at least."""
        members = sorted(row.members)
        middle = len(members) // 2
        return self.row(items, members[:middle], len(row.users)), self.row(items, members[middle:], len(row.users))

    def _packed(self, items: Sequence[Item], members: Sequence[int], users: int) -> Row:
        layout = _Layout()
        order: list[int] = []
        tokens = [0] * users
        for group in _groups(items):
            before = len(layout.ids)
            layout.add([items[index].pair for index in group])
            order += group
            tokens[items[group[0]].user] += len(layout.ids) - before
        return Row(
            items=tuple(items[index] for index in order),
            members=tuple(members[index] for index in order),
            lengths=tuple(layout.lengths),
            input_ids=self._tensor(layout.ids)[None],
            position_ids=self._tensor(layout.positions)[None],
            segments=Segments(tuple(layout.pieces), tuple(layout.branches)),
            users=tuple(tokens),
            states=self._tensor(sorted(set(layout.places))),
            predictions=self._predictions(layout.places, layout.targets),
            padding=0,
        )

    def _padded(self, items: Sequence[Item], members: Sequence[int], users: int) -> Row:
        texts: list[tuple[int, ...]] = []
        lengths: list[int] = []
        tokens = [0] * users
        tails: list[tuple[int, int, tuple[int, ...]]] = []  # the text's number, the prompt's length, the tail
        for item in items:
            for tail in (item.pair.chosen, item.pair.rejected):
                lengths.append(len(tail))
                if tail:
                    tails.append((len(texts), len(item.pair.prompt), tail))
                    texts.append(item.pair.prompt + tail)
                    tokens[item.user] += 1
        longest = max(map(len, texts))
        places = [text * longest + prompt - 1 + i for text, prompt, tail in tails for i in range(len(tail))]
        targets = [token for *_, tail in tails for token in tail]
        return Row(
            items=tuple(items),
            members=tuple(members),
            lengths=tuple(lengths),
            # What stands behind a text is seen by nothing before it, and nothing is asked of it.
            input_ids=self._tensor([list(text) + [text[-1]] * (longest - len(text)) for text in texts]),
            position_ids=None,
            segments=None,
            users=tuple(count * longest for count in tokens),
            states=self._tensor(sorted(set(places))),
            predictions=self._predictions(places, targets),
            padding=len(texts) * longest - sum(map(len, texts)),
        )

    def _predictions(self, places: list[int], targets: list[int]) -> Predictions:
        numbers = {place: number for number, place in enumerate(sorted(set(places)))}
        of_state: list[list[int]] = [[] for _ in numbers]
        for index, place in enumerate(places):
            of_state[numbers[place]].append(index)
        most = max(map(len, of_state))
        return Predictions(
            targets=self._tensor(targets),
            states=self._tensor([numbers[place] for place in places]),
            of_state=self._tensor([own + [len(places)] * (most - len(own)) for own in of_state]),
        )

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)


@dataclass
class _Layout:
    """A packed row that grows by groups of pairs with a common beginning."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    pieces: list[int] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def add(self, pairs: Sequence[PreferencePair]) -> None:
        """[trunk | rest of a prompt | chosen | rejected | rest of the next one's prompt | ...]"""
        trunk = _common(pairs)
        above = self._piece(pairs[0].prompt[:trunk], 0)
        trunk_end = len(self.ids)
        asked = 1  # the trunk is asked for together with the first branch that has it
        for pair in pairs:
            path: tuple[int, ...] = above
            prompt_end = trunk_end
            if rest := pair.prompt[trunk:]:
                path = above + self._piece(rest, trunk)
                prompt_end = len(self.ids)
                asked += 1
            for tail in (pair.chosen, pair.rejected):
                self.lengths.append(len(tail))
                if tail:
                    self._tail(tail, path, len(pair.prompt), prompt_end, asked + 1)
                    asked = 0

    def _tail(self, tail: tuple[int, ...], path: tuple[int, ...], depth: int, prompt_end: int, own: int) -> None:
        start = len(self.ids)
        self.branches.append(Branch(path + self._piece(tail, depth), own))
        self.places += [prompt_end - 1, *range(start, start + len(tail) - 1)]
        self.targets += tail

    def _piece(self, tokens: tuple[int, ...], depth: int) -> tuple[int]:
        self.pieces.append(len(tokens))
        self.ids += tokens
        self.positions += range(depth, depth + len(tokens))
        return (len(self.pieces) - 1,)


def cut(items: Sequence[Item], members: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Splits `members`, places in `items`, in order, into rows of at most `max_tokens`; a longer pair has its own."""
    row: list[int] = []
    tokens = 0
    for member in members:
        own = items[member].pair.tokens
        if row and tokens + own > max_tokens:
            yield row
            row, tokens = [], 0
        row.append(member)
        tokens += own
    if row:
        yield row


def _groups(items: Sequence[Item]) -> list[list[int]]:
    """Numbers of the items that share a beginning: a group stands where its first pair does, so that users stay
    together.
    """
    groups: dict[object, list[int]] = {}
    for index, item in enumerate(items):
        beginning = item.pair.prompt[:LEAST_SHARED_TOKENS]
        alone = len(beginning) < LEAST_SHARED_TOKENS
        groups.setdefault((item.user, index if alone else beginning), []).append(index)
    return list(groups.values())


def _common(pairs: Sequence[PreferencePair]) -> int:
    first = pairs[0].prompt
    length = min(len(pair.prompt) for pair in pairs)
    while any(pair.prompt[:length] != first[:length] for pair in pairs):
        length -= 1
    return length
