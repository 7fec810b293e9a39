"""`corlld demo`: two simulated users edit a model's drafts, and the daemon learns from each of them.

The daemon's loop, its store and its published adapters are the real ones; the users are made up (see `tastes`).
"""

import itertools
import secrets
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from pydantic import SecretStr
from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from corlld.learning.model.files import find_model_files
from corlld.records import PairOutcome
from corlld.settings.sections import IdentitySettings, Settings
from corlld.simulation.closed_loop import ClosedLoop, Editor, Engine, Exchange, loop_settings
from corlld.simulation.drafting import PeftEngine
from corlld.simulation.plots import Curves, plot_edits
from corlld.simulation.tastes import HELD_OUT, TASTES, TRAINING, Prompt
from corlld.simulation.writers import WeakEditor, utility
from corlld.statistics import correct_share, repetition_ratio

DRAFTS_EACH = 4  # of each user in a round: one batch for the engine, one micro-batch for the daemon
HELD_OUT_PROMPTS = 12  # of each user
MAX_NEW_TOKENS = 32  # the longest text that a user has in mind has 26
# The users are asked about different subjects at the same time.
STARTS = {taste.user_id: 7 * number for number, taste in enumerate(TASTES)}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Drafts on prompts that were never trained on, in the order of `held_out_prompts`."""

    drafts: dict[str, list[str]]  # by user
    distances: dict[str, list[float]]

    def mean(self, user: str) -> float:
        return statistics.fmean(self.distances[user])

    def typical(self, user: str) -> int:
        """Which of the user's drafts has the median distance: neither the best nor the worst one."""
        return self.distances[user].index(statistics.median_low(self.distances[user]))


def held_out_prompts() -> dict[str, list[Prompt]]:
    """Prompts that share no template and no subject with the training prompts, for each user."""
    return {taste.user_id: list(itertools.islice(HELD_OUT.prompts(taste), HELD_OUT_PROMPTS)) for taste in TASTES}


def draft_held_out(engine: Engine, adapter_of: dict[str, str | None]) -> HeldOut:
    """Drafts for every user's held-out prompts, all in one batch.

    Args:
        engine: with the adapters loaded.
        adapter_of: for each user whose adapter drafts; None: the base model.
    """
    asked = [(user, prompt) for user, prompts in held_out_prompts().items() for prompt in prompts]
    drafts = engine.draft([(adapter_of[user], prompt.text) for user, prompt in asked])
    texts: dict[str, list[str]] = {}
    distances: dict[str, list[float]] = {}
    for (user, prompt), draft in zip(asked, drafts, strict=True):
        texts.setdefault(user, []).append(draft.text)
        distances.setdefault(user, []).append(1 - utility(draft.text, prompt.hidden))
    return HeldOut(texts, distances)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a demo came to. frozen: by the base model; own, exchanged: by the user's own and the other's adapter."""

    exchanges: list[Exchange]
    outcomes: dict[str, list[PairOutcome]]
    frozen: HeldOut
    own: HeldOut
    exchanged: HeldOut
    adapters: dict[str, Path]


def demo_settings(settings: Settings, folder: Path) -> Settings:
    """The rule that `settings` name, on a store below `folder`; the demo's model and a secret where none is set."""
    model, identity = settings.model, settings.identity
    if model.name is None:
        model = model.model_copy(update={"name": "demo"})
    if model.dtype == "auto" and model.device in ("auto", "cpu") and _cpu_has_bfloat16():
        model = model.model_copy(update={"dtype": "bfloat16"})
    if identity.secret is None:
        identity = IdentitySettings(secret=SecretStr(secrets.token_hex(32)))
    own = settings.model_copy(update={"model": model, "identity": identity})
    return loop_settings(own, folder, DRAFTS_EACH)


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices itself: elsewhere float32 is the faster one."""
    has = torch.cpu.get_capabilities()
    return not torch.cuda.is_available() and any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def demo(settings: Settings, folder: Path, *, edits: int, alpha: float, console: Console) -> DemoResult:
    """The whole demo, from the model's conversion to the picture.

    Args:
        settings: as they were loaded; see `demo_settings` for what is taken from them.
        folder: an empty one, for states, adapters, events and the picture.
        edits: of each user.
        alpha: how much of the gap an edit closes, see `WeakEditor`.
        console: where it is shown.
    """
    transformers.utils.logging.disable_progress_bar()
    settings = demo_settings(settings, folder)
    with console.status("The model is looked up; the first time it is converted, which takes about a minute"):
        base = find_model_files(settings.model).source
        engine = PeftEngine(base, settings.model, MAX_NEW_TOKENS)
    users = [taste.user_id for taste in TASTES]
    result = run(settings, engine, dict.fromkeys(users, WeakEditor(alpha)), edits=edits, console=console)
    picture = folder / "edits.png"
    plot_edits(picture, {user: _curves(result, user) for user in users}, window=2 * DRAFTS_EACH)
    _show_result(result, base, picture, console)
    return result


def _curves(result: DemoResult, user: str) -> Curves:
    own = [exchange for exchange in result.exchanges if exchange.user_id == user]
    return Curves(
        edit_ratios=[exchange.edit_ratio for exchange in own],
        repetitions=[repetition_ratio(exchange.draft.text) for exchange in own],
        held_out=(result.frozen.mean(user), result.own.mean(user)),
    )


def run(
    settings: Settings, engine: Engine, editors: Mapping[str, Editor], *, edits: int, console: Console
) -> DemoResult:
    """Let each user edit `edits` drafts, showing how it goes.

    Args:
        settings: see `demo_settings`.
        engine: without adapters.
        editors: how each user edits.
        edits: of each user; rounded up to whole rounds.
        console: a live table where it is a terminal, else a line a round and user.
    """
    users = list(editors)
    with console.status("The frozen model drafts for the held-out prompts"):
        frozen = draft_held_out(engine, dict.fromkeys(users))
    prompts = {taste.user_id: TRAINING.prompts(taste, STARTS[taste.user_id]) for taste in TASTES}
    exchanges: list[Exchange] = []
    rounds = -(-edits // DRAFTS_EACH)
    with ClosedLoop(settings, engine, prompts, editors) as loop, _Display(console, rounds) as show:
        for _ in range(rounds):
            edited = loop.draft_and_edit(DRAFTS_EACH)
            loop.learn(edited)
            exchanges += edited
            show.round([_progress(loop, user, exchanges) for user in users])
        outcomes = {user: loop.outcomes(user) for user in users}
        adapters = {user: folder for user in users if (folder := loop.adapter(user)) is not None}
    with console.status("The adapters draft for the held-out prompts: each user's own, then the other's"):
        own = draft_held_out(engine, {user: user for user in users})
        exchanged = draft_held_out(engine, dict(zip(users, reversed(users), strict=True)))
    return DemoResult(exchanges, outcomes, frozen, own, exchanged, adapters)


# --- what is shown while it runs --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """One user's figures after a round. accuracy: None before a pair was scored by a trained adapter."""

    user_id: str
    drafts: int
    edit_ratio_start: float
    edit_ratio_now: float
    accuracy: float | None
    version: int
    newest_draft: str


def _progress(loop: ClosedLoop, user: str, exchanges: Sequence[Exchange]) -> Progress:
    own = [exchange for exchange in exchanges if exchange.user_id == user]
    ratios = [exchange.edit_ratio for exchange in own]
    return Progress(
        user,
        drafts=len(own),
        edit_ratio_start=statistics.fmean(ratios[: 2 * DRAFTS_EACH]),
        edit_ratio_now=statistics.fmean(ratios[-2 * DRAFTS_EACH :]),
        accuracy=_accuracy(loop.outcomes(user)),
        version=loop.versions()[user],
        newest_draft=own[-1].draft.text,
    )


def _accuracy(outcomes: Iterable[PairOutcome]) -> float | None:
    judged = [correct_share(o.margin) for o in outcomes if o.margin is not None and o.scored_by_trained]
    return statistics.fmean(judged) if judged else None


class _Display:
    """A table that lives, or a plain line a round and user."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._done = 0
        self._started = time.monotonic()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "_Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def round(self, users: Sequence[Progress]) -> None:
        self._done += 1
        left = (time.monotonic() - self._started) * (self._rounds - self._done) / self._done
        if self._live is None:
            for user in users:
                accuracy = "-" if user.accuracy is None else f"{user.accuracy:.2f}"
                self._console.print(
                    f"{user.user_id}: {user.drafts} drafts, edit ratio {user.edit_ratio_now:.2f} "
                    f"(start {user.edit_ratio_start:.2f}), accuracy {accuracy}, version {user.version}",
                    soft_wrap=True,
                )
        else:
            self._live.update(self._table(users, left), refresh=True)

    def _table(self, users: Sequence[Progress], seconds_left: float) -> Table:
        table = Table(box=box.SIMPLE_HEAD, title="Learning from edits", title_justify="left", expand=True)
        table.add_column("user")
        for title in ("drafts", "edit ratio", "at the start", "accuracy", "version"):
            table.add_column(title, justify="right")
        table.add_column("newest draft", no_wrap=True, overflow="ellipsis", ratio=1)
        for user in users:
            table.add_row(
                user.user_id,
                str(user.drafts),
                f"{user.edit_ratio_now:.2f}",
                f"{user.edit_ratio_start:.2f}",
                "-" if user.accuracy is None else f"{user.accuracy:.2f}",
                str(user.version),
                escape(user.newest_draft),
            )
        table.caption = (
            f"about {seconds_left / 60:.1f} min left" if seconds_left else "done"
        ) + "; edit ratio: share of a draft that its user changed, mean of the last two rounds and of the first two"
        table.caption_justify = "left"
        return table


# --- what is shown at the end -----------------------------------------------------------------------------------------


def _show_result(result: DemoResult, base: str, picture: Path, console: Console) -> None:
    """Figures and drafts on held-out prompts, where things are, and how to load an adapter.

    Args:
        result: of `run`.
        base: folder of the base model.
        picture: where the plot was written.
        console: where to.
    """
    table = Table(
        title=f"\nOn {HELD_OUT_PROMPTS} prompts a user, none of whose wording or subjects was trained on:\n"
        "how much of a draft the user would have to change",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("user")
    for title in ("frozen model", "own adapter", "the other's adapter"):
        table.add_column(title, justify="right")
    for user in result.own.distances:
        table.add_row(user, *(f"{drafts.mean(user):.2f}" for drafts in (result.frozen, result.own, result.exchanged)))
    console.print(table)
    for user, prompts in held_out_prompts().items():
        shown = result.own.typical(user)
        console.print(f"[bold]{user}[/bold], asked: {escape(' '.join(prompts[shown].text.split()))}", soft_wrap=True)
        console.print(f"  before  {escape(result.frozen.drafts[user][shown])}", soft_wrap=True)
        console.print(f"  after   {escape(result.own.drafts[user][shown])}", soft_wrap=True)
    console.print(f"\nPicture (edit ratio and repetition against number of edits): {picture}", soft_wrap=True)
    if not result.adapters:
        console.print("No adapter: every step was undone. Look at learning.lr and guard.max_drift_nats", soft_wrap=True)
        return
    console.print("Adapters:", *(str(folder) for folder in result.adapters.values()), sep="\n  ", soft_wrap=True)
    folder = next(iter(result.adapters.values()))
    console.print(
        "To load one:\n"
        "  from peft import PeftModel; from transformers import AutoModelForCausalLM\n"
        f'  model = AutoModelForCausalLM.from_pretrained("{base}")\n'
        f'  model = PeftModel.from_pretrained(model, "{folder}")',
        soft_wrap=True,
        markup=False,
    )
