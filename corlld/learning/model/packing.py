"""Rows of pairs: packed end to end, each user's together; or padded, two texts per pair, if a model needs that.

A packed row of three pairs of one user. The prompts of pairs 2 and 3 begin with the same tokens (`shared`):

    | prompt 1 | chosen 1 | rejected 1 | shared | rest 2 | chosen 2 | rejected 2 | rest 3 | chosen 3 | rejected 3 |

    text               its segments, in order           computed with it
    chosen 1           prompt 1, chosen 1               prompt 1, chosen 1
    rejected 1         prompt 1, rejected 1             rejected 1
    chosen 2           shared, rest 2, chosen 2         shared, rest 2, chosen 2
    rejected 2         shared, rest 2, rejected 2       rejected 2
    chosen 3           shared, rest 3, chosen 3         rest 3, chosen 3
    rejected 3         shared, rest 3, rejected 3       rejected 3

Each box is a *segment*. The *prompt* of pair 2 is `shared` and `rest 2`; a rest may be empty. Chosen and rejected are
*tails*: both go on from their prompt's last position. A tail sees its prompt and itself, see the drawing in
`attention`. An acceptance has no rejected tail.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from corlld.learning.model.alignment import changed_tokens
from corlld.learning.model.attention import Segments, Tail
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.vocabulary import Predictions, TailSums

# Prompts of one user that begin with as many equal tokens share a segment. Fewer tokens are not worth one.
LEAST_SHARED_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Item:
    """A pair, and the number of its user in the step, from 0."""

    user: int
    pair: PreferencePair


@dataclass(frozen=True, eq=False)
class Row:
    """Pairs that go through the model together: T tokens are computed, and the N tokens of the tails are predicted.

    items: in the row's order.
    members: index of each item in what `pack` was given.
    tail_lengths: tokens of each tail: chosen, rejected, chosen ... (0 for the rejected tail of an acceptance).
    input_ids: (1, T) packed; (texts, longest) padded.
    position_ids: (1, T) packed; None padded.
    segments: None padded.
    users: tokens of each user, in order.
    states: (U,), the places in the flattened row whose states predict something.
    padding: how many tokens are computed for nothing.
    """

    items: tuple[Item, ...]
    members: tuple[int, ...]
    tail_lengths: tuple[int, ...]
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

    def sums(self, token_logps: torch.Tensor) -> TailSums:
        """Sum the log-probabilities of the tail tokens, (N,), tail by tail."""
        # Not index_add: on a GPU that adds in no fixed order.
        tails = torch.stack([tail.sum() for tail in torch.split(token_logps, list(self.tail_lengths))])
        return TailSums(chosen=tails[0::2], rejected=tails[1::2])

    def changed_sums(self, token_logps: torch.Tensor) -> TailSums:
        """Sum those of the log-probabilities, (N,), whose tokens an edit changes, tail by tail; see `alignment`.

        A missing or equal token counts 0. Where all tokens are changed these are the bits of `sums`.
        """
        return self.sums(torch.where(self._changed, token_logps, 0.0))

    @cached_property
    def _changed(self) -> torch.Tensor:
        """Which tail tokens an edit changes, (N,). All tokens of an acceptance are."""
        masks = [changed for item in self.items for changed in changed_tokens(item.pair.chosen, item.pair.rejected)]
        return torch.tensor(masks, device=self.input_ids.device)

    def tails(self, token_logps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split the tail tokens' log-probabilities, (N,), by pair, both tails together."""
        both = [self.tail_lengths[i] + self.tail_lengths[i + 1] for i in range(0, len(self.tail_lengths), 2)]
        return torch.split(token_logps, both)


@dataclass(frozen=True, eq=False)
class Collator:
    """Makes rows for one model.

    Args:
        device: of the model.
        shares_prefixes: False for a model whose layers carry a state from token to token: its rows are padded.
    """

    device: torch.device
    shares_prefixes: bool = True

    def pack(self, items: Sequence[Item], max_tokens: int, users: int) -> list[Row]:
        """Return rows of at most `max_tokens`, in order. A pair that is longer has a row of its own.

        Args:
            items: sorted by user.
            max_tokens: of a row, where a shared prompt counts for each of its pairs.
            users: how many are in the step.
        """
        return [self.row(items, members, users) for members in cut(items, range(len(items)), max_tokens)]

    def row(self, items: Sequence[Item], members: Sequence[int], users: int) -> Row:
        """Return one row of those `items` whose numbers are `members`."""
        make = self._packed if self.shares_prefixes else self._padded
        return make([items[member] for member in members], members, users)

    def halves(self, items: Sequence[Item], row: Row) -> tuple[Row, Row]:
        """Return the same pairs in two rows, for a device that could not hold one. The row must have two pairs."""
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
            tail_lengths=tuple(layout.tail_lengths),
            input_ids=self._tensor(layout.ids)[None],
            position_ids=self._tensor(layout.positions)[None],
            segments=Segments(tuple(layout.segments), tuple(layout.tails)),
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
            tail_lengths=tuple(lengths),
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
    """A packed row that grows by groups of pairs whose prompts begin alike.

    segments: tokens of each. places, targets: for each tail token, the place that predicts it, and its id.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    tails: list[Tail] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    tail_lengths: list[int] = field(default_factory=list)

    def add(self, pairs: Sequence[PreferencePair]) -> None:
        """Append | shared | rest | chosen | rejected | rest | chosen | rejected | ..."""
        shared = _shared(pairs)
        beginning = self._segment(pairs[0].prompt[:shared], 0)
        shared_end = len(self.ids)
        own = 1  # a segment of a prompt is computed together with the first tail that has it
        for pair in pairs:
            prompt: tuple[int, ...] = beginning
            prompt_end = shared_end
            if rest := pair.prompt[shared:]:
                prompt = beginning + self._segment(rest, shared)
                prompt_end = len(self.ids)
                own += 1
            for tail in (pair.chosen, pair.rejected):
                self.tail_lengths.append(len(tail))
                if tail:
                    self._tail(tail, prompt, len(pair.prompt), prompt_end, own + 1)
                    own = 0

    def _tail(self, tail: tuple[int, ...], prompt: tuple[int, ...], position: int, prompt_end: int, own: int) -> None:
        start = len(self.ids)
        self.tails.append(Tail(prompt + self._segment(tail, position), own))
        self.places += [prompt_end - 1, *range(start, start + len(tail) - 1)]
        self.targets += tail

    def _segment(self, tokens: tuple[int, ...], position: int) -> tuple[int]:
        """Append a segment whose first token has this position. Return its number."""
        self.segments.append(len(tokens))
        self.ids += tokens
        self.positions += range(position, position + len(tokens))
        return (len(self.segments) - 1,)


def cut(items: Sequence[Item], members: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Split `members`, numbers of `items`, in order into rows of at most `max_tokens`. A longer pair has its own."""
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
    """Return the numbers of the items whose prompts begin alike, group by group.

    A group stands where its first pair does, so that users stay together.
    """
    groups: dict[object, list[int]] = {}
    for index, item in enumerate(items):
        beginning = item.pair.prompt[:LEAST_SHARED_TOKENS]
        alone = len(beginning) < LEAST_SHARED_TOKENS
        groups.setdefault((item.user, index if alone else beginning), []).append(index)
    return list(groups.values())


def _shared(pairs: Sequence[PreferencePair]) -> int:
    """Return how many tokens the prompts have in common at their beginning."""
    first = pairs[0].prompt
    length = min(len(pair.prompt) for pair in pairs)
    while any(pair.prompt[:length] != first[:length] for pair in pairs):
        length -= 1
    return length
