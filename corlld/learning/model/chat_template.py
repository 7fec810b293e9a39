"""Conversations as text: the tokenizer's chat template, rendered up to where the assistant's answer begins.

This is the only module that calls the template. It knows nothing of token ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError


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
