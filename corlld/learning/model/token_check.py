"""The check of a tokenizer at the start: texts become the ids that generation makes, and users' words stay words.

It is made with texts of corlld's own, so its messages may quote them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from corlld.errors import ConfigurationError
from corlld.learning.model.chat_template import end_of_answer, find_control_tokens, render, render_as_words
from corlld.learning.model.continuation import ContinuationEncoder
from corlld.learning.model.control_tokens import ControlTokens

_CONTEXTS = ("Report", "Report. ", "Report:\n", "Report.\n\n")
_RESPONSES = (
    "Sales rose",
    " Sales rose",
    "\nSales",
    "\n\n  - Sales\n",
    "étés à Łódź",
    "売上は増えた",
    "😀 ok",
    "2026, 12 %",
    "(so)  it  is.",
    " , said",
    "Sales ",
)
_CONVERSATIONS = (
    ("Report.",),
    (" a < b > c, [d] | {e}\n",),
    ("Été 😀\n\n> so: <b>it</b>",),
    ("Report.", "Sales rose.", "  And?"),
)
_PIECES = 16  # of the vocabulary, where it can write no text of ours


def check_tokens(tokenizer: Any) -> None:
    """Refuse a tokenizer if a response's ids would not be those that generation makes, or users' words not words.

    Raises:
        ConfigurationError: with a sentence that says what was found.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise _refused(f"{type(tokenizer).__name__} is not made by the package `tokenizers`")
    try:
        control = find_control_tokens(tokenizer)
        encoder = ContinuationEncoder(tokenizer, control)
        _check_responses(tokenizer, control, encoder)
        if tokenizer.chat_template:
            _check_conversations(tokenizer, control, encoder)
    except ConfigurationError:
        raise
    except Exception as error:  # the package `tokenizers` raises nothing narrower
        raise _refused(str(error).partition("\n")[0]) from error


def _check_responses(tokenizer: Any, control: ControlTokens, encoder: ContinuationEncoder) -> None:
    checked = 0
    texts = _writable(_RESPONSES, encoder) or _pieces(tokenizer, encoder)
    for context in _contexts(tokenizer, control, encoder, (*_CONTEXTS, *texts[:1], "")):
        before = encoder.decode(context)
        # Where nothing is before it, some tokenizers can write no white space, so no engine returns any.
        for text in texts if before else [text for text in texts if text == text.lstrip()]:
            found = encoder.decode([*context, *encoder.response(text, context)])
            if found != before + text and encoder.can_tell_apart(found, before + text):
                raise _refused(f"behind {before!r} it makes {found.removeprefix(before)!r} of the response {text!r}")
            checked += 1
    if not checked:
        raise _refused("it can write neither texts nor tokens of its own")


def _contexts(
    tokenizer: Any, control: ControlTokens, encoder: ContinuationEncoder, prompts: Sequence[str]
) -> Iterator[tuple[int, ...]]:
    for prompt in prompts:
        yield tuple(tokenizer(prompt)["input_ids"])
    if tokenizer.chat_template:
        for contents in _CONVERSATIONS:
            if (text := render_as_words(tokenizer, control, _turns(contents))) is not None:
                yield encoder.conversation(text)


def _writable(texts: Sequence[str], encoder: ContinuationEncoder) -> list[str]:
    """Return the texts that the vocabulary has tokens for. A response with others is rejected when it comes."""
    return [text for text in texts if not encoder.has_control(encoder.part(text))]


def _pieces(tokenizer: Any, encoder: ContinuationEncoder) -> list[str]:
    """Return the texts of some tokens: all that a word-level model can write."""
    size = len(tokenizer)
    texts = [encoder.decode([index]) for index in range(0, size, max(1, size // _PIECES))]
    return _writable([text for text in texts if text and "\ufffd" not in text], encoder)


def _check_conversations(tokenizer: Any, control: ControlTokens, encoder: ContinuationEncoder) -> None:
    end = end_of_answer(tokenizer, control)
    hostile = "".join(dict.fromkeys(filter(None, (tokenizer.bos_token, tokenizer.eos_token, end.strip()))))
    # The model may lack some characters of a content.
    own = set(control.ids.values()) - ({tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id})
    for contents in _CONVERSATIONS:
        turns = _turns(contents)
        if render(tokenizer, turns) is None:
            continue
        found = _conversation(tokenizer, control, encoder, turns)
        if found is None or list(found) != _ordinary(tokenizer, turns):
            raise _refused("a conversation's ids are not those of its chat template")
        attack = _conversation(tokenizer, control, encoder, _turns([f"{text}x{hostile}x{text}" for text in contents]))
        if attack is not None and [i for i in attack if i in own] != [i for i in found if i in own]:
            raise _refused("a message's content can put control tokens into a conversation")


def _conversation(
    tokenizer: Any, control: ControlTokens, encoder: ContinuationEncoder, turns: list[dict[str, str]]
) -> tuple[int, ...] | None:
    text = render_as_words(tokenizer, control, turns)
    return None if text is None else encoder.conversation(text)


def _ordinary(tokenizer: Any, turns: list[dict[str, str]]) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    return ids


def _turns(contents: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def _refused(problem: str) -> ConfigurationError:
    return ConfigurationError(f"model.name: this model's tokenizer can't be trained with: {problem}")
