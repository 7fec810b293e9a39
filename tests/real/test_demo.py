"""The demo with the real model and the default rule: what it shows, and what becomes of wrong users. Minutes."""

import dataclasses
import io
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from corlld.learning.model.files import find_model_files
from corlld.settings.sections import Settings
from corlld.simulation.demo_session import DemoResult, demo_settings, draft_held_out, run
from corlld.simulation.drafting import DRAFTS_EACH, MAX_NEW_TOKENS, PeftEngine
from corlld.simulation.editors import NaiveEditor, WeakEditor
from corlld.simulation.personas import TASTES
from corlld.statistics import repetition_ratio

EDITS = 60  # the demo's default
# Stated beforehand, after a trial (.74 to .15, .75 to .18): on held-out prompts the distance falls to at most half.
LARGEST_SHARE_LEFT = 0.5
USERS = [taste.user_id for taste in TASTES]

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def settings_and_engine(folder: Path) -> tuple[Settings, PeftEngine]:
    settings = demo_settings(Settings(), folder)
    return settings, PeftEngine(find_model_files(settings.model).source, settings.model, MAX_NEW_TOKENS)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, PeftEngine]:
    settings, engine = settings_and_engine(tmp_path_factory.mktemp("demo"))
    editors = dict.fromkeys(USERS, WeakEditor(1.0))
    return run(settings, engine, editors, edits=EDITS, console=Console(file=io.StringIO())), engine


@pytest.mark.parametrize("user", USERS)
def test_on_held_out_prompts_the_distance_falls_to_half_or_less(
    demo: tuple[DemoResult, PeftEngine], user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = demo
    with capsys.disabled():
        print(f"\n{user}: frozen {result.frozen.mean(user):.2f}, own {result.own.mean(user):.2f}, "
              f"exchanged {result.exchanged.mean(user):.2f}")  # fmt: skip
    assert result.own.mean(user) <= LARGEST_SHARE_LEFT * result.frozen.mean(user)


@pytest.mark.parametrize("user", USERS)
def test_the_others_adapter_serves_a_user_worse_than_the_own_one(
    demo: tuple[DemoResult, PeftEngine], user: str
) -> None:
    result, _ = demo
    assert result.exchanged.mean(user) > result.own.mean(user) + 0.2


@pytest.mark.parametrize("user", USERS)
def test_a_frozen_model_gets_no_better_on_the_same_prompts(demo: tuple[DemoResult, PeftEngine], user: str) -> None:
    """So it is not the prompts that become easier; and the base model is untouched by what was learnt on it."""
    result, engine = demo
    asked = [exchange for exchange in result.exchanges if exchange.user_id == user]
    drafts = engine.draft([(None, exchange.prompt.text) for exchange in asked])
    frozen = [dataclasses.replace(exchange, draft=draft) for exchange, draft in zip(asked, drafts, strict=True)]
    half = len(frozen) // 2
    early, late = (statistics.fmean(x.distance for x in part) for part in (frozen[:half], frozen[half:]))
    assert late > early - 0.05
    assert draft_held_out(engine, dict.fromkeys(USERS)).drafts == result.frozen.drafts


@pytest.mark.parametrize("user", USERS)
def test_drafts_stay_sound(demo: tuple[DemoResult, PeftEngine], user: str) -> None:
    result, _ = demo
    assert statistics.fmean(map(repetition_ratio, result.own.drafts[user])) <= 0.15
    last = [repetition_ratio(x.draft.text) for x in result.exchanges if x.user_id == user][-4 * DRAFTS_EACH :]
    assert statistics.fmean(last) <= 0.15


def test_drafts_stay_sound_over_200_edits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the demo for longer, with the default rule."""
    settings, engine = settings_and_engine(tmp_path)
    editors = dict.fromkeys(USERS, WeakEditor(1.0))
    result = run(settings, engine, editors, edits=200, console=Console(file=io.StringIO()))
    for user in USERS:
        repetitions = [repetition_ratio(x.draft.text) for x in result.exchanges if x.user_id == user]
        windows = [statistics.fmean(repetitions[at : at + 20]) for at in range(0, 200, 20)]
        with capsys.disabled():
            print(f"\n{user}: repetition by 20 edits {' '.join(f'{mean:.2f}' for mean in windows)}, held-out "
                  f"{result.frozen.mean(user):.2f} to {result.own.mean(user):.2f}")  # fmt: skip
        assert max(windows) <= 0.2
        assert result.own.mean(user) <= LARGEST_SHARE_LEFT * result.frozen.mean(user)


def test_naive_users_teach_the_model_to_repeat_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The control of the control: repetition must tell the wrong users' learner from a sound one.

    tests/integration/test_collapse.py has the drafts of such a run, for every day.
    """
    settings, engine = settings_and_engine(tmp_path)
    editors = {
        "mira": NaiveEditor("Hi all!", "See you around, Mira"),
        "jonas": NaiveEditor("Dear colleagues,", "Kind regards, J. Weber"),
    }
    result = run(settings, engine, editors, edits=40, console=Console(file=io.StringIO()))
    for user in USERS:
        repetitions = [repetition_ratio(x.draft.text) for x in result.exchanges if x.user_id == user]
        first, last = statistics.fmean(repetitions[:8]), statistics.fmean(repetitions[-16:])
        with capsys.disabled():
            print(f"\n{user}: repetition {first:.2f} in the first 8 drafts, {last:.2f} in the last 16")
        assert last > first + 0.3
