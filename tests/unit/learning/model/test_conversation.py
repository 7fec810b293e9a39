"""What a template is given. The rules are vLLM's."""

from typing import Any

import pytest

from corlld.learning.model.conversation import with_content_for
from tests.support.chat_templates import PARTS
from tests.support.tiny_models import CHAT_TEMPLATE

TEXTS = [{"type": "text", "text": text} for text in ("a", "", "b")]


@pytest.mark.parametrize(
    ("role", "content", "as_text", "as_parts"),
    [
        ("user", "x", "x", [{"type": "text", "text": "x"}]),
        ("user", "", "", [{"type": "text", "text": ""}]),
        ("user", TEXTS, "a\nb", TEXTS),
        ("assistant", [], "", []),
        ("tool", "x", "x", "x"),
        ("tool", TEXTS, "a\nb", "a\nb"),
    ],
)
def test_a_content_becomes_what_the_template_takes(role: str, content: Any, as_text: object, as_parts: object) -> None:
    message = {"role": role, "content": content, "name": "n"}
    assert with_content_for(CHAT_TEMPLATE, [message]) == [{**message, "content": as_text}]
    assert with_content_for(PARTS, [message]) == [{**message, "content": as_parts}]
    assert message["content"] is content
