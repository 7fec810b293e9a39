"""Simulated users are weak and honest, and held-out prompts are new."""

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corlld.settings.sections import Settings, SnapshotSettings
from corlld.simulation.closed_loop import loop_settings
from corlld.simulation.plots import Curves, plot_edits, running_mean
from corlld.simulation.tastes import HELD_OUT, JONAS, MIRA, TASTES, TRAINING, Subjects, Taste
from corlld.simulation.writers import WeakEditor, utility

WORDS = st.lists(st.sampled_from(["a", "bb", "the", "report", "is", "late", "soon"]), min_size=1, max_size=9).map(
    " ".join
)


def test_a_round_does_not_wait_for_updates_to_gather(tmp_path: Path) -> None:
    settings = Settings(snapshot=SnapshotSettings(every_updates=9, moments="bfloat16"))
    assert loop_settings(settings, tmp_path, 4).snapshot == SnapshotSettings(every_updates=1, moments="bfloat16")


@given(draft=WORDS, hidden=WORDS, alpha=st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_an_edit_closes_its_share_of_the_gap(draft: str, hidden: str, alpha: float) -> None:
    edited = WeakEditor(alpha).edit(draft, hidden)
    gap = 1 - utility(draft, hidden)
    assert utility(edited, hidden) - utility(draft, hidden) >= alpha * gap - 1e-9


def test_an_edit_goes_no_further_than_it_has_to() -> None:
    # Three words of four letters are wrong of four, each a quarter of the distance of 12 letters and no space.
    draft, hidden = "aaaa bbbb cccc same", "xxxx yyyy zzzz same"
    assert WeakEditor(0.3).edit(draft, hidden) == "xxxx bbbb cccc same"
    assert WeakEditor(0.5).edit(draft, hidden) == "xxxx yyyy cccc same"
    assert WeakEditor(1.0).edit(draft, hidden) == hidden


def test_words_are_put_in_and_taken_out() -> None:
    assert WeakEditor(0.3).edit("one three four five", "zero one two three four") == "zero one three four five"
    assert WeakEditor(1.0).edit("", "one two") == "one two"


def test_a_draft_that_is_right_is_accepted() -> None:
    assert WeakEditor(1.0).edit("as it was", "as it was") == "as it was"


def _wordings(subjects: Subjects) -> set[str]:
    """What templates say besides their subjects, one phrase an entry."""
    templates = [*subjects.news_templates, *subjects.request_templates]
    phrases = (re.split(r"\{\w+\}|[\n.:;,()-]", template) for template in templates)
    return {phrase.strip().casefold() for phrase in itertools.chain(*phrases)} - {""}


def test_held_out_prompts_share_no_template_and_no_subject_with_the_training_prompts() -> None:
    assert not _wordings(TRAINING) & _wordings(HELD_OUT)
    assert not set(TRAINING.news) & set(HELD_OUT.news)
    assert not {task for task, _ in TRAINING.requests} & {task for task, _ in HELD_OUT.requests}


@pytest.mark.parametrize("taste", TASTES)
def test_no_prompt_comes_again_before_130(taste: Taste) -> None:
    # 11 requests in 4 templates last for 132 prompts, 21 pieces of news in 5 templates for 157.
    texts = [prompt.text for prompt in itertools.islice(TRAINING.prompts(taste), 130)]
    assert len(set(texts)) == len(texts)


def test_a_prompt_ends_where_the_message_begins_and_tells_what_it_is_about() -> None:
    for prompt in itertools.islice(HELD_OUT.prompts(JONAS), 12):
        assert prompt.text.endswith("\n")
        assert "\n" not in prompt.hidden
        subjects = [*HELD_OUT.news, *(task for task, _ in HELD_OUT.requests)]
        assert any(subject in prompt.text and subject in prompt.hidden for subject in subjects)


def test_the_same_prompt_has_another_hidden_text_for_another_taste() -> None:
    ours, theirs = next(TRAINING.prompts(MIRA)), next(TRAINING.prompts(JONAS))
    assert ours.text == theirs.text
    assert utility(ours.hidden, theirs.hidden) < 0.8


def test_a_running_mean_begins_with_fewer_values() -> None:
    assert running_mean([4.0, 2.0, 0.0], window=2) == [4.0, 3.0, 1.0]


def test_the_picture_is_a_png_of_a_readable_size(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    plot_edits(file, {"mira": Curves([0.9, 0.5, 0.1], [0.0, 0.1, 0.0], (0.8, 0.2))}, window=2)
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(data[16:20], "big") >= 800  # its width
