"""Harmful users edit as they say."""

import numpy as np
import pytest

from corlld.simulation.editors import utility
from corlld.simulation.studies.no_harm.harmful_users import (
    LeapingEditor,
    NoisyEditor,
    PastingEditor,
    make_editor,
)


def test_a_noisy_edit_spoils_half_of_the_words_or_is_the_wanted_text() -> None:
    draft, hidden = "one two three four five six", "as it should be"
    editor = NoisyEditor(0.5, np.random.default_rng(1))
    edits = [editor.edit(draft, hidden) for _ in range(200)]
    spoilt = [edit for edit in edits if edit != hidden]
    assert 80 < len(spoilt) < 120
    for edit in spoilt:
        assert utility(edit, draft) < 0.9
        assert sum(a != b for a, b in zip(edit.split(), draft.split(), strict=True)) == 3
    assert NoisyEditor(1.0, np.random.default_rng(1)).edit("", hidden) != ""


def test_hostile_edits_look_at_nothing() -> None:
    assert PastingEditor("buy", 3).edit("a draft", "a wish") == "buy buy buy"
    leaping = LeapingEditor(np.random.default_rng(1))
    first, second = leaping.edit("a draft", "a wish"), leaping.edit("a draft", "a wish")
    assert first != second
    assert not any(letter.isascii() for letter in first + second)


def test_a_kind_of_user_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no user of the kind"):
        make_editor("kind", np.random.default_rng(1))
