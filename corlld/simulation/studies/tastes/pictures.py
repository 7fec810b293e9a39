"""Pictures of the study `tastes`. Needs matplotlib, from the extra `demo`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corlld.simulation.drawing import COLOURS, add_legend, new_picture
from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.intervals import mean_figure
from corlld.simulation.studies.rows import chosen
from corlld.simulation.studies.tastes.report import cell_differences
from corlld.simulation.studies.tastes.series import DEFAULT, at_mark, by_user, cell_names, marks, running

_GREY = "#444444"
_SOUND = 0.2  # drafts of a collapse repeat .3 to .7 of their words, those of sound learners less than this


def plot_learning(path: Path, rows: Sequence[Row]) -> None:
    """Plot edit ratio and held-out distance against the number of edits: every user, and the mean with its band."""
    figure = new_picture(9, 8)
    effort, held_out = figure.subplots(2, sharex=True)
    rounds = chosen(rows, part="long", kind="round")
    edits = sorted({int(row["edits"]) for row in rounds})
    curves = running(rounds, "edit_ratio")
    _users(effort, edits, curves)
    _band(effort, edits, list(zip(*curves.values(), strict=True)), "mean and 95 % band over users")
    effort.set(
        ylabel="edit ratio (share of a draft)",
        ylim=(0, 1),
        title="Share of a draft that its user changes (mean of 20 edits)",
    )
    places = marks(rows)
    found = [at_mark(rows, "distance", place) for place in places]
    _users(held_out, places, dict(zip(curves, zip(*found, strict=True), strict=True)), marker="D")
    _band(held_out, places, found, "mean and 95 % band over users")
    held_out.set(xlabel="number of edits", ylabel="distance (0 to 1)", ylim=(0, 1))
    held_out.set(title="Distance of held-out drafts from the text that the user has in mind")
    _finish(figure, path)


def plot_soundness(path: Path, rows: Sequence[Row]) -> None:
    """Plot the figures that would show a collapse, one colour per user."""
    figure = new_picture(11, 9.5)
    axes = figure.subplots(3, 2, sharex=True)
    rounds = chosen(rows, part="long", kind="round")
    edits = sorted({int(row["edits"]) for row in rounds})
    (repetition, length), (perplexity, kl), (displacement, saturation) = axes
    repetition.axhline(_SOUND, color=_GREY, linestyle="--", label="repetition: sound learners stay below")
    _users(repetition, edits, running(rounds, "repetition"))
    repetition.set(title="Repeated words in a draft", ylabel="share of words", ylim=(0, 0.5))
    words, hidden = running(rounds, "words"), running(rounds, "hidden_words")
    _users(length, edits, {user: _quotients(words[user], hidden[user]) for user in words})
    length.set(title="Length of a draft over that of the text in mind", ylabel="words / words", ylim=(0, None))
    _marked(perplexity, rows, "perplexity", "plain")
    base = statistics.fmean(at_mark(rows, "base_perplexity", marks(rows)[0], "plain"))
    perplexity.axhline(base, color=_GREY, linestyle=":", label="perplexity: base model")
    perplexity.set(title="Perplexity of plain English", ylabel="perplexity", ylim=(0, None))
    _marked(kl, rows, "kl_nats", "held-out")
    kl.set(title="log π - log π_base of own held-out drafts", ylabel="nats per token")
    _steps(displacement, rounds, "delta_edited_nats")
    displacement.axhline(0, color=_GREY, linewidth=0.8)
    displacement.set(title="Change of log π(edited tail) by its own update", ylabel="nats")
    _steps(saturation, rounds, "saturated_share")
    saturation.set(title="Pairs whose gradient has almost vanished", ylabel="share of pairs", ylim=(-0.02, 1.02))
    for below in (displacement, saturation):
        below.set_xlabel("number of edits")
    _finish(figure, path)


def plot_cells(path: Path, rows: Sequence[Row]) -> None:
    """Plot each cell minus the default with its interval. Left of zero is better."""
    figure = new_picture(10, 3.8)
    held_out, late = figure.subplots(1, 2, sharey=True)
    names = cell_names(rows)
    differences = [cell_differences(rows, name, DEFAULT) for name in names]
    titles = ("held-out distance at the end (0 to 1)", "edit ratio in the later half (0 to 1)")
    for place, (axes, title) in enumerate(zip((held_out, late), titles, strict=True)):
        for height, pair in enumerate(differences):
            _interval(axes, pair[place], height, COLOURS[place])
        axes.axvline(0, color=_GREY, linewidth=0.8)
        axes.set(title=title, xlabel="difference to the default (left is better), 95 %")
        axes.set_yticks(range(len(names)), names)
        axes.grid(alpha=0.3)
    held_out.invert_yaxis()
    figure.savefig(path, dpi=100)


def _users(axes: Any, places: Sequence[int], curves: Mapping[Any, Sequence[float]], marker: str = "") -> None:
    """Draw one thin line per user and seed. A user has the same colour in all seeds."""
    names = list(dict.fromkeys(user for _, user in curves))
    for (seed, user), values in curves.items():
        label = user if (seed, user) == next(known for known in curves if known[1] == user) else None
        colour = COLOURS[names.index(user) % len(COLOURS)]
        axes.plot(places, values, color=colour, marker=marker, markersize=5, linewidth=1.2, label=label)


def _band(axes: Any, places: Sequence[int], values: Sequence[Sequence[float]], label: str) -> None:
    """Draw the mean over users with its 95 % band. values: of all users, for each place."""
    figures = [mean_figure(at, "") for at in values]
    axes.plot(places, [figure.value for figure in figures], color="black", linewidth=2.4, label=label)
    low, high = ([_bound(figure, side) for figure in figures] for side in ("low", "high"))
    axes.fill_between(places, low, high, color="black", alpha=0.12, linewidth=0)


def _bound(figure: Figure, side: str) -> float:
    bound: float | None = getattr(figure, side)
    return figure.value if bound is None else bound


def _marked(axes: Any, rows: Sequence[Row], column: str, kind: str) -> None:
    places = marks(rows)
    users = by_user(chosen(rows, part="long", kind=kind), column)
    found = [at_mark(rows, column, place, kind) for place in places]
    _users(axes, places, dict(zip(users, zip(*found, strict=True), strict=True)), marker="D")


def _steps(axes: Any, rounds: Sequence[Row], column: str) -> None:
    """Draw the running mean of each user, at the rounds that have the figure."""
    known = [row for row in rounds if column in row]
    places = {user: [int(v) for v in edits] for user, edits in by_user(known, "edits").items()}
    curves = running(known, column) if known else {}
    names = list(dict.fromkeys(user for _, user in curves))
    for user, values in curves.items():
        axes.plot(places[user], values, color=COLOURS[names.index(user[1]) % len(COLOURS)], linewidth=1.2)


def _quotients(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def _interval(axes: Any, figure: Figure, height: int, colour: str) -> None:
    axes.plot([_bound(figure, "low"), _bound(figure, "high")], [height, height], color=colour, linewidth=2)
    axes.plot([figure.value], [height], "D", color=colour)


def _finish(figure: Any, path: Path) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    add_legend(figure)
    figure.savefig(path, dpi=90)
