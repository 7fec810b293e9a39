"""The output of the demo: a table or lines while it runs, then drafts, figures and how to load an adapter.

Knows neither the model nor the daemon.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from corlld.simulation.prompts import Prompt

# The accuracy of pairs is not shown: once an adapter writes what its user wants, it is a coin toss.
MEANING = (
    "edit ratio: share of a draft that its user changed, mean of the last two rounds and of the first two; "
    "rise: how much likelier than the base model the adapter made the last edited texts before it learnt from them, in "
    "nats per token; a draft that is accepted as it is has none"
)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Drafts for prompts that were never trained on, in the order of the prompts, by user."""

    drafts: dict[str, list[str]]
    distances: dict[str, list[float]]

    def mean(self, user: str) -> float:
        return statistics.fmean(self.distances[user])

    def typical(self, user: str) -> int:
        """Return the index of the user's draft with the median distance."""
        return self.distances[user].index(statistics.median_low(self.distances[user]))


@dataclass(frozen=True, slots=True)
class Progress:
    """The figures of one user after a round; see `MEANING`. rise: None before a trained adapter has scored a pair."""

    user_id: str
    drafts: int
    edit_ratio_start: float
    edit_ratio_now: float
    rise: float | None  # nats per token
    version: int
    newest_draft: str

    @property
    def rise_text(self) -> str:
        return "-" if self.rise is None else f"{self.rise:.2f}"


class ProgressTable:
    """A live table on a terminal; elsewhere one line per round and user."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._done = 0
        self._started = time.monotonic()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._console.print(MEANING, soft_wrap=True)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def round(self, users: Sequence[Progress]) -> None:
        """Show the figures of all users after one more round."""
        self._done += 1
        left = (time.monotonic() - self._started) * (self._rounds - self._done) / self._done
        if self._live is not None:
            self._live.update(_progress_table(users, left), refresh=True)
            return
        for user in users:
            self._console.print(
                f"{user.user_id}: {user.drafts} drafts, edit ratio {user.edit_ratio_now:.2f} "
                f"(start {user.edit_ratio_start:.2f}), rise {user.rise_text}, version {user.version}",
                soft_wrap=True,
            )


def _progress_table(users: Sequence[Progress], seconds_left: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="Learning from edits", title_justify="left", expand=True)
    table.add_column("user")
    for title in ("drafts", "edit ratio", "at the start", "rise", "version"):
        table.add_column(title, justify="right")
    table.add_column("newest draft", no_wrap=True, overflow="ellipsis", ratio=1)
    for user in users:
        table.add_row(
            user.user_id,
            str(user.drafts),
            f"{user.edit_ratio_now:.2f}",
            f"{user.edit_ratio_start:.2f}",
            user.rise_text,
            str(user.version),
            escape(user.newest_draft),
        )
    left = f"about {seconds_left / 60:.1f} min left" if seconds_left else "done"
    table.caption = f"{left}; {MEANING}"
    table.caption_justify = "left"
    return table


def held_out_table(frozen: HeldOut, own: HeldOut, exchanged: HeldOut, prompts: int, holdout: str) -> Table:
    """Return the mean distances on held-out prompts, one row per user.

    Args:
        frozen: drafts of the base model.
        own: drafts of each user's own adapter.
        exchanged: drafts of another user's adapter.
        prompts: prompts per user.
        holdout: the user who has no adapter: the base model drafts for that user.
    """
    table = Table(
        title=f"\nOn {prompts} prompts per user, whose wording and subjects were never trained on:\n"
        "share of a draft that the user would have to change",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("user")
    for title in ("base model", "own adapter", "another's adapter"):
        table.add_column(title, justify="right")
    for user in own.distances:
        name = f"{user} (holdout)" if user == holdout else user
        table.add_row(name, *(f"{drafts.mean(user):.2f}" for drafts in (frozen, own, exchanged)))
    return table


def show_drafts(frozen: HeldOut, own: HeldOut, prompts: Mapping[str, Sequence[Prompt]], console: Console) -> None:
    """Print a typical draft per user: before the first edit, and by the user's own adapter."""
    for user, asked in prompts.items():
        shown = own.typical(user)
        console.print(f"[bold]{user}[/bold], asked: {escape(' '.join(asked[shown].text.split()))}", soft_wrap=True)
        console.print(f"  before  {escape(frozen.drafts[user][shown])}", soft_wrap=True)
        console.print(f"  after   {escape(own.drafts[user][shown])}", soft_wrap=True)


def show_adapters(adapters: Mapping[str, Path], base: str, console: Console) -> None:
    """Print where the adapters are, and how to load one.

    Args:
        adapters: folder of each user's newest adapter.
        base: folder of the base model.
        console: where to print.
    """
    if not adapters:
        console.print("No adapter: every step was undone. Look at learning.lr and guard.max_drift_nats", soft_wrap=True)
        return
    console.print("Adapters:", *(str(folder) for folder in adapters.values()), sep="\n  ", soft_wrap=True)
    folder = next(iter(adapters.values()))
    console.print(
        "To load one:\n"
        "  from peft import PeftModel; from transformers import AutoModelForCausalLM\n"
        f'  model = AutoModelForCausalLM.from_pretrained("{base}")\n'
        f'  model = PeftModel.from_pretrained(model, "{folder}")',
        soft_wrap=True,
        markup=False,
    )
