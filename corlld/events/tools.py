"""Read the functions that a model could call, its calls of them, and arguments of the chat template.

All are given to chat templates as vLLM gives them: the keys of a function in one order, and the `arguments` of a call
as an object. What vLLM refuses is refused here too, by `refusal`.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from corlld.events.wire import is_empty, json_text, refusal
from corlld.settings.template_arguments import reserved_among

_FUNCTION = "function"


def read_tools(value: object) -> list[dict[str, Any]] | None:
    """Read functions that the model could call; None if there is no such field. Raises PydanticCustomError."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise refusal("a list of functions, as in a request to the engine")
    return [_read_tool(tool) for tool in value]


def read_calls(value: object) -> list[dict[str, Any]] | None:
    """Read calls of functions in an assistant's message. None if there is none. Raises PydanticCustomError."""
    if value is not None and not isinstance(value, list):
        raise refusal("a list of calls of functions")
    return [_read_call(call) for call in value or ()] or None  # vLLM drops an empty list, which templates would show


def _read_tool(tool: Any) -> dict[str, Any]:
    """Order a tool's keys as vLLM does, whose request model also writes what is absent as null."""
    function = _function_of(tool)
    description, parameters = function.get("description"), function.get("parameters")
    if not isinstance(description, str | None) or not isinstance(parameters, dict | None):
        raise refusal("of each function: description is a text, and parameters is an object")
    ordered = {"name": function["name"], "description": description, "parameters": parameters}
    return {"type": _FUNCTION, _FUNCTION: {**ordered, **function}} | {k: v for k, v in tool.items() if k != _FUNCTION}


def _read_call(call: Any) -> dict[str, Any]:
    function = _function_of(call)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise refusal("of each call: arguments is a JSON object, or one written as a text")
    return {**call, _FUNCTION: {**function, "arguments": arguments}}


def _function_of(tool: Any) -> Mapping[str, Any]:
    function = tool.get(_FUNCTION) if isinstance(tool, dict) and tool.get("type", _FUNCTION) == _FUNCTION else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise refusal("of each: type is function, and function is an object with a name")
    return function


def _tools_text(value: object) -> str | None:
    tools = None if is_empty(value) else read_tools(value)
    return json_text(tools) if tools else None  # engines refuse an empty list, which some templates would show


def _arguments_text(value: object) -> str | None:
    if is_empty(value):
        return None
    if not isinstance(value, dict):
        raise refusal("an object: the arguments of the chat template")
    if (name := reserved_among(value)) is not None:
        raise refusal(f"any argument of the chat template but {name}, which corlld passes itself")
    return json_text(value)


ToolsText = Annotated[str | None, BeforeValidator(_tools_text)]  # as JSON
TemplateArgumentsText = Annotated[str | None, BeforeValidator(_arguments_text)]  # as JSON

_ELSEWHERE = "in chat_template_kwargs"
_OF_THE_DRAFT = "nowhere: corlld can't learn from a draft that the model wrote behind its own reasoning"
# Fields of a request, or of its answer, that change what a draft followed: the value that changes nothing, and where
# such a thing goes.
_OF_REQUESTS: dict[str, tuple[object, str]] = {
    "documents": (None, _ELSEWHERE),
    "functions": (None, "in tools, each as type and function"),
    "reasoning": (None, _OF_THE_DRAFT),
    "reasoning_content": (None, _OF_THE_DRAFT),
    "chat_template": (None, "nowhere: corlld has the template that comes with the model"),
    "add_generation_prompt": (True, "nowhere: the draft begins an assistant's message"),
    "continue_final_message": (False, "nowhere: the draft begins an assistant's message"),
    "add_special_tokens": (False, "nowhere: the template writes the special tokens"),
}


def with_effort(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fold a chat's `reasoning_effort` into its `chat_template_kwargs`, as vLLM does, which also switches thinking."""
    effort, given = fields.get("reasoning_effort"), fields.get("chat_template_kwargs")
    own = {} if is_empty(given) else given
    if is_empty(effort) or not isinstance(own, dict):
        return fields
    folded = {"enable_thinking": effort != "none", **own, "reasoning_effort": effort}
    return {**fields, "chat_template_kwargs": folded}


def misplaced(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """Find a field that changed what the draft followed, and that no event has.

    Returns its name, and where it belongs; None if there is none.
    """
    for name, (harmless, place) in _OF_REQUESTS.items():
        if not is_empty(value := fields.get(name)) and value is not harmless:
            return name, place
    return None
