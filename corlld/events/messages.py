"""Read the messages of a chat as engines do, into the form that chat templates expect.

Engines differ, and this module follows vLLM: which fields of a message reach the template, and which parts of a content
are text. Fields that vLLM drops go into `Message.extra` unchecked: another engine may have passed them on.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from corlld.errors import InvalidReason
from corlld.events.tools import read_calls, read_tools
from corlld.events.wire import Text, encodable, is_empty, json_text, refusal
from corlld.records import Message

MAX_ROLE_CHARS = 64

_TEXT_KEYS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}  # by type of a part
_FIELDS_OF_ROLE = {
    "assistant": ("tool_calls", "reasoning", "reasoning_content"),
    "tool": ("tool_call_id",),
    "developer": ("tools",),
}


_CONTENT = "a text, or a list of text parts"
# Of the fields whose validators don't say it themselves.
ALLOWED_IN_A_MESSAGE = {
    "role": f"a text of 1 to {MAX_ROLE_CHARS} characters",
    "content": _CONTENT,
    **dict.fromkeys(("name", "tool_call_id", "reasoning", "reasoning_content"), "a text"),
}


class WireMessage(BaseModel):
    """A message as JSON has it. `content` stands last, since it may be missing beside `tool_calls`.

    extra: the fields that vLLM drops, but for empty ones.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    role: Text = Field(min_length=1, max_length=MAX_ROLE_CHARS)
    name: Text | None = None
    tool_calls: Any = None
    tool_call_id: Text | None = None
    reasoning: Text | None = None
    reasoning_content: Text | None = None
    tools: Any = None
    extra: dict[str, Any] = Field(default_factory=dict)
    content: Any = Field(None, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _set_extra_apart(cls, message: object) -> object:
        if not isinstance(message, dict):
            return message
        known = ("role", "content", *_passed_on(message))
        extra = {key: value for key, value in message.items() if key not in known and not is_empty(value)}
        return {**{key: value for key, value in message.items() if key in known}, "extra": extra}

    @field_validator("tool_calls")
    @classmethod
    def _check_calls(cls, value: object) -> list[dict[str, Any]] | None:
        return read_calls(value)

    @field_validator("reasoning_content")
    @classmethod
    def _refuse_two_reasonings(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("reasoning") not in (None, value):
            raise refusal("the same as reasoning, which is its other name")
        return value

    @field_validator("tools")
    @classmethod
    def _check_tools(cls, value: object) -> list[dict[str, Any]] | None:
        return read_tools(value)

    @field_validator("content")
    @classmethod
    def _check_content(cls, value: object, info: ValidationInfo) -> str | list[dict[str, Any]]:
        if isinstance(value, str):
            return encodable(value)
        if isinstance(value, list):
            return [_read_part(part) for part in value]
        if value is not None:
            raise refusal(_CONTENT)
        if info.data.get("role") == "assistant" and info.data.get("tool_calls"):
            return []  # as vLLM does
        raise refusal(_CONTENT, InvalidReason.MISSING_FIELD)

    def to_message(self) -> Message:
        """Return the message. Raises PydanticCustomError for what can't be written as JSON."""
        given = {
            "name": self.name,
            "tool_calls": self.tool_calls,
            "tool_call_id": self.tool_call_id,
            "reasoning": self.reasoning if self.reasoning is not None else self.reasoning_content,
            "tools": self.tools,
        }
        fields = {key: value for key, value in given.items() if value is not None}
        extra = dict(self.extra)
        if isinstance(self.content, str):
            content = self.content
        else:
            content, fields["content"] = "", [{"type": "text", "text": part["text"]} for part in self.content]
            if fields["content"] != self.content:
                extra["content"] = self.content
        return Message(self.role, content, json_text(fields) if fields else "", json_text(extra) if extra else "")


def _passed_on(message: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields beside role and content that vLLM passes on. It drops a name that is no text."""
    role = message.get("role")
    own = _FIELDS_OF_ROLE.get(role, ()) if isinstance(role, str) else ()
    return ("name", *own) if isinstance(message.get("name"), str) else own


def _read_part(part: object) -> dict[str, Any]:
    """Read a part of a content as `{"type": "text", "text": ...}`, with the fields that it has beside."""
    if isinstance(part, str):
        return {"type": "text", "text": encodable(part)}
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in _TEXT_KEYS:
        detail = "text parts alone: corlld can't train on an image, a sound, or a part of another type"
        raise refusal(detail, InvalidReason.UNSUPPORTED_CONTENT)
    key = _TEXT_KEYS[kind]
    text = part.get(key)
    if not isinstance(text, str):
        raise refusal("text parts, each with a text")
    rest = {name: value for name, value in part.items() if name not in ("type", key) and value is not None}
    return {"type": "text", "text": encodable(text), **rest}


ChatMessage = Annotated[WireMessage, AfterValidator(WireMessage.to_message)]  # a `Message`, once it is validated
