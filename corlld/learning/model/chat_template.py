"""Conversations as text: the tokenizer's chat template, rendered up to where the assistant's answer begins.

This is the only module that calls the template. It knows nothing of token ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from corlld.learning.model.conversation import Conversation, conversation_of, with_content_for
from corlld.records import EditEvent

# A template is a program of others. It refuses on purpose (TemplateError), or fails at what it did not expect.
_REFUSALS = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


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


def render_conversation(tokenizer: Any, conversation: Conversation) -> str | None:
    """Return an event's context as text. None if the template refuses it, or reads a field that engines may drop."""
    given: dict[str, Any] = {"tools": conversation.tools, "template_kwargs": conversation.template_kwargs}
    rendered = render(tokenizer, conversation.messages, **given)
    extra = conversation.with_extra
    return rendered if extra is None or rendered == render(tokenizer, extra, **given) else None


def is_renderable(tokenizer: Any, defaults: Mapping[str, Any], event: EditEvent) -> bool:
    """Return whether an edit's context can be rendered. defaults: arguments of the template in every chat."""
    return event.messages is None or render_conversation(tokenizer, conversation_of(event, defaults)) is not None
