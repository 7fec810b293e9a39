"""Conversations as text: the tokenizer's chat template, rendered up to where the assistant's answer begins.

This is the only module that calls the template. It knows nothing of how texts become token ids.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from tokenizers.models import BPE

from corlld.learning.model.control_tokens import ControlTokens
from corlld.learning.model.conversation import Conversation, conversation_of, with_content_for
from corlld.records import EditEvent

# A template is a program of others. It refuses on purpose (TemplateError), or fails at what it did not expect.
_REFUSALS = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

_QUESTION, _ANSWER = "corlldquestion", "corlldanswer"


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
) -> str | None:
    """Return the conversation as text; None if the template refuses it.

    The template's error may quote a user, so it goes no further.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        messages: `role`, `content` (a text, or a list of text parts), and what else the template reads.
        tools: the functions that the model may call, as JSON schemas.
        template_kwargs: further variables of the template, as engines pass them (`chat_template_kwargs`).
        add_generation_prompt: end with the beginning of an assistant's message.
    """
    try:
        template: str = tokenizer.get_chat_template(tools=tools)
    except ValueError:  # it has several, and none for this case
        return None
    given = with_content_for(template, messages)
    try:
        rendered: str = tokenizer.apply_chat_template(
            given,
            tools=None if tools is None else list(tools),
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **(template_kwargs or {}),
        )
    except _REFUSALS:
        return None
    return rendered


def render_as_words(
    tokenizer: Any,
    control: ControlTokens,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str | None:
    """Return the conversation as text in which only the template's own control tokens are some: as their nonces.

    See `render`. None also if it can't be said which control tokens are the template's: it wrote others when no
    character of the words could begin any. Such a template puts together a control token from what users wrote.
    """
    words = {"messages": messages, "tools": tools, "template_kwargs": template_kwargs}
    disguised, most = control.disguise(words), control.disguise(words, every=True)
    text = _rendered(tokenizer, disguised)
    judge = text if most == disguised else _rendered(tokenizer, most)
    if text is None or judge is None or list(control.find(text)) != list(control.find(judge)):
        return None
    return control.reveal(text)


def render_conversation(tokenizer: Any, control: ControlTokens, conversation: Conversation) -> str | None:
    """Return an event's context as `render_as_words` does. None also if the template reads fields that engines drop."""
    given: dict[str, Any] = {"tools": conversation.tools, "template_kwargs": conversation.template_kwargs}
    rendered = render_as_words(tokenizer, control, conversation.messages, **given)
    extra = conversation.with_extra
    return rendered if extra is None or rendered == render_as_words(tokenizer, control, extra, **given) else None


def is_renderable(tokenizer: Any, control: ControlTokens, defaults: Mapping[str, Any], event: EditEvent) -> bool:
    """Return whether an edit's context can be rendered. defaults: arguments of the template in every chat."""
    if event.messages is None:
        return True
    return render_conversation(tokenizer, control, conversation_of(event, defaults)) is not None


def _rendered(tokenizer: Any, words: dict[str, Any]) -> str | None:
    return render(tokenizer, words["messages"], tools=words["tools"], template_kwargs=words["template_kwargs"])


def find_control_tokens(tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None) -> ControlTokens:
    """Return the tokenizer's special tokens, and those that the chat template frames messages with.

    Some tokenizers do not call the latter special. A pad token that is an ordinary piece is none.

    Raises:
        ValueError: there is none, so a text would have no end.
    """
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    special -= _ordinary_padding(tokenizer)
    found = {token: index for token, index in added.items() if index in special}
    if tokenizer.chat_template and added:
        found |= {token: added[token] for token in _frame(tokenizer, ControlTokens(added), template_kwargs)}
    if not found:
        raise ValueError("the tokenizer has no special token")
    return ControlTokens(found)


def _ordinary_padding(tokenizer: Any) -> set[int]:
    """Return the pad token's id if merges make it of plain characters: public code for GPT-2 pads with "!".

    Models of other kinds have pieces that no text was meant to make, such as `<pad>`.
    """
    backend, pad = tokenizer.backend_tokenizer, tokenizer.pad_token_id
    if pad in (None, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id):
        return set()
    if not isinstance(backend.model, BPE):
        return set()
    plain = Tokenizer(backend.model)
    plain.normalizer, plain.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    return {pad} if plain.encode(tokenizer.pad_token, add_special_tokens=False).ids == [pad] else set()


def _frame(tokenizer: Any, added: ControlTokens, template_kwargs: Mapping[str, Any] | None) -> set[str]:
    """Return the added tokens around messages, but for white space, and for tags with a closing tag (`<think>`).

    Models write such tags themselves, and engines return them as text.
    """
    question = {"role": "user", "content": _QUESTION}
    found = added.find(render(tokenizer, [question], template_kwargs=template_kwargs) or "")
    tags = {token for token in added.ids if f"{token[0]}/{token[1:]}" in added.ids}
    closing = {f"{token[0]}/{token[1:]}" for token in tags}
    end = list(added.find(_after_answer(tokenizer, template_kwargs)))[:1]
    return {token for token in (*found, *end) if token.strip()} - tags - closing


def end_of_answer(
    tokenizer: Any,
    control: ControlTokens,
    template_kwargs: Mapping[str, Any] | None = None,
    stops: Collection[int] = (),
) -> str:
    """Return the text that the template puts after an answer, up to its first control token; "" if it is unknown.

    Generation stops at that token: what templates write behind it (a line break) never belongs to a response.

    Args:
        tokenizer: a transformers tokenizer.
        control: its control tokens.
        template_kwargs: arguments of the template in every chat.
        stops: the ids at which generation stops. GLM-4's templates write nothing after the last answer, and the model
            ends it with the token that begins the next turn: that counts only if it is one of these.
    """
    after = _after_answer(tokenizer, template_kwargs)
    if (end := next(control.find(after), None)) is not None:
        return after[: after.index(end) + len(end)]
    behind = _after_answer(tokenizer, template_kwargs, {"role": "user", "content": _QUESTION})
    begin = next(control.find(behind), None)
    return begin if begin and behind.startswith(begin) and control.ids[begin] in stops else ""


def _after_answer(tokenizer: Any, template_kwargs: Mapping[str, Any] | None, *more: Mapping[str, Any]) -> str:
    """Return the text that the template puts after an answer that only `more` follows; "" if it is unknown."""
    if not tokenizer.chat_template:
        return ""
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}, *more]
    text = render(tokenizer, turns, template_kwargs=template_kwargs, add_generation_prompt=False)
    _, found, after = (text or "").rpartition(_ANSWER)
    return after if found else ""
