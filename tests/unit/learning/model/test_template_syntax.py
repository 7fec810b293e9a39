"""Which kind of content a template takes, by vLLM's rules, and which arguments it reads."""

import pytest

from corlld.errors import ConfigurationError
from corlld.learning.model.template_syntax import refuse_unread, takes_parts
from tests.support.chat_templates import PARTS, THINKING
from tests.support.tiny_models import CHAT_TEMPLATE


def parts_of(content: str) -> str:
    return "{% for part in " + content + " %}{{ part.text }}{% endfor %}"


def over(messages: str) -> str:
    return "{% for message in " + messages + " %}" + parts_of("message.content") + "{% endfor %}"


# As Qwen3.5's templates, which have a macro for contents.
MACRO = "{% macro show(role, given) %}{{ role }}" + parts_of("given") + "{% endmacro %}"


@pytest.mark.parametrize(
    "template",
    [
        PARTS,
        over("messages"),
        over("messages[1:]"),
        over("messages | reverse"),
        "{% set rest = messages[1:] %}{% set others = rest %}" + over("others"),
        "{% for m in messages %}" + parts_of("m['content'] | list") + "{% endfor %}",
        "{% for m in messages %}{% generation %}" + parts_of("m.content") + "{% endgeneration %}{% endfor %}",
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        + parts_of("m.content")
        + "{% endif %}{% break %}{% endfor %}",
        MACRO + "{% for m in messages %}{{ show(m.role, m.content) }}{% endfor %}",
        MACRO + "{% for m in messages %}{{ show(m.role, given=m['content'] | list) }}{% endfor %}",
        "{% for m in messages %}{% set content = m.content %}" + parts_of("content") + "{% endfor %}",
    ],
)
def test_a_template_that_goes_through_the_parts_of_a_content_takes_parts(template: str) -> None:
    assert takes_parts(template)


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{{ messages }}",
        "{% for message in messages %}",  # no template at all
        CHAT_TEMPLATE,
        THINKING,
        over("tools"),
        "{% set ns = namespace() %}{% set ns.rest = messages[1:] %}" + over("messages"),
        "{% for a, b in messages %}{% endfor %}" + over("messages"),
        "{% for m in messages %}" + parts_of("m.tool_calls") + "{% endfor %}",
        "{% for m in messages %}" + parts_of("n.content") + "{% endfor %}",
        "{% for m in messages %}{% set text = m.content %}" + parts_of("text") + "{% endfor %}",
        MACRO + "{% for m in messages %}{{ show(m.content, m.role) }}{% endfor %}",
        "{% macro show(content) %}" + parts_of("content") + "{% endmacro %}{{ show(tools) }}",
    ],
)
def test_any_other_template_takes_a_text(template: str) -> None:
    assert not takes_parts(template)


def test_an_argument_that_no_template_reads_is_refused_by_name() -> None:
    refuse_unread(THINKING, {"enable_thinking": False})
    refuse_unread({"default": CHAT_TEMPLATE, "tool_use": THINKING}, {"enable_thinking": False})
    refuse_unread(None, {})
    for templates in (None, CHAT_TEMPLATE, {"default": CHAT_TEMPLATE}):
        with pytest.raises(ConfigurationError, match=r"chat template does not read enable_thinking$"):
            refuse_unread(templates, {"enable_thinking": False})
    with pytest.raises(ConfigurationError, match=r"does not read enabel_thinking$"):
        refuse_unread(THINKING, {"enable_thinking": False, "enabel_thinking": False})


@pytest.mark.parametrize("broken", ["{% for message in messages %}", "{{ messages | no_such_filter }}", "{% other %}"])
def test_a_template_that_can_t_be_parsed_is_refused_only_if_arguments_are_given(broken: str) -> None:
    for templates in (broken, {"default": THINKING, "tool_use": broken}):
        refuse_unread(templates, {})
        with pytest.raises(
            ConfigurationError, match=r"^model\.chat_template_kwargs: the model's chat template can't be"
        ):
            refuse_unread(templates, {"enable_thinking": False})
