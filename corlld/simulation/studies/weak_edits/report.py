"""The figures of the study `weak-edits`, from its rows. Pure.

Rows may be missing, if the run was stopped: then the figures that need them are missing too. Intervals are over writers
and seeds: each writer of each seed is one value.
"""

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from corlld.simulation.drawing import running_mean
from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.intervals import mean_figure, paired_difference
from corlld.simulation.studies.rows import chosen, names_in
from corlld.simulation.studies.weak_edits.contestants import FINE_TUNING, NOTHING, PAIR_DPO, Rule

GOOD = 0.25  # drafts are good once their mean distance is at most this
WINDOW = 8  # drafts of a running mean
PARTS = {
    "new": "three writers on whom nothing was chosen",
    "shipped": "three writers on whom nothing was chosen, the daemon's learning rate",
}

User = tuple[int, str]  # seed, writer
Values = dict[User, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """What became of the drafts of a rule. rounds, marks: numbers of drafts.

    distances: the mean distance of the drafts after each round, over the last ones. held_out: at each mark.
    """

    rounds: Sequence[int]
    distances: Sequence[float]
    marks: Sequence[int]
    held_out: Sequence[float]


class Report:
    """Figures of one run.

    Args:
        rows: of all units that were done.
        rules: those that learn from edits.
    """

    def __init__(self, rows: Sequence[Row], rules: Sequence[Rule]) -> None:
        self._rows = rows
        self._rules = (*rules, PAIR_DPO, NOTHING)

    def figures(self) -> dict[str, Figure]:
        """Return all figures by name."""
        figures: dict[str, Figure] = {}
        for part, condition in self._conditions():
            found = {rule.name: self._of(part, condition, rule) for rule in self._rules}
            for name, rows in found.items():
                if rows:
                    figures |= self._of_cell(f"{part}_{_key(condition)}_{_key(name)}", f"{condition}, {name}", rows)
            figures |= self._compared(part, condition, found)
        return figures | self._tuning()

    def curves(self) -> dict[str, dict[str, Curve]]:
        """Return a curve per condition and rule, for the new writers."""
        return {
            condition: {rule.name: _curve(rows) for rule in self._rules if (rows := self._of("new", condition, rule))}
            for part, condition in self._conditions()
            if part == "new"
        }

    def differences(self) -> dict[str, dict[str, Figure]]:
        """Return by condition each rule's held-out distance minus that of fine-tuning, for the new writers."""
        found: dict[str, dict[str, Figure]] = {}
        for part, condition in self._conditions():
            theirs = self._of(part, condition, FINE_TUNING)
            if part == "new" and theirs:
                found[condition] = {
                    rule.name: difference
                    for rule in self._rules
                    if rule.name != FINE_TUNING.name
                    and (difference := _difference(self._of(part, condition, rule), theirs, _held_out, "")) is not None
                }
        return {condition: own for condition, own in found.items() if own}

    def _conditions(self) -> Iterator[tuple[str, str]]:
        """Yield the parts and conditions in which edits were learnt from, in the order in which they ran."""
        for part in PARTS:
            seen_by = {PAIR_DPO.name, NOTHING.name}
            rows = [row for row in chosen(self._rows, part=part) if row["rule"] not in seen_by]
            yield from ((part, condition) for condition in names_in(rows, "condition"))

    def _of(self, part: str, condition: str, rule: Rule) -> list[Row]:
        """Return the rows of a cell. Some rules see less of a condition than its name says."""
        if rule.learning is None:
            condition = "nothing"
        elif rule.compares:
            noise = re.search(r"noise [\d.]+", condition)
            condition = f"choices, {noise[0]}" if noise else "choices"
        return chosen(self._rows, part=part, condition=condition, rule=rule.name)

    def _of_cell(self, name: str, what: str, rows: Sequence[Row]) -> dict[str, Figure]:
        good = {user: _good_at(own) for user, own in _users(chosen(rows, kind="round")).items()}
        last, held_out = max(int(row["drafts"]) for row in rows), chosen(rows, kind="held-out")
        of: dict[str, tuple[Values, str]] = {
            "held_out": (_held_out(rows), "distance of held-out drafts at the end, 0 to 1"),
            "wanted_rise": (
                {user: float(marks[-1]["wanted_rise_nats"]) for user, marks in _users(held_out).items()},
                "rise of log pi of the wanted held-out texts over the base model, nats per token",
            ),
            "effort": (_effort(rows), "sum of the distances of all drafts, in whole drafts that must be changed"),
            "edit_ratio": (_late(rows, "edit_ratio"), "share of the last drafts that the writer changed"),
            "late_distance": (_late(rows, "distance"), "distance of the last drafts, 0 to 1"),
            "drafts_until_good": (
                {user: float(last if at is None else at) for user, at in good.items()},
                f"drafts until their running mean distance is at most {GOOD}; {last} if it never is",
            ),
            "repetition": (
                {user: max(_running(own, "repetition")) for user, own in _users(chosen(rows, kind="round")).items()},
                f"largest running mean of repeated words over {WINDOW} drafts",
            ),
        }
        figures = {
            f"{name}_{key}": mean_figure(list(values.values()), f"{what}: {meaning}")
            for key, (values, meaning) in of.items()
            if values
        }
        share = statistics.fmean(at is not None for at in good.values())
        figures[f"{name}_good"] = Figure(share, f"{what}: share of writers whose drafts became good")
        return figures

    def _compared(self, part: str, condition: str, found: Mapping[str, Sequence[Row]]) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for other in (FINE_TUNING.name, PAIR_DPO.name, NOTHING.name):
            for name, rows in found.items():
                if name in (other, NOTHING.name):
                    continue
                for key, of in (("held_out", _held_out), ("effort", _effort)):
                    what = f"{condition}, {PARTS[part]}: {key} of {name} minus that of {other}; less is better"
                    if (difference := _difference(rows, found[other], of, what)) is not None:
                        figures[f"{part}_{_key(condition)}_{_key(name)}_minus_{_key(other)}_{key}"] = difference
        return figures

    def _tuning(self) -> dict[str, Figure]:
        rows = chosen(self._rows, part="tuning")
        return {
            f"tuning_{_key(name)}_{lr:g}": Figure(
                tuning_distance(chosen(rows, rule=name, lr=lr)),
                f"distance of the later half of the drafts in tuning, {name}, learning rate {lr:g}",
            )
            for name, lr in dict.fromkeys((str(row["rule"]), float(row["lr"])) for row in rows)
        }


def tuning_distance(rows: Sequence[Row]) -> float:
    """Return the mean distance of the later half of the drafts. The smallest one decides the learning rate.

    rows: of the rounds of one tuning.
    """
    half = max(int(row["drafts"]) for row in rows) / 2
    return statistics.fmean(float(row["distance"]) for row in rows if int(row["drafts"]) > half)


def _users(rows: Sequence[Row]) -> dict[User, list[Row]]:
    """Return the rows of each writer of each seed, in order."""
    users = dict.fromkeys((int(row["seed"]), str(row["writer"])) for row in rows)
    return {(seed, name): chosen(rows, seed=seed, writer=name) for seed, name in users}


def _held_out(rows: Sequence[Row]) -> Values:
    own = _users(chosen(rows, kind="held-out"))
    return {user: float(marks[-1]["distance"]) for user, marks in own.items()}


def _effort(rows: Sequence[Row]) -> Values:
    """Return what each writer would have to change in all drafts together, in whole drafts."""
    return {
        user: sum(
            float(r["distance"]) * (int(r["drafts"]) - before) for r, before in zip(own, _before(own), strict=True)
        )
        for user, own in _users(chosen(rows, kind="round")).items()
    }


def _before(rounds: Sequence[Row]) -> list[int]:
    return [0, *(int(row["drafts"]) for row in rounds[:-1])]


def _late(rows: Sequence[Row], column: str) -> Values:
    """Return the mean of the last `WINDOW` drafts, for the writers whose rows have the column."""
    own = _users([row for row in chosen(rows, kind="round") if column in row])
    return {user: _running(rounds, column)[-1] for user, rounds in own.items()}


def _running(rounds: Sequence[Row], column: str) -> list[float]:
    each = int(rounds[0]["drafts"])
    return running_mean([float(row[column]) for row in rounds], max(1, WINDOW // each))


def _good_at(rounds: Sequence[Row]) -> int | None:
    """Return the number of drafts after which drafts are good; None if they never are."""
    means = zip(rounds, _running(rounds, "distance"), strict=True)
    return next((int(row["drafts"]) for row, mean in means if mean <= GOOD), None)


def _difference(
    ours: Sequence[Row], theirs: Sequence[Row], of: Callable[[Sequence[Row]], Values], meaning: str
) -> Figure | None:
    """Return the mean difference over the writers and seeds that both have; None if there are none."""
    mine, other = of(ours), of(theirs)
    both = [user for user in mine if user in other]
    if not both:
        return None
    return paired_difference([mine[user] for user in both], [other[user] for user in both], meaning)


def _curve(rows: Sequence[Row]) -> Curve:
    rounds, marks = chosen(rows, kind="round"), chosen(rows, kind="held-out")
    series = [_running(own, "distance") for own in _users(rounds).values()]
    measured = [[float(row["distance"]) for row in own] for own in _users(marks).values()]
    return Curve(
        sorted({int(row["drafts"]) for row in rounds}),
        [statistics.fmean(each) for each in zip(*series, strict=True)],
        sorted({int(row["drafts"]) for row in marks}),
        [statistics.fmean(each) for each in zip(*measured, strict=True)],
    )


def _key(name: str) -> str:
    """Return a name as a part of a figure's name."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_")
