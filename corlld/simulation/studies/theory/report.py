"""The figures of the study `theory`, from its rows. Pure."""

import itertools
from collections.abc import Sequence

from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.intervals import mean_figure, paired_difference
from corlld.simulation.studies.rows import column
from corlld.simulation.studies.theory.course import ACCEPTING, CORLL, PERCEPTRON
from corlld.simulation.studies.theory.tabular_world import Noise

ALPHAS = (0.1, 0.3, 1.0)
EPSILONS = (0.2, 0.4)
DRAWS = ("argmax", "sampled")
NOISES: tuple[Noise, ...] = ("scaled", "unscaled")


def figures_of(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return all figures of the study by name."""
    return _bounds(rows) | _slopes(rows) | _plateaus(rows) | _feedback(rows)


def _bounds(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the largest regret / bound of any seed at any T. It has no interval; a value above 1 breaks the bound."""
    figures = {}
    for way in (PERCEPTRON, CORLL):
        bounded = [row for row in rows if row["way"] == way.name and row["drafts"] == "argmax"]
        for users, part in (
            ("honest", [row for row in bounded if row["noise"] == "none"]),
            ("noisy", [row for row in bounded if row["noise"] != "none"]),
        ):
            figures[f"{way.name}_bound_used_{users}"] = Figure(
                max(float(row["largest_ratio"]) for row in part),
                f"largest regret / bound of {way.name}, {users} users, argmax drafts, over every T, seed and alpha",
            )
    return figures


def _slopes(rows: Sequence[Row]) -> dict[str, Figure]:
    figures = {}
    for draws in DRAWS:
        for way in (PERCEPTRON, CORLL):
            for alpha in ALPHAS:
                values = column(rows, "slope", way=way.name, drafts=draws, alpha=alpha, noise="none")
                figures[f"{way.name}_slope_{draws}_alpha_{alpha:g}"] = mean_figure(
                    values, f"slope of log REG_T against log T, {way.name}, {draws} drafts, no noise"
                )
            values = column(rows, "slope", way=way.name, drafts=draws, noise="none")
            figures[f"{way.name}_slope_{draws}_flattest"] = Figure(
                max(values), f"the flattest slope of any seed and alpha, {way.name}, {draws} drafts, no noise"
            )
    return figures


def _plateaus(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the gap that is left in the last quarter of the rounds at alpha 0.3, and its fall."""
    figures = {}
    for epsilon, noise, draws, way in itertools.product(EPSILONS, NOISES, DRAWS, (CORLL, ACCEPTING)):
        where = {"way": way.name, "drafts": draws, "alpha": 0.3, "noise": noise, "epsilon": epsilon}
        early, late = (column(rows, f"{quarter}_quarter", **where) for quarter in ("second", "last"))
        name, text = f"{way.name}_{noise}_{epsilon:g}_{draws}", f"{way.name}, {noise} noise {epsilon:g}, {draws} drafts"
        figures[f"{name}_left"] = mean_figure(late, f"mean gap in the last quarter of the rounds, {text}, alpha 0.3")
        if draws == "argmax":
            figures[f"{name}_fall"] = paired_difference(
                early, late, f"fall of the mean gap from the second quarter to the last, {text}, alpha 0.3"
            )
    return figures


def _feedback(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the feedback as it was measured, at alpha 0.3, for CoRLL with argmax drafts."""
    figures = {}
    for epsilon, noise in ((0.0, "none"), *((e, n) for n in NOISES for e in EPSILONS)):
        where = {"way": CORLL.name, "drafts": "argmax", "alpha": 0.3, "noise": noise, "epsilon": epsilon}
        for name, meaning in (
            ("alpha_hat", "sum of gains / sum of gaps"),
            ("xi_hat", "mean slack below alpha times the gap"),
            ("harmful_share", "share of the edits that harm"),
        ):
            values = column(rows, name, **where)
            figures[f"{name}_{noise}_{epsilon:g}"] = mean_figure(values, f"{meaning}; nominal alpha 0.3, corll")
    return figures
