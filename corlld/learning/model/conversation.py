"""What a chat template is given for an event: messages, tools and arguments, as vLLM gives them.

vLLM looks at the template to decide how it takes a message's content: as a text, or as a list of parts. This module
parses templates to decide the same. It does not render them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser

from corlld.errors import ConfigurationError
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


@lru_cache(maxsize=8)
def takes_parts(template: str) -> bool:
    """Return whether the template goes through a message's content part by part, as far as vLLM can see."""
    try:
        tree = _parse(template)
        chats = _aliases(tree, "messages")
        loops = list(tree.find_all(nodes.For))
        messages = {_name(loop.target) for loop in loops if _is_name(loop.iter, chats)}
    except (TemplateSyntaxError, ValueError):
        return False
    return any(_is_content(loop.iter, messages) for loop in loops)


def refuse_unread(templates: str | Mapping[str, str] | None, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments for every chat that no template reads: they are misspelt, or meant for another model.

    Args:
        templates: a tokenizer's template, or its templates by name; None if it has none.
        arguments: `model.chat_template_kwargs`.

    Raises:
        ConfigurationError: an argument is not read.
    """
    texts = [templates or ""] if isinstance(templates, str | None) else templates.values()
    read = set().union(*(find_undeclared_variables(_parse(text)) for text in texts))
    if unread := sorted(set(arguments) - read):
        raise ConfigurationError(f"model.chat_template_kwargs: the model's chat template does not read {unread[0]}")


class _Generation(Extension):
    """The block `generation` of transformers: it marks an answer, and leaves its content as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _parse(template: str) -> nodes.Template:
    environment = Environment(extensions=[_Generation, "jinja2.ext.loopcontrols"])  # noqa: S701 (nothing is rendered)
    return environment.parse(template)


def _aliases(tree: nodes.Template, name: str) -> set[str]:
    """Return the names that stand for the variable, or for a slice of it: `{% set rest = messages[1:] %}`."""
    names: set[str] = set()
    found = {name}
    while found - names:
        names |= found
        found = {_name(node.target) for node in tree.find_all(nodes.Assign) if _is_name(node.node, names)}
    return names


def _name(target: nodes.Node) -> str:
    """Return the name that is assigned to. Raises ValueError for an attribute or several names: vLLM gives up then."""
    if isinstance(target, nodes.Name):
        return target.name
    raise ValueError


def _is_name(node: nodes.Node, names: set[str]) -> bool:
    bare = _bare(node)
    return isinstance(bare, nodes.Name) and bare.name in names


def _is_content(node: nodes.Node, messages: set[str]) -> bool:
    match _bare(node):
        case nodes.Getattr(node=owner, attr="content"):
            return _is_name(owner, messages)
        case nodes.Getitem(node=owner, arg=nodes.Const(value="content")):
            return _is_name(owner, messages)
        case _:
            return False


def _bare(node: nodes.Node) -> nodes.Node:
    """Take filters, tests and slices off an expression."""
    while True:
        match node:
            case nodes.Filter(node=nodes.Node() as inner) | nodes.Test(node=inner):
                node = inner
            case nodes.Getitem(node=inner, arg=nodes.Slice()):
                node = inner
            case _:
                return node
