"""A chat model, end to end: chat events in, adapters out, and PEFT's answers through the chat template show the taste.

The model is SmolLM2-135M-Instruct from its package. Every edit is of an answer of the base model, so that the drafts
don't follow what was learnt: few edits teach how a user begins, and not yet how the user ends. Minutes.
"""

import itertools
import statistics
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from corlld.cli import main
from corlld.events.pseudonyms import Pseudonyms
from corlld.learning.model.files import find_model_files
from corlld.settings.sections import ModelSettings
from corlld.simulation.drafting import MAX_NEW_TOKENS, Draft, PeftEngine
from corlld.simulation.editors import utility
from corlld.simulation.personas import TASTES, Taste
from corlld.simulation.prompts import HELD_OUT, TRAINING, Prompt, Subjects
from tests.support.commands import SECRET, clear_settings
from tests.support.edits import edit, write_events

MODEL = ModelSettings(name="demo-chat", device="cpu", dtype="float32")
EDITS, ASKED = 24, 6  # per user
LR = "2e-3"  # four times the default: six steps have to be seen
GREETINGS = {"mira": "Hi all!", "jonas": "Dear colleagues,"}
OTHERS = {"mira": "jonas", "jonas": "mira"}

pytestmark = [pytest.mark.real, pytest.mark.timeout(3600)]


class Chat:
    """An engine that renders chats by the model's own template, and stops at the end of a line."""

    def __init__(self) -> None:
        self.base = find_model_files(MODEL).source
        self.tokenizer = AutoTokenizer.from_pretrained(self.base)
        self.peft = PeftEngine(self.base, MODEL, MAX_NEW_TOKENS)

    def answer(self, user: str | None, prompts: list[Prompt]) -> list[Draft]:
        """Answer with this user's adapter; None: with the base model."""
        return self.peft.draft([(user, self._rendered(prompt)) for prompt in prompts])

    def _rendered(self, prompt: Prompt) -> str:
        return str(self.tokenizer.apply_chat_template(turns(prompt), add_generation_prompt=True, tokenize=False))


def turns(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt.text}]


def take(subjects: Subjects, taste: Taste, count: int) -> list[Prompt]:
    return list(itertools.islice(subjects.prompts(taste), count))


def distance(answers: list[Draft], prompts: list[Prompt]) -> float:
    """Return the share of an answer that its user would have to change, on average."""
    pairs = zip(answers, prompts, strict=True)
    return statistics.fmean(1 - utility(answer.text, prompt.hidden) for answer, prompt in pairs)


def begin_with(greeting: str, answers: list[Draft]) -> int:
    return sum(answer.text.startswith(greeting) for answer in answers)


def write_edits(file: Path, chat: Chat) -> None:
    """Write the chat events of users who edit each of the base model's answers into the text that they have in mind."""
    events = []
    for taste in TASTES:
        prompts = take(TRAINING, taste, EDITS)
        for number, (prompt, draft) in enumerate(zip(prompts, chat.answer(None, prompts), strict=True)):
            event = edit(number, taste.user_id, messages=turns(prompt), proposed=draft.text, edited=prompt.hidden)
            del event["prompt"]
            events.append(event | {"truncated": draft.truncated})
    # The users take turns.
    write_events(file, *sorted(events, key=lambda event: int(event["event_id"].rpartition("-")[2])))


def run_daemon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear_settings(monkeypatch)
    for name, value in {
        "IDENTITY__SECRET": SECRET,
        "SOURCE__KIND": "jsonl",
        "SOURCE__PATH": str(folder / "edits.jsonl"),
        "BATCHING__MAX_EVENTS": "4",
        "LEARNING__LR": LR,
        "MODEL__NAME": "demo-chat",
        "MODEL__DTYPE": "float32",
        "MODEL__DEVICE": "cpu",
        "STATE__PATH": str(folder / "state"),
        "PUBLISHING__PATH": str(folder / "adapters"),
        "OPERATIONS__HTTP_ADDRESS": "127.0.0.1:0",
    }.items():
        monkeypatch.setenv(f"CORLLD_{name}", value)
    assert main(["run"]) == 0


def test_the_converted_model_ends_its_turns_as_its_template_says() -> None:
    base = find_model_files(MODEL).source
    tokenizer = AutoTokenizer.from_pretrained(base)
    conversation = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False)
    assert rendered.endswith("<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n")
    assert tokenizer.eos_token == "<|im_end|>"
    assert GenerationConfig.from_pretrained(base).eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(tokenizer) == 49_152
    assert tokenizer.decode(tokenizer(rendered)["input_ids"]) == rendered


def test_what_chat_users_teach_shows_in_pefts_answers_through_the_chat_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Chat()
    asked = {taste.user_id: take(HELD_OUT, taste, ASKED) for taste in TASTES}
    frozen = {user: chat.answer(None, prompts) for user, prompts in asked.items()}
    write_edits(tmp_path / "edits.jsonl", chat)
    run_daemon(tmp_path, monkeypatch)
    for user in asked:
        chat.peft.load(user, max((tmp_path / "adapters" / Pseudonyms(SECRET).uid(user)).glob("v*")))
    for user, prompts in asked.items():
        own, others = chat.answer(user, prompts), chat.answer(OTHERS[user], prompts)
        before, after, exchanged = (distance(answers, prompts) for answers in (frozen[user], own, others))
        with capsys.disabled():
            print(f"\n{user}: frozen {before:.2f}, own {after:.2f}, exchanged {exchanged:.2f}")
            print(f"  before  {frozen[user][0].text}\n  after   {own[0].text}")
        assert begin_with(GREETINGS[user], frozen[user]) == 0
        assert begin_with(GREETINGS[user], own) == ASKED
        assert begin_with(GREETINGS[user], others) == 0
        assert after < before - 0.15
        assert after < exchanged
