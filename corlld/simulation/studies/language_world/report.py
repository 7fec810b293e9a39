"""The figures of the study `language-world`, from its rows. Pure.

Differences are paired by seed. Below 0 the first of the two is better.
"""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.intervals import mean_figure, paired_difference
from corlld.simulation.studies.language_world.methods import (
    CHANGED,
    COMPARED,
    CORLL,
    NOTHING,
    PAIR_DPO,
    SFT,
    TAILS,
    Method,
)
from corlld.simulation.studies.rows import column, names_in

_JUDGED_BY = {
    "regret": "REG_T",
    "end": "regret over the last fifth of the answers",
    "end_of_sentences": "regret of texts without a fault over the last fifth of the answers",
}
DIFFERENCE = "minus"  # in the names of differences of REG_T between methods
GRID = "grid"  # in the names of differences of REG_T between cells of the grid and the defaults
GRID_TUNING = "validation"  # in the names of the same differences on the validation seeds
ARCHIVED = "archive"  # the scenario whose users answer to drafts of the base model
DRAFTS = ("own", ARCHIVED)

_OTHERS = (NOTHING, *(method for method in COMPARED if method is not CORLL))
# What is a margin worth without imitation?
_BETWEEN_OTHERS = ((TAILS, SFT), (TAILS, PAIR_DPO), (CHANGED, SFT), (CHANGED, TAILS))
_IN_DETAIL = 3  # the first scenarios are reported in detail


def language_figures(
    reported: Sequence[Row], grid: Sequence[Row], seeds: Sequence[int], defaults: str
) -> dict[str, Figure]:
    """Return all figures of the study by name.

    Args:
        reported: rows of the compared methods, with the chosen settings.
        grid: rows of the cells around the defaults.
        seeds: the reported seeds; the grid has rows of the validation seeds too.
        defaults: name of the cell without a change.
    """
    return {
        **_regrets(reported),
        **_differences(reported),
        **_endings(reported),
        **_answers(reported),
        **_settings(reported),
        **_cells(grid, seeds, defaults),
    }


def slug(text: str) -> str:
    """Return the text as a part of a figure's name."""
    return re.sub(r"\W+", "_", text.lower())


def by_seed(rows: Sequence[Row], name: str, **equal: object) -> list[float]:
    """Return one column of the rows with these values, in the order of their seeds."""
    return column(sorted(rows, key=lambda row: int(row["seed"])), name, **equal)


def _regrets(rows: Sequence[Row]) -> dict[str, Figure]:
    return {
        f"regret_{slug(scenario)}_{slug(method)}": mean_figure(
            by_seed(rows, "regret", method=method, scenario=scenario),
            f"REG_T of {method}, users `{scenario}`: mean U(y*) - U(y) over all answers, share of the range of U",
        )
        for scenario in names_in(rows, "scenario")
        for method in names_in(rows, "method")
        if by_seed(rows, "regret", method=method, scenario=scenario)
    }


def _differences(rows: Sequence[Row]) -> dict[str, Figure]:
    figures = {}
    for scenario in names_in(rows, "scenario"):
        for other in _OTHERS:
            for name, what in _JUDGED_BY.items():
                theirs = by_seed(rows, name, method=other.name, scenario=scenario)
                if not theirs:
                    continue
                ours = by_seed(rows, name, method=CORLL.name, scenario=scenario)
                figures[f"{name}_{slug(scenario)}_corll_{DIFFERENCE}_{slug(other.name)}"] = paired_difference(
                    ours, theirs, f"{what} of CoRLL minus that of {other.name}, users `{scenario}`, paired by seed"
                )
        for one, other in _BETWEEN_OTHERS:
            ours, theirs = (by_seed(rows, "regret", method=m.name, scenario=scenario) for m in (one, other))
            if ours and theirs:
                figures[f"between_{slug(scenario)}_{slug(one.name)}_less_{slug(other.name)}"] = paired_difference(
                    ours, theirs, f"REG_T of {one.name} minus that of {other.name}, users `{scenario}`, paired by seed"
                )
    return figures


def _endings(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the figures of the adapters at the end."""
    figures = {}
    for scenario in names_in(rows, "scenario")[:_IN_DETAIL]:
        for method in names_in(rows, "method"):
            own = {"method": method, "scenario": scenario}
            name = f"{slug(scenario)}_{slug(method)}"
            reached, best = by_seed(rows, "end_utility", **own), by_seed(rows, "best_within_kl", **own)
            figures[f"kl_{name}"] = mean_figure(
                by_seed(rows, "kl", **own), f"KL(pi || pi_0) in nats per text at the end, {method}, users `{scenario}`"
            )
            figures[f"short_of_best_{name}"] = paired_difference(
                best, reached, f"U of the best policy with this KL, minus U at the end, {method}, users `{scenario}`"
            )
            figures[f"faults_{name}"] = mean_figure(
                [1 - share for share in by_seed(rows, "sentences", **own)],
                f"share of faulty texts over the last fifth of the answers, {method}, users `{scenario}`",
            )
    return figures


def _answers(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return how informative the answers were, for edits and for comparisons."""
    meanings = {
        "alpha_hat": "mean gain over mean gap of answers",
        "xi_hat": "mean slack of answers, in utility, at the scenario's alpha",
        "told": "share of answers that prefer one text to another",
        "harmful": "share of these answers that harm",
    }
    return {
        f"{name}_{slug(scenario)}_{slug(method.name)}": mean_figure(
            by_seed(rows, name, method=method.name, scenario=scenario), f"{meaning}, {method.name}, users `{scenario}`"
        )
        for scenario in names_in(rows, "scenario")[:_IN_DETAIL]
        for method in (CORLL, PAIR_DPO)
        if method.name in names_in(rows, "method")
        for name, meaning in meanings.items()
    }


def _settings(rows: Sequence[Row]) -> dict[str, Figure]:
    return {
        f"chosen_{name}_{slug(scenario)}_{slug(method.name)}": Figure(
            by_seed(rows, name, method=method.name, scenario=scenario)[0],
            f"{name} of {method.name}, chosen for users `{scenario}` on validation seeds, of {len(method.tried)} "
            f"settings: {_tried(method)}",
        )
        for scenario in names_in(rows, "scenario")[:_IN_DETAIL]
        for method in COMPARED
        if method.name in names_in(rows, "method")
        for name in method.varied
    }


def _tried(method: Method) -> str:
    return ", ".join(
        f"{name} in " + "|".join(f"{value:g}" for value in sorted({getattr(tried, name) for tried in method.tried}))
        for name in method.varied
    )


def _cells(rows: Sequence[Row], seeds: Sequence[int], defaults: str) -> dict[str, Figure]:
    """Return each cell minus the defaults: the mean over scenarios per seed, then over the seeds.

    Drafts of the user's own policy and drafts of the base model are reported apart: they are two questions.
    """
    figures = {}
    for drafts in DRAFTS:
        part = [row for row in rows if (row["scenario"] == ARCHIVED) == (drafts == ARCHIVED)]
        if not part:
            continue
        centre = _mean_regrets(part, defaults)
        for reported, name, which in ((True, GRID, "reported seeds"), (False, GRID_TUNING, "validation seeds")):
            chosen = [seed for seed in centre if (seed in seeds) == reported]
            figures[f"{name}_{drafts}_{defaults}"] = mean_figure(
                [centre[seed] for seed in chosen],
                f"REG_T of CoRLL with the daemon's defaults except lr and rehearsal, {drafts} drafts, {which}",
            )
            for cell in names_in(part, "cell"):
                if cell != defaults:
                    own = _mean_regrets(part, cell)
                    figures[f"{name}_{drafts}_{cell}"] = paired_difference(
                        [own[seed] for seed in chosen],
                        [centre[seed] for seed in chosen],
                        f"REG_T with {cell} minus that with the defaults, {drafts} drafts, {which}",
                    )
    return figures


def _mean_regrets(rows: Sequence[Row], cell: str) -> Mapping[int, float]:
    own = [row for row in rows if row["cell"] == cell]
    return {
        seed: fmean(float(row["regret"]) for row in own if row["seed"] == seed)
        for seed in sorted({int(row["seed"]) for row in own})
    }
