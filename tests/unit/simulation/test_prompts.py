"""Held-out prompts are new, and prompts seldom repeat."""

import itertools
import re

import pytest

from corlld.simulation.editors import utility
from corlld.simulation.personas import JONAS, MIRA, TASTES, Taste
from corlld.simulation.prompts import HELD_OUT, TRAINING, Subjects


def _wordings(subjects: Subjects) -> set[str]:
    """Return what templates say besides their subjects, one phrase per entry."""
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
