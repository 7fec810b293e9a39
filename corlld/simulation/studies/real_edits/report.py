"""The figures of the study `real-edits`, from its rows, and what its pictures show.

Rows may be missing, if the run was stopped. Then the figures that need them are missing too, and each figure that is
there is of the editors that are there.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.real_edits import judgements
from corlld.simulation.studies.real_edits.judgements import (
    Key,
    base_correct,
    correct,
    like,
    number,
    preferred,
    truly_correct,
)
from corlld.simulation.studies.real_edits.pictures import plot_persons, plot_rises
from corlld.simulation.studies.real_edits.prequential import ROUND, middle
from corlld.simulation.studies.real_edits.rules import Rule, Rules
from corlld.simulation.studies.rows import chosen

BASELINES, VALIDATION, REPORTED, PERSONS = "baselines", "validation", "reported", "persons"  # kinds of units
RISE = "rise of log pi(edited tail) over the base model before the edit was learnt from, nats per token"
SHARE = "share of edits whose edited text was preferred before it was learnt from"

Found = dict[Key, float]
Figures = dict[str, Figure]


class Report:
    """Figures and pictures of one run.

    Each editor's first round counts nowhere: an untrained adapter scored it.

    Args:
        rows: of all units that were done.
        rules: the rules of the run.
    """

    def __init__(self, rows: Sequence[Row], rules: Rules) -> None:
        self._rows = rows
        self._rules = rules
        simple = chosen(rows, kind=BASELINES)
        self._commits = {(str(row["editor"]), int(row["edit"])): int(row["commit"]) for row in simple}
        self._simple = {
            name: {(str(row["editor"]), int(row["edit"])): float(row[name]) for row in simple}
            for name in ("words", "longer")
        }

    def figures(self) -> Figures:
        """Return all figures by name, those that were asked for first."""
        reported = [rule for rule in self._rules.reported if self._judged(rule, correct)]
        figures: Figures = {}
        for rule in reported:
            if not rule.flipped:
                figures |= self._of_rule(rule, REPORTED)
        for rule in reported:
            if rule not in (self._rules.plain, self._rules.flipped):
                figures |= self._differences(rule, self._rules.plain)
        if self._rules.chosen in reported and self._rules.fine_tuning in reported:
            figures |= self._differences(self._rules.chosen, self._rules.fine_tuning)
        figures |= self._differences(self._rules.chosen, self._rules.fine_tuning, VALIDATION)
        figures |= self._controls()
        for rule in reported:
            figures |= self._persons(rule)
        for rule in self._rules.candidates:
            figures |= self._of_rule(rule, VALIDATION)
        return figures | self._choice()

    def draw(self, folder: Path) -> None:
        """Draw the pictures for which there are rows."""
        rises = {rule.name: self._judged(rule, number("rise")) for rule in self._rules.reported if not rule.flipped}
        rises = {name: found for name, found in rises.items() if found}
        if not rises:
            return
        ends = range(2 * ROUND, 1 + max(edit for found in rises.values() for *_, edit in found), ROUND)
        curves = {name: judgements.cumulative(found, self._commits, ends) for name, found in rises.items()}
        plot_rises(
            folder / "rises.png", ends, curves, {name: judgements.of_editors(found) for name, found in rises.items()}
        )
        measured = {rule.name: self._persons(rule) for rule in self._rules.reported}
        persons = {name: list(figures.values())[:2] for name, figures in measured.items() if figures}
        if persons:
            plot_persons(folder / "persons.png", {name: (both[0], both[1]) for name, both in persons.items()})

    def _of_rule(self, rule: Rule, kind: str) -> Figures:
        """Return the figures of one rule on the reported or on the validation editors; none without rows."""
        rise = self._judged(rule, number("rise"), kind)
        if not rise:
            return {}
        right = self._judged(rule, correct, kind)
        own = judgements.of_editors(rise)
        name, what = f"{kind}_{_key(rule.name)}", f"{kind} editors, {rule.name}"
        late = {key: value for key, value in rise.items() if key[2] >= self._half(key[1])}
        margin = self._judged(rule, number("margin"), kind)
        figures = {
            f"{name}_rise": self._mean(rise, f"{what}: {RISE}"),
            f"{name}_rise_of_the_worst": Figure(min(own.values()), f"{what}: the mean of the editor with the least"),
            f"{name}_falls": Figure(
                float(sum(mean < 0 for mean in own.values())), f"{what}: editors whose mean falls, of {len(own)}"
            ),
            f"{name}_accuracy": self._mean(right, f"{what}: {SHARE}"),
            f"{name}_margin": self._mean(margin, f"{what}: mean margin, nats"),
            f"{name}_refused": self._mean(
                {key: 1 - value for key, value in self._judged(rule, number("applied"), kind).items()},
                f"{what}: share of edits that the guard refused",
            ),
        }
        if late:
            figures[f"{name}_rise_second_half"] = self._mean(late, f"{what}, second halves: {RISE}")
        return figures if kind == REPORTED else {key: figures[key] for key in figures if not key.endswith("_margin")}

    def _differences(self, ours: Rule, theirs: Rule, kind: str = REPORTED) -> Figures:
        name = f"{_key(ours.name)}_minus_{_key(theirs.name)}"
        what = f"{ours.name} minus {theirs.name}, edit by edit"
        if kind != REPORTED:
            name, what = f"{kind}_{name}", f"{kind} editors, {what}"
        figures: Figures = {}
        for column, of, meaning in (("rise", number("rise"), RISE), ("accuracy", correct, SHARE)):
            mine, other = (self._judged(rule, of, kind) for rule in (ours, theirs))
            figures |= self._difference(f"{name}_{column}", mine, other, f"{what}: {meaning}")
        return figures

    def _controls(self) -> Figures:
        """Return what rules without a model, the base model and flipped labels reach on the same edits."""
        rules = self._rules
        known = next((found for rule in (rules.chosen, rules.plain) if (found := self._judged(rule, correct))), {})
        if not known:
            return {}
        rule = rules.chosen if self._judged(rules.chosen, correct) else rules.plain
        name = _key(rule.name)
        likes, base = self._judged(rule, preferred), self._judged(rule, base_correct)
        figures = {
            f"preference_{name}": self._mean(likes, f"{rule.name}: share of edits whose edited text is the likelier"),
            "preference_base": self._mean(base, "base model: share of edits whose edited text is the likelier one"),
        }
        for other, meaning in (("words", "word-count perceptron"), ("longer", "the longer text")):
            theirs = like(known, self._simple[other])
            figures[f"accuracy_{other}"] = self._mean(theirs, f"{meaning}: {SHARE}")
            figures |= self._difference(
                f"{name}_minus_{other}_accuracy", known, theirs, f"{rule.name} minus {meaning}: {SHARE}"
            )
        if coin := self._judged(rules.flipped, truly_correct):
            label = self._judged(rules.flipped, correct)
            figures["coin_accuracy"] = self._mean(coin, f"{rules.flipped.name}, first halves: {SHARE}")
            figures["coin_accuracy_of_labels"] = self._mean(
                label, f"{rules.flipped.name}: share of edits whose text with the coin's label was preferred"
            )
        figures["editors"] = Figure(float(len({editor for _, editor, _ in known})), "editors that are reported")
        figures["edits"] = Figure(float(len(known)), "edits that are judged, over all seeds")
        return figures

    def _persons(self, rule: Rule) -> Figures:
        """Return the figures of second halves, by adapters of this rule that have learnt from a first half."""
        scored = chosen(self._rows, kind=PERSONS, rule=rule.name)
        own = [row for row in scored if row["adapter"] == row["editor"]]
        others = [row for row in scored if row["adapter"] != row["editor"]]
        if not own:
            return {}
        figures: Figures = {}
        for name, of, meaning in (("rise", number("rise"), RISE), ("accuracy", correct, SHARE)):
            mine, theirs = judgements.values(own, of), judgements.values(others, of)
            what = f"second halves, {rule.name}: {meaning}; nothing is learnt any more"
            key = _key(rule.name)
            figures[f"own_{key}_{name}"] = self._mean(mine, f"{what}; the editor's own adapter")
            figures[f"others_{key}_{name}"] = self._mean(theirs, f"{what}; another editor's adapter")
            figures |= self._difference(f"own_minus_others_{key}_{name}", mine, theirs, f"{what}; own minus another's")
        return figures

    def _choice(self) -> Figures:
        """Return whether this run's validation chooses the rule that is reported as chosen.

        First the rise counts: the rules under which no validation editor's mean falls, and whose rise can't be told
        from the largest one. Of these the one with the highest accuracy is chosen. Fine-tuning is a baseline, and is
        not chosen. Neither are rules that are known to harm.
        """
        rules = [rule for rule in self._rules.candidates if rule.has_margin and rule not in self._rules.harmful]
        rises = {rule.name: found for rule in rules if (found := self._judged(rule, number("rise"), VALIDATION))}
        editors = {name: judgements.of_editors(found) for name, found in rises.items()}
        most = max((len(own) for own in editors.values()), default=0)
        able = [name for name, own in editors.items() if len(own) == most and min(own.values()) >= 0]
        if not able:
            return {}
        best = max(able, key=lambda name: sum(editors[name].values()))
        accuracy = {
            rule.name: self._mean(self._judged(rule, correct, VALIDATION), "").value
            for rule in rules
            if rule.name in able and self._ties(rises[rule.name], rises[best])
        }
        choice = max(accuracy, key=lambda name: accuracy[name])  # max takes the first of equal candidates
        return {
            "candidates": Figure(float(len(rises)), "rules with a margin that were compared on validation editors"),
            "choice_agrees": Figure(
                float(choice == self._rules.chosen.name),
                f"1: validation chooses ({choice}) the rule that is reported as chosen ({self._rules.chosen.name}); "
                f"0: not. {len(accuracy)} rules can't be told from the one with the largest rise ({best})",
            ),
        }

    def _ties(self, ours: Found, best: Found) -> bool:
        """Return whether a rise can't be told from the largest one: their difference may be 0."""
        high = judgements.difference(ours, best, self._commits, "").high
        return high is None or high >= 0

    def _judged(self, rule: Rule, of: Callable[[Row], float], kind: str = REPORTED) -> Found:
        """Return one value per edit that a trained adapter judged."""
        rows = chosen(self._rows, kind=kind, rule=rule.name, trained=1)
        return judgements.values((row for row in rows if int(row["edit"]) >= ROUND), of)

    def _half(self, editor: str) -> int:
        return middle(1 + max(edit for name, edit in self._commits if name == editor))

    def _difference(self, name: str, ours: Found, theirs: Found, meaning: str) -> Figures:
        """Return the difference on the edits that both judged; nothing if there are none."""
        if not ours.keys() & theirs.keys():
            return {}
        return {name: judgements.difference(ours, theirs, self._commits, meaning)}

    def _mean(self, found: Mapping[Key, float], meaning: str) -> Figure:
        return judgements.mean(found, self._commits, meaning)


def _key(name: str) -> str:
    """Return a rule's name as a part of a figure's name."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_")
