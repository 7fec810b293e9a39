"""What the language world's rows come to. Differences are paired by seed; below 0 is better for the first one."""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.intervals import mean_figure, paired_difference
from corlld.simulation.studies.language_world.methods import (
    ANCHORED,
    COMPARED,
    CORLL,
    NOTHING,
    PAIR_DPO,
    PREVIOUS,
    SFT,
    Method,
)
from corlld.simulation.studies.rows import column, names_in

_JUDGED_BY = {
    "regret": "REG_T",
    "end": "regret over the last fifth of the answers",
    "end_of_sentences": "the same of texts without a fault alone",
}
DIFFERENCE = "minus"  # in the names of differences of REG_T between methods
GRID = "grid"  # ... of cells of the grid
GRID_TUNING = "validation"  # the same, on the seeds that the cells are judged by
ARCHIVED = "archive"  # drafts of the base model; name of the kind of users that answer to them
DRAFTS = ("own", ARCHIVED)

_OTHERS = (NOTHING, *(method for method in COMPARED if method is not CORLL))
# Does what keeps up the edited text's likelihood close the distance to fine-tuning?
_BETWEEN_OTHERS = ((ANCHORED, SFT), (PREVIOUS, SFT), (PREVIOUS, PAIR_DPO))
_IN_DETAIL = 3  # kinds of users, from the first on


def language_figures(
    reported: Sequence[Row], grid: Sequence[Row], seeds: Sequence[int], defaults: str
) -> dict[str, Figure]:
    """All figures by name.

    Args:
        reported: of the compared methods, with the settings that were chosen.
        grid: of the cells around the defaults.
        seeds: the reported ones; the grid has others besides.
        defaults: name of the cell that nothing is changed in.
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
    """As a part of a figure's name."""
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
                    ours, theirs, f"{what} of CoRLL less that of {other.name}, users `{scenario}`, paired by seed"
                )
        for one, other in _BETWEEN_OTHERS:
            ours, theirs = (by_seed(rows, "regret", method=m.name, scenario=scenario) for m in (one, other))
            if ours and theirs:
                figures[f"between_{slug(scenario)}_{slug(one.name)}_less_{slug(other.name)}"] = paired_difference(
                    ours, theirs, f"REG_T of {one.name} less that of {other.name}, users `{scenario}`, paired by seed"
                )
    return figures


def _endings(rows: Sequence[Row]) -> dict[str, Figure]:
    """The adapters as they were at the end."""
    figures = {}
    for scenario in names_in(rows, "scenario")[:_IN_DETAIL]:
        for method in names_in(rows, "method"):
            own = {"method": method, "scenario": scenario}
            name = f"{slug(scenario)}_{slug(method)}"
            reached, best = by_seed(rows, "end_utility", **own), by_seed(rows, "best_within_kl", **own)
            figures[f"kl_{name}"] = mean_figure(
                by_seed(rows, "kl", **own), f"KL(pi || pi_0) in nats a text at the end, {method}, users `{scenario}`"
            )
            figures[f"short_of_best_{name}"] = paired_difference(
                best, reached, f"U of the best policy with this KL, less U at the end, {method}, users `{scenario}`"
            )
            figures[f"faults_{name}"] = mean_figure(
                [1 - share for share in by_seed(rows, "sentences", **own)],
                f"share of faulty texts over the last fifth of the answers, {method}, users `{scenario}`",
            )
    return figures


def _answers(rows: Sequence[Row]) -> dict[str, Figure]:
    """How much an answer tells, by whom it was asked."""
    meanings = {
        "alpha_hat": "mean gain over mean gap of answers",
        "xi_hat": "mean slack of answers, in utility, at the scenario's alpha",
        "told": "share of answers that tell two texts apart",
        "harmful": "share of these that harm",
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
    """Each cell less the defaults: mean over kinds of users for each seed, then over the seeds.

    Where the user's own policy wrote the drafts, and where the base model did, are two questions.
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
                f"REG_T of CoRLL with the daemon's defaults but lr and rehearsal, {drafts} drafts, {which}",
            )
            for cell in names_in(part, "cell"):
                if cell != defaults:
                    own = _mean_regrets(part, cell)
                    figures[f"{name}_{drafts}_{cell}"] = paired_difference(
                        [own[seed] for seed in chosen],
                        [centre[seed] for seed in chosen],
                        f"REG_T with {cell} less that with the defaults, {drafts} drafts, {which}",
                    )
    return figures


def _mean_regrets(rows: Sequence[Row], cell: str) -> Mapping[int, float]:
    own = [row for row in rows if row["cell"] == cell]
    return {
        seed: fmean(float(row["regret"]) for row in own if row["seed"] == seed)
        for seed in sorted({int(row["seed"]) for row in own})
    }
