"""Edit events as token ids: a prompt (the context and the responses' common prefix), and the two tails that differ."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from corlld.errors import RejectReason
from corlld.learning.model.chat_template import end_of_answer, find_control_tokens, render_conversation
from corlld.learning.model.continuation import ContinuationEncoder
from corlld.learning.model.conversation import conversation_of
from corlld.records import EditEvent


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """An edit as the model sees it: as two texts, prompt + chosen and prompt + rejected.

    prompt: the context followed by the responses' common prefix, at least one id.
    chosen: the edited response's tail, end token included, at least one id.
    rejected: the proposed response's tail, at least one id; empty for an acceptance, which has a chosen tail alone.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def is_acceptance(self) -> bool:
        return not self.rejected

    @property
    def tokens(self) -> int:
        """The number of tokens that the pair takes in a row, if it shares no prompt."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


class NoPair(Enum):
    """Reasons why an event makes no pair, though nothing is wrong with it."""

    NO_DIFFERENCE = auto()  # the texts differ, their token ids do not


class PairEncoder:
    """Encodes events with one tokenizer, within the limits of settings and model.

    Args:
        tokenizer: a transformers tokenizer.
        max_context_tokens: a longer context is cut at its left. Its first id stays if that is the bos token.
        max_response_tokens: a longer response, end token included, is `too_long`: responses are never cut.
        max_positions: how many positions the model has; None if there is no limit.
        vocabulary: how many ids the model has an embedding for; None if that is all of the tokenizer's.
        prompt_special_tokens: whether a control token that is written in a prompt is one. In a response and in messages
            it never is.
        template_kwargs: arguments of the chat template in every chat; None if there are none.
        stops: the ids at which generation stops, beside the tokenizer's eos token.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_context_tokens: int,
        max_response_tokens: int,
        max_positions: int | None = None,
        vocabulary: int | None = None,
        prompt_special_tokens: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
        stops: Collection[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._max_context_tokens = max_context_tokens
        self._max_response_tokens = max_response_tokens
        self._max_positions = max_positions
        self._vocabulary = vocabulary
        self._bos: int | None = tokenizer.bos_token_id
        self._eos: int | None = tokenizer.eos_token_id
        self._prompt_special_tokens = prompt_special_tokens
        self._template_kwargs = template_kwargs or {}
        self._control = find_control_tokens(tokenizer, self._template_kwargs)
        self._encoder = ContinuationEncoder(tokenizer, self._control)
        end = end_of_answer(tokenizer, self._control, self._template_kwargs, stops)
        self._turn_end = self._encoder.part(self._control.reveal(end))

    def encode(self, event: EditEvent) -> PreferencePair | NoPair | RejectReason:
        """Return the event as a pair, or the reason why there is none.

        A draft that stopped at its length limit has no end token, and neither has its edit. The user continued no
        further than the draft reached, so the place where the text should end is unknown.
        """
        context = self._context(event)
        if context is None:
            return RejectReason.UNRENDERABLE
        chosen, rejected = (self._encoder.response(text, context) for text in (event.edited, event.proposed))
        if self._encoder.has_control(chosen + rejected):
            return RejectReason.UNRENDERABLE
        if not (event.truncated and chosen and rejected):
            end = self._end(event)
            chosen, rejected = chosen + end, rejected + end
        if event.is_acceptance:
            return self._fit(context, chosen, (), shared=0)
        if chosen == rejected:
            return NoPair.NO_DIFFERENCE
        return self._fit(context, chosen, rejected, shared=_common_prefix(chosen, rejected))

    def _fit(
        self, context: tuple[int, ...], chosen: tuple[int, ...], rejected: tuple[int, ...], *, shared: int
    ) -> PreferencePair | RejectReason:
        longest = max(len(chosen), len(rejected))
        room = self._max_context_tokens
        if self._max_positions is not None:
            room = min(room, self._max_positions - longest)
        if longest > self._max_response_tokens or room < 1:
            return RejectReason.TOO_LONG
        if self._vocabulary is not None and max(*context, *chosen, *rejected) >= self._vocabulary:
            return RejectReason.UNRENDERABLE
        context = self._cut(context, room)
        return PreferencePair(context + chosen[:shared], chosen[shared:], rejected[shared:])

    def _cut(self, context: tuple[int, ...], room: int) -> tuple[int, ...]:
        if len(context) <= room:
            return context
        if context[0] == self._bos:
            # -0 would keep everything.
            return context[:1] + (context[1 - room :] if room > 1 else ())
        return context[-room:]

    def _context(self, event: EditEvent) -> tuple[int, ...] | None:
        if event.messages is not None:
            conversation = conversation_of(event, self._template_kwargs)
            text = render_conversation(self._tokenizer, self._control, conversation)
            # The template wrote the special tokens already.
            return None if text is None else self._encoder.conversation(text)
        ids = self._encoder.prompt(event.prompt or "", special_tokens=self._prompt_special_tokens)
        if ids:
            return ids
        # Something must predict the first token; GPT-2 and its kin start their texts with eos.
        return (self._bos,) if self._bos is not None else self._eos_ids()

    def _end(self, event: EditEvent) -> tuple[int, ...]:
        return self._turn_end if event.messages is not None and self._turn_end else self._eos_ids()

    def _eos_ids(self) -> tuple[int, ...]:
        if self._eos is None:
            raise ValueError("the tokenizer has no eos token")
        return (self._eos,)


def _common_prefix(chosen: Sequence[int], rejected: Sequence[int]) -> int:
    """Return the length of the common prefix, at least one id short of either."""
    limit = min(len(chosen), len(rejected)) - 1
    return next((i for i in range(limit) if chosen[i] != rejected[i]), max(limit, 0))
