"""The figures of the study `tastes`, from its rows (see `series`). Pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.intervals import mean_figure, paired_difference
from corlld.simulation.studies.rows import chosen
from corlld.simulation.studies.tastes.series import (
    DEFAULT,
    at_mark,
    by_user,
    cell_names,
    cell_rows,
    held_out_distances,
    largest_running,
    late_ratios,
    marks,
    rounds_in_window,
)

# The default with one change each: the settings that most decide how soon margins saturate, and what is learnt then.
CELLS: Mapping[str, Mapping[str, Any]] = {
    "no rehearsal": {"rehearsal_weight": 0.0},
    "margin tail, imitation_weight 0": {"margin": "tail", "imitation_weight": 0.0},
    "acceptance_weight 0": {"acceptance_weight": 0.0},
    "epsilon 0.05": {"epsilon": 0.05},
    "beta 0.01": {"beta": 0.01},
}
SEEN = ("mira", "jonas")  # the users of the demo: the defaults were chosen on them


def figures_of(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return all figures of the study by name."""
    unseen = [row for row in rows if row.get("user") not in SEEN]
    apart = {f"{name}_unseen": figure for name, figure in _learning(unseen).items()}
    return {**_learning(rows), **apart, **_soundness(rows), **_updates(rows), **_cells(rows)}


def _learning(rows: Sequence[Row]) -> dict[str, Figure]:
    rounds = chosen(rows, part="long", kind="round")
    size = rounds_in_window(rounds)
    ratios = by_user(rounds, "edit_ratio").values()
    first = [statistics.fmean(values[:size]) for values in ratios]
    last = [statistics.fmean(values[-size:]) for values in ratios]
    before, after = (at_mark(rows, "distance", edits) for edits in _first_and_last_mark(rows))
    over = f"mean of {len(first)} users"
    edits = f"{size * int(rounds[0]['edits'])} edits"
    return {
        "edit_ratio_first": mean_figure(first, f"share of a draft that its user changed, first {edits}; {over}"),
        "edit_ratio_last": mean_figure(last, f"share of a draft that its user changed, last {edits}; {over}"),
        "edit_ratio_fall": paired_difference(first, last, "edit_ratio_first minus edit_ratio_last, user by user"),
        "held_out_before": mean_figure(before, f"distance of drafts on held-out prompts, base model; {over}"),
        "held_out_after": mean_figure(
            after, f"distance of drafts on held-out prompts, own adapter after the last edit; {over}"
        ),
        "held_out_fall": paired_difference(before, after, "held_out_before minus held_out_after, user by user"),
        "held_out_exchanged": mean_figure(
            at_mark(rows, "exchanged_distance", _first_and_last_mark(rows)[1]),
            f"distance of drafts on held-out prompts, another user's adapter after the last edit; {over}",
        ),
        "held_out_largest_share_left": Figure(
            max(b / a for a, b in zip(before, after, strict=True)),
            "held_out_after / held_out_before of the user who gained least",
        ),
    }


def _soundness(rows: Sequence[Row]) -> dict[str, Figure]:
    rounds = chosen(rows, part="long", kind="round")
    size = rounds_in_window(rounds)
    words, hidden = by_user(rounds, "words"), by_user(rounds, "hidden_words")
    lengths = [sum(words[user][-size:]) / sum(hidden[user][-size:]) for user in words]
    first, last = _first_and_last_mark(rows)
    base = statistics.fmean(float(row["base_perplexity"]) for row in chosen(rows, part="long", kind="plain"))
    after = [float(row["perplexity"]) for row in chosen(rows, part="long", kind="plain", edits=last)]
    return {
        "repetition_before": mean_figure(
            at_mark(rows, "repetition", first), "share of repeated words in held-out drafts of the base model"
        ),
        "repetition_largest": Figure(
            largest_running(rounds, "repetition"),
            "share of repeated words in drafts of own adapters, largest running mean; a collapse had .3 to .7",
        ),
        "length_last": mean_figure(lengths, "words of a draft per word that its user had in mind, last edits"),
        "plain_perplexity_before": Figure(base, "perplexity of plain English, base model"),
        "plain_perplexity_after": mean_figure(after, "perplexity of plain English, adapters after the last edit"),
        "plain_perplexity_ratio": _ratio_figure(
            after, base, "perplexity of plain English, after / before; geometric mean over users"
        ),
        "drafts_base_nats_before": mean_figure(
            at_mark(rows, "base_nats", first), "-log pi_base per token of held-out drafts, base model"
        ),
        "drafts_base_nats_after": mean_figure(
            at_mark(rows, "base_nats", last), "-log pi_base per token of held-out drafts, adapters after the last edit"
        ),
        "kl_nats": mean_figure(
            at_mark(rows, "kl_nats", last), "log pi - log pi_base per token of own held-out (greedy) drafts, at the end"
        ),
        "hidden_rise_nats": mean_figure(
            at_mark(rows, "hidden_rise_nats", last),
            "log pi - log pi_base of the text that a user has in mind for a held-out prompt, at the end",
        ),
        "rejected": Figure(sum(float(row["rejected"]) for row in rounds), "pairs that the guard or a limit rejected"),
    }


def _updates(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the figures of the updates of the long run. A figure without values is left out."""
    rounds = chosen(rows, part="long", kind="round")
    drifts = [float(row["drift_nats"]) for row in rounds if "drift_nats" in row]
    deltas = [float(row["delta_edited_nats"]) for row in rounds if "delta_edited_nats" in row]
    saturated = [
        statistics.fmean(values[-rounds_in_window(rounds) :])
        for values in by_user(rounds, "saturated_share").values()
        if values
    ]
    figures = {}
    if drifts:
        figures["drift_mean_nats"] = Figure(
            statistics.fmean(drifts), "mean drift per update, nats per tail token of its own pairs"
        )
        figures["drift_largest_nats"] = Figure(
            max(drifts), "largest drift of an update, nats per tail token; the guard's limit is 1"
        )
    if deltas:
        figures["delta_edited_nats"] = Figure(
            statistics.fmean(deltas), "change of log pi(edited tail) by an update, nats"
        )
        falls = sum(delta < 0 for delta in deltas) / len(deltas)
        figures["delta_edited_falls"] = Figure(falls, "share of updates that made their edited texts less likely")
    if saturated:
        figures["saturated_last"] = mean_figure(
            saturated, "share of pairs whose gradient has almost vanished, last edits"
        )
    return figures


def cell_differences(rows: Sequence[Row], name: str, other: str) -> tuple[Figure, Figure]:
    """Return a cell minus another cell: held-out distance at the end, and edit ratio in the later half."""
    return (
        paired_difference(
            held_out_distances(rows, name),
            held_out_distances(rows, other),
            f"held-out distance at the end, {name} minus {other}; over prompts, one run each",
        ),
        paired_difference(
            late_ratios(rows, name),
            late_ratios(rows, other),
            f"edit ratio in the later half, {name} minus {other}; over rounds, one run each",
        ),
    )


def _cells(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the figures of each cell, and its differences to the default."""
    names = cell_names(rows)
    figures: dict[str, Figure] = {}
    for name in [DEFAULT, *names]:
        own = cell_rows(rows, name)
        rounds, plain = chosen(own, kind="round"), chosen(own, kind="plain")
        key = f"cell_{name.replace(' ', '_')}"
        figures[f"{key}_held_out"] = Figure(
            statistics.fmean(held_out_distances(rows, name)), f"held-out distance at the end, {name}, two tastes"
        )
        figures[f"{key}_late_edit_ratio"] = Figure(
            statistics.fmean(late_ratios(rows, name)), f"edit ratio in the later half, {name}"
        )
        figures[f"{key}_repetition"] = Figure(
            largest_running(rounds, "repetition"),
            f"largest running mean of repetition, {name}",
        )
        figures[f"{key}_perplexity_ratio"] = Figure(
            math.exp(statistics.fmean(_log_ratio(row) for row in plain)),
            f"perplexity of plain English, after / before, {name}",
        )
        if name != DEFAULT:
            held_out, late = cell_differences(rows, name, DEFAULT)
            figures |= {f"{key}_held_out_difference": held_out, f"{key}_late_difference": late}
    return figures


def _first_and_last_mark(rows: Sequence[Row]) -> tuple[int, int]:
    found = marks(rows)
    return found[0], found[-1]


def _log_ratio(row: Row) -> float:
    return math.log(float(row["perplexity"]) / float(row["base_perplexity"]))


def _ratio_figure(values: Sequence[float], base: float, meaning: str) -> Figure:
    """Return the geometric mean of value / base. Its interval is that of the logarithms."""
    logs = mean_figure([math.log(value / base) for value in values], meaning)
    low, high = (None if bound is None else math.exp(bound) for bound in (logs.low, logs.high))
    return Figure(math.exp(logs.value), meaning, low, high)
