"""A workshop asks a chat model in its own template, and any other model as it is."""

from pathlib import Path

from transformers import AutoTokenizer

from corlld.simulation.studies.workshop import Workshop
from tests.support.tiny_models import make_tiny_model


def test_a_chat_model_gets_a_prompt_as_a_message_that_asks_for_an_answer(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "chat", chat_template=True)
    turns = [{"role": "user", "content": "Write."}]
    rendered = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        turns, add_generation_prompt=True, tokenize=False
    )
    workshop = Workshop(str(folder))
    assert workshop.asked("Write.") == rendered
    assert workshop.asked("Write.") != "Write."


def test_a_model_without_a_template_gets_the_prompt_itself(tiny_model: Path) -> None:
    assert Workshop(str(tiny_model)).asked("Write.\n") == "Write.\n"


def test_samples_depend_on_their_seed_alone_and_likeliest_drafts_on_none(tiny_model: Path) -> None:
    workshop = Workshop(str(tiny_model))
    requests = [(None, "Write.")] * 3
    sampled = workshop.draft(requests, seed=1)
    assert workshop.draft(requests, seed=1) == sampled
    assert workshop.draft(requests, seed=2) != sampled
    assert len({draft.text for draft in sampled}) > 1
    assert len({draft.text for draft in workshop.draft(requests)}) == 1
