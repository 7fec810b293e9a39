from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from corlld.errors import ConfigurationError, ExitCode
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.token_check import check_tokens
from corlld.settings.sections import AdapterSettings, ModelSettings
from tests.support.tiny_models import make_tiny_model
from tests.support.tokenizer_shapes import BOS, EOS, EXACT, LOSSY, REFUSED, TEMPLATES, UNKNOWN, make_tokenizer


def problem(tokenizer: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_tokens(tokenizer)
    message = str(caught.value)
    assert message.startswith("model.name: this model's tokenizer can't be trained with: ")
    assert "\n" not in message
    return message.split(": ", 2)[2]


def from_vocabulary(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    raw.add_special_tokens([UNKNOWN, EOS])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=EOS, unk_token=UNKNOWN)


@pytest.mark.parametrize("template", [None, *TEMPLATES.values()], ids=["no template", *TEMPLATES])
@pytest.mark.parametrize("shape", [*EXACT, *LOSSY])
def test_tokenizers_with_ids_that_continue_are_accepted(shape: str, template: str | None) -> None:
    check_tokens(make_tokenizer(shape, template))


@pytest.mark.parametrize("shape", REFUSED)
def test_a_tokenizer_whose_responses_gain_or_lose_a_space_is_refused_with_the_text(shape: str) -> None:
    found = problem(make_tokenizer(shape))
    assert "behind 'Report" in found
    assert "of the response 'Sales rose'" in found


def test_a_tokenizer_without_a_backend_is_refused() -> None:
    assert problem(ByT5Tokenizer()) == "ByT5Tokenizer is not made by the package `tokenizers`"


def test_a_word_level_model_is_checked_by_its_own_words() -> None:
    assert "it can write neither texts nor tokens of its own" in problem(from_vocabulary({UNKNOWN: 0, EOS: 1}))
    tokenizer = from_vocabulary({UNKNOWN: 0, EOS: 1, "green": 2, "red": 3})
    assert "behind 'green'" in problem(tokenizer)  # it takes a text for a single word
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    check_tokens(tokenizer)


def test_a_vocabulary_with_gaps_is_refused_if_a_copy_would_have_other_ids() -> None:
    assert "can't be copied" in problem(from_vocabulary({UNKNOWN: 0, EOS: 1, "a": 2, "b": 4, "c": 5}))


def test_an_error_of_the_package_is_a_sentence() -> None:
    raw = Tokenizer(models.WordLevel(vocab={EOS: 0}, unk_token=UNKNOWN))
    raw.add_special_tokens([EOS])
    assert "WordLevel error" in problem(PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=EOS))


def test_a_conversation_with_other_ids_than_its_templates_is_refused() -> None:
    tokenizer = make_tokenizer("wordpiece", "{{ bos_token }}[turn]{{ messages[0].content }}")
    # A token that is sought in the normalised text: the template writes it with small letters.
    tokenizer.add_tokens([AddedToken("[TURN]", normalized=True, special=True)], special_tokens=True)
    assert problem(tokenizer) == "a conversation's ids are not those of its chat template"


def test_a_model_with_such_a_tokenizer_is_not_loaded(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    for file in folder.glob("*token*"):
        file.unlink()
    make_tokenizer(REFUSED[0]).save_pretrained(folder)
    with pytest.raises(ConfigurationError, match="tokenizer can't be trained with") as caught:
        load_resident_model(ModelSettings(name=str(folder)), AdapterSettings())
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert BOS not in str(caught.value)
