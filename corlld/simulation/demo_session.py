"""The session of `corlld demo`: three simulated users edit a model's drafts. The daemon learns from two of them.

The third user is in the holdout of an experiment, as a control: the edits are counted, and nothing is learnt.

The daemon's loop, its store and its published adapters are the real ones. The users are made up (see `personas`).
"""

import itertools
import secrets
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from pydantic import SecretStr
from rich.console import Console

from corlld.events.pseudonyms import Pseudonyms
from corlld.experiment.arms import Arms
from corlld.learning.model.files import find_model_files
from corlld.learning.model.loading import bfloat16_units
from corlld.records import PairOutcome
from corlld.settings.learning_rule import Arm
from corlld.settings.sections import ExperimentSettings, GuardSettings, IdentitySettings, LearningSettings, Settings
from corlld.simulation.closed_loop import ClosedLoop, Editor, Engine, Exchange, loop_settings
from corlld.simulation.demo_picture import Curves, plot_edits
from corlld.simulation.demo_tables import HeldOut, Progress, ProgressTable, held_out_table, show_adapters, show_drafts
from corlld.simulation.drafting import DRAFTS_EACH, MAX_NEW_TOKENS, PeftEngine
from corlld.simulation.editors import WeakEditor, utility
from corlld.simulation.personas import INES, TASTES
from corlld.simulation.prompts import HELD_OUT, TRAINING, Prompt
from corlld.statistics import repetition_ratio
from corlld.system.progress import shown

HELD_OUT_PROMPTS = 12  # per user
# The users are asked about different subjects at the same time.
USERS = {taste.user_id: taste for taste in (*TASTES, INES)}
STARTS = {user: 7 * number for number, user in enumerate(USERS)}
HOLDOUT = INES.user_id
EXPERIMENT = ExperimentSettings(arms=(Arm(name="holdout", share=0.3, holdout=True),))


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The outcome of a demo.

    frozen: drafts of the base model. own: drafts of each user's own adapter, or of the base model for the holdout.
    exchanged: drafts of another user's adapter.
    """

    exchanges: list[Exchange]
    outcomes: dict[str, list[PairOutcome]]
    frozen: HeldOut
    own: HeldOut
    exchanged: HeldOut
    adapters: dict[str, Path]


def demo(settings: Settings, folder: Path, *, edits: int, alpha: float, console: Console) -> DemoResult:
    """Run the whole demo, from the conversion of the model to the picture.

    Args:
        settings: as they were loaded; `demo_settings` says what is taken from them.
        folder: an empty folder, for states, adapters, events and the picture.
        edits: edits per user.
        alpha: share of the gap that an edit closes, see `WeakEditor`.
        console: where progress and result are shown.
    """
    transformers.utils.logging.disable_progress_bar()
    settings = demo_settings(settings, folder)
    with shown(console, "looking up the model; the first time it is converted, which takes about a minute"):
        base = find_model_files(settings.model).source
        engine = PeftEngine(base, settings.model, MAX_NEW_TOKENS)
    users = list(USERS)
    result = run(settings, engine, dict.fromkeys(users, WeakEditor(alpha)), edits=edits, console=console)
    picture = folder / "edits.png"
    curves = {user: _curves(result, user) for user in users}
    plot_edits(picture, curves, window=2 * DRAFTS_EACH, holdout=HOLDOUT)
    console.print(held_out_table(result.frozen, result.own, result.exchanged, HELD_OUT_PROMPTS, HOLDOUT))
    show_drafts(result.frozen, result.own, held_out_prompts(users), console)
    console.print(f"\nPicture (edit ratio and repetition against number of edits): {picture}", soft_wrap=True)
    show_adapters(result.adapters, base, console)
    return result


def demo_settings(settings: Settings, folder: Path) -> Settings:
    """Return `settings` with a store below `folder`, the demo's experiment, and its model where they name none."""
    model, identity = settings.model, settings.identity
    if model.name is None:
        model = model.model_copy(update={"name": "demo"})
    on_cpu = model.device == "cpu" or (model.device == "auto" and not torch.cuda.is_available())
    if model.dtype == "auto" and on_cpu and bfloat16_units():
        model = model.model_copy(update={"dtype": "bfloat16"})
    secret = secrets.token_hex(32) if identity.secret is None else identity.secret.get_secret_value()
    identity = IdentitySettings(secret=SecretStr(_secret_for_the_arms(secret)))
    own = settings.model_copy(update={"model": model, "identity": identity, "experiment": EXPERIMENT})
    return loop_settings(own, folder, DRAFTS_EACH)


def _secret_for_the_arms(secret: str) -> str:
    """Return a secret, made of the given one, under which the hash puts one user into the holdout, and no other."""
    arms = Arms(EXPERIMENT, LearningSettings(), GuardSettings())

    def held_out(tried: str) -> list[str]:
        names = Pseudonyms(tried)
        return [user for user in USERS if arms.drawn(names.uid(user)).name in arms.holdouts]

    candidates = (f"{secret}{number or ''}" for number in itertools.count())
    return next(tried for tried in candidates if held_out(tried) == [HOLDOUT])


def run(
    settings: Settings, engine: Engine, editors: Mapping[str, Editor], *, edits: int, console: Console
) -> DemoResult:
    """Let each user edit `edits` drafts, and show the progress.

    Args:
        settings: see `demo_settings`.
        engine: without adapters.
        editors: how each user edits.
        edits: edits per user; rounded up to whole rounds.
        console: a terminal gets a live table, anything else one line per round and user.
    """
    users = list(editors)
    with shown(console, "the base model drafts for the held-out prompts"):
        frozen = draft_held_out(engine, dict.fromkeys(users))
    prompts = {user: TRAINING.prompts(USERS[user], STARTS[user]) for user in users}
    exchanges: list[Exchange] = []
    rounds = -(-edits // DRAFTS_EACH)
    with ClosedLoop(settings, engine, prompts, editors) as loop, ProgressTable(console, rounds) as table:
        for _ in range(rounds):
            edited = loop.draft_and_edit(DRAFTS_EACH)
            loop.learn(edited)
            exchanges += edited
            table.round([_progress(loop, user, exchanges) for user in users])
        outcomes = {user: loop.outcomes(user) for user in users}
        adapters = {user: folder for user in users if (folder := loop.adapter(user)) is not None}
    with shown(console, "the adapters draft for the held-out prompts: each user's own, then another's"):
        own = draft_held_out(engine, {user: user for user in users})
        learners = [user for user in users if user != HOLDOUT]
        following = dict(zip(learners, [*learners[1:], *learners[:1]], strict=True))
        exchanged = draft_held_out(engine, {user: following.get(user, learners[0]) for user in users})
    return DemoResult(exchanges, outcomes, frozen, own, exchanged, adapters)


def held_out_prompts(users: Iterable[str]) -> dict[str, list[Prompt]]:
    """Return each user's prompts that share no template and no subject with the training prompts."""
    return {user: list(itertools.islice(HELD_OUT.prompts(USERS[user]), HELD_OUT_PROMPTS)) for user in users}


def draft_held_out(engine: Engine, adapter_of: dict[str, str | None]) -> HeldOut:
    """Draft for the users' held-out prompts, all in one batch.

    Args:
        engine: with the adapters loaded.
        adapter_of: for each user the owner of the adapter that drafts; None: the base model drafts.
    """
    asked = [(user, prompt) for user, prompts in held_out_prompts(adapter_of).items() for prompt in prompts]
    drafts = engine.draft([(adapter_of[user], prompt.text) for user, prompt in asked])
    texts: dict[str, list[str]] = {}
    distances: dict[str, list[float]] = {}
    for (user, prompt), draft in zip(asked, drafts, strict=True):
        texts.setdefault(user, []).append(draft.text)
        distances.setdefault(user, []).append(1 - utility(draft.text, prompt.hidden))
    return HeldOut(texts, distances)


def _progress(loop: ClosedLoop, user: str, exchanges: Sequence[Exchange]) -> Progress:
    own = [exchange for exchange in exchanges if exchange.user_id == user]
    ratios = [exchange.edit_ratio for exchange in own]
    return Progress(
        f"{user} (holdout)" if user == HOLDOUT else user,
        drafts=len(own),
        edit_ratio_start=statistics.fmean(ratios[: 2 * DRAFTS_EACH]),
        edit_ratio_now=statistics.fmean(ratios[-2 * DRAFTS_EACH :]),
        rise=_rise(loop.outcomes(user)),
        version=loop.versions()[user],
        newest_draft=own[-1].draft.text,
    )


def _rise(outcomes: Iterable[PairOutcome]) -> float | None:
    """Return the mean rise of the last edits that a trained adapter has scored. A draft that is accepted has none."""
    rises = [o.edited_rise for o in outcomes if o.edited_rise is not None and o.scored_by_trained]
    return statistics.fmean(rises[-2 * DRAFTS_EACH :]) if rises else None


def _curves(result: DemoResult, user: str) -> Curves:
    own = [exchange for exchange in result.exchanges if exchange.user_id == user]
    return Curves(
        edit_ratios=[exchange.edit_ratio for exchange in own],
        repetitions=[repetition_ratio(exchange.draft.text) for exchange in own],
        held_out=(result.frozen.mean(user), result.own.mean(user)),
    )
