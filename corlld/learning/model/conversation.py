"""What a chat template is given for an event: messages, tools and arguments, as vLLM gives them.

It knows nothing of how a template is rendered.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corlld.learning.model.template_syntax import takes_parts
from corlld.records import EditEvent, Message


@dataclass(frozen=True, slots=True)
class Conversation:
    """An event's context, as arguments of `chat_template.render`.

    with_extra: the messages with fields that not all engines pass on; None if no message has such a field.
    """

    messages: Sequence[Mapping[str, Any]]
    with_extra: Sequence[Mapping[str, Any]] | None
    tools: Sequence[Mapping[str, Any]] | None
    template_kwargs: Mapping[str, Any]


def conversation_of(event: EditEvent, defaults: Mapping[str, Any]) -> Conversation:
    """Return the conversation of an event with messages.

    Args:
        event: an edit in a chat.
        defaults: arguments of the template in every chat. The event's own override them.
    """
    messages = event.messages or ()
    extra = any(message.extra for message in messages)
    own = json.loads(event.chat_template_kwargs) if event.chat_template_kwargs else {}
    return Conversation(
        messages=[_turn(message, message.fields) for message in messages],
        with_extra=[_turn(message, message.fields, message.extra) for message in messages] if extra else None,
        tools=None if event.tools is None else json.loads(event.tools),
        template_kwargs={**defaults, **own},
    )


def _turn(message: Message, *more: str) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    for fields in more:
        turn |= json.loads(fields) if fields else {}
    if "reasoning" in turn:
        turn.setdefault("reasoning_content", turn["reasoning"])  # its older name, which templates read
    return turn


def with_content_for(template: str, messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with the kind of content that the template takes.

    Args:
        template: the template's text.
        messages: each content is a text, or a list of parts `{"type": "text", "text": ...}`.
    """
    as_parts = takes_parts(template)
    return [{**message, "content": _content(message, as_parts)} for message in messages]


def _content(message: Mapping[str, Any], as_parts: bool) -> str | list[dict[str, Any]]:
    content: str | list[dict[str, Any]] = message["content"]
    if as_parts and message["role"] != "tool":  # few templates take parts of a tool's answer
        return [{"type": "text", "text": content}] if isinstance(content, str) else content
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["text"])
