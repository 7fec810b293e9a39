"""What the text of a chat template says about itself: which kind of content it takes, which arguments it reads.

vLLM parses the template to decide whether a message's content is given as a text, or as a list of parts. This module
decides the same, with the same limits. It renders nothing.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser

from corlld.errors import ConfigurationError


@lru_cache(maxsize=8)
def takes_parts(template: str) -> bool:
    """Return whether the template goes through a message's content part by part, as far as vLLM can see."""
    try:
        tree = _parse(template)
        chats = _aliases(tree, "messages")
        messages = {_name(loop.target) for loop in tree.find_all(nodes.For) if _is_name(loop.iter, chats)}
    except (TemplateSyntaxError, ValueError):
        return False
    if any(_is_content(loop.iter, messages) for loop in tree.find_all(nodes.For)):
        return True
    in_macros: set[int] = set()
    for macro in tree.find_all(nodes.Macro):
        contents = set(_parameters_with_content(tree, macro, messages))
        loops = list(macro.find_all(nodes.For))
        in_macros |= {id(loop) for loop in loops}
        if any(isinstance(loop.iter, nodes.Name) and loop.iter.name in contents for loop in loops):
            return True
    # Outside of macros a variable of this name counts, whatever it holds.
    others = (loop.iter for loop in tree.find_all(nodes.For) if id(loop) not in in_macros)
    return any(isinstance(iterated, nodes.Name) and iterated.name == "content" for iterated in others)


def refuse_unread(templates: str | Mapping[str, str] | None, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments for every chat that no template reads: they are misspelt, or meant for another model.

    Args:
        templates: a tokenizer's template, or its templates by name; None if it has none.
        arguments: `model.chat_template_kwargs`.

    Raises:
        ConfigurationError: an argument is not read, or Jinja can't parse a template.
    """
    if not arguments:
        return
    texts = [templates or ""] if isinstance(templates, str | None) else templates.values()
    try:
        read = set().union(*(find_undeclared_variables(_parse(text)) for text in texts))
    except TemplateSyntaxError as error:
        detail = f"the model's chat template can't be parsed: line {error.lineno}: {error.message}"
        raise ConfigurationError(f"model.chat_template_kwargs: {detail}") from None
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


def _parameters_with_content(tree: nodes.Template, macro: nodes.Macro, messages: set[str]) -> Iterator[str]:
    """Yield the macro's parameters that get a message's content in some call."""
    names = [parameter.name for parameter in macro.args]
    for call in tree.find_all(nodes.Call):
        if _is_name(call.node, {macro.name}):
            yield from (name for name, value in zip(names, call.args, strict=False) if _is_content(value, messages))
            yield from (given.key for given in call.kwargs if _is_content(given.value, messages))


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
