"""Arguments of a chat template that a setting or an event may give, and those that the code passes itself."""

from collections.abc import Collection

# The parameters of transformers' `apply_chat_template` and of the function that it calls. But engines take `documents`
# as an argument of the template. `tools` is a field of the event.
RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat",
        "chat_template",
        "continue_final_message",
        "conversation",
        "conversations",
        "max_length",
        "messages",
        "padding",
        "processor_kwargs",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "self",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)


def reserved_among(names: Collection[str]) -> str | None:
    """Return the first name, in alphabetical order, that the code passes itself; None if there is none."""
    return min(RESERVED.intersection(names), default=None)
