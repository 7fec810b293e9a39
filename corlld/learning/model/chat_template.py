"""Conversations as text: the tokenizer's chat template, rendered up to where the assistant's answer begins.

This is the only module that calls the template. It knows nothing of how texts become token ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from corlld.learning.model.control_tokens import ControlTokens

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
        messages: as the template takes them: `role`, `content`, and what else the template reads.
        tools: the functions that the model may call, as JSON schemas.
        template_kwargs: further variables of the template, as engines pass them (`chat_template_kwargs`).
        add_generation_prompt: end with the beginning of an assistant's message.
    """
    try:
        rendered: str = tokenizer.apply_chat_template(
            list(messages),
            tools=None if tools is None else list(tools),
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **(template_kwargs or {}),
        )
    except (TemplateError, TypeError, ValueError):
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


def _rendered(tokenizer: Any, words: dict[str, Any]) -> str | None:
    return render(tokenizer, words["messages"], tools=words["tools"], template_kwargs=words["template_kwargs"])


def find_control_tokens(tokenizer: Any) -> ControlTokens:
    """Return the tokenizer's special tokens, and those that the chat template frames messages with.

    Some tokenizers do not call the latter special.

    Raises:
        ValueError: there is none, so a text would have no end.
    """
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    found = {token: index for token, index in added.items() if index in special}
    if tokenizer.chat_template and added:
        found |= {token: added[token] for token in _frame(tokenizer, ControlTokens(added))}
    if not found:
        raise ValueError("the tokenizer has no special token")
    return ControlTokens(found)


def _frame(tokenizer: Any, added: ControlTokens) -> set[str]:
    """Return the added tokens around messages, but for white space, and for tags with a closing tag (`<think>`).

    Models write such tags themselves, and engines return them as text.
    """
    question = {"role": "user", "content": _QUESTION}
    found = added.find(render(tokenizer, [question]) or "")
    tags = {token for token in added.ids if f"{token[0]}/{token[1:]}" in added.ids}
    closing = {f"{token[0]}/{token[1:]}" for token in tags}
    return (
        {token for token in (*found, *list(added.find(_after_answer(tokenizer)))[:1]) if token.strip()} - tags - closing
    )


def end_of_answer(tokenizer: Any, control: ControlTokens) -> str:
    """Return the text that the template puts after an answer, up to its first control token; "" if it is unknown.

    Generation stops at that token: what templates write behind it (a line break) never belongs to a response.
    """
    after = _after_answer(tokenizer)
    end = next(control.find(after), None)
    return "" if end is None else after[: after.index(end) + len(end)]


def _after_answer(tokenizer: Any) -> str:
    """Return the text that the template puts after the last answer of a conversation; "" if it is unknown."""
    if not tokenizer.chat_template:
        return ""
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    _, found, after = (render(tokenizer, turns, add_generation_prompt=False) or "").rpartition(_ANSWER)
    return after if found else ""
