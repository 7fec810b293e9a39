"""The figures of the study `real-edits`, from its rows, and what its pictures show."""

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
from corlld.simulation.studies.real_edits.pictures import plot_curves, plot_persons
from corlld.simulation.studies.real_edits.prequential import ROUND, middle
from corlld.simulation.studies.real_edits.rules import Rule, Rules

BASELINES, VALIDATION, REPORTED = "baselines", "validation", "reported"  # kinds of units

Found = dict[Key, float]


class Report:
    """Figures and pictures of one run.

    Each editor's first micro-batch counts nowhere: an untrained adapter scored half of it, and with fine-tuning all of
    it. So all methods are judged on the same edits.

    Args:
        rows: of all units.
        rules: the rules of the run.
    """

    def __init__(self, rows: Sequence[Row], rules: Rules) -> None:
        self._rows = rows
        self._rules = rules
        simple = [row for row in rows if row["unit"] == BASELINES]
        places = [(str(row["editor"]), int(row["edit"])) for row in simple]
        self._commits = dict(zip(places, (int(row["commit"]) for row in simple), strict=True))
        corll = self._judged(rules.corll, correct)
        sft = self._judged(rules.chosen_sft, correct)
        words, longer = (
            like(corll, dict(zip(places, (float(row[name]) for row in simple), strict=True)))
            for name in ("words", "longer")
        )
        self._accuracy: dict[str, Found] = {
            "corll": corll,
            "chosen": self._judged(rules.chosen_corll, correct),
            "sft": sft,
            "words": words,
            "longer": longer,
            "base": self._judged(rules.corll, base_correct),
            "flipped": self._judged(rules.flipped, truly_correct),
        }
        self._margin: dict[str, Found] = {
            name: self._judged(rule, number("margin"))
            for name, rule in (("corll", rules.corll), ("chosen", rules.chosen_corll), ("sft", rules.chosen_sft))
        }

    def figures(self) -> dict[str, Figure]:
        """Return all figures by name."""
        return self._prequential() | self._control() | self._validation()

    def draw(self, folder: Path) -> None:
        """Draw the two pictures of the study."""
        ends = range(ROUND + ROUND // 2, _end(self._accuracy["corll"]) + 1, ROUND // 2)
        same = self._rules.chosen_corll == self._rules.corll  # then they are one curve
        accuracy, margin = (
            {
                name: judgements.cumulative(found, self._commits, [end for end in ends if end <= _end(found)])
                for name, found in curves.items()
                if not (same and name == "chosen")
            }
            for curves in (self._accuracy, self._margin)
        )
        plot_curves(folder / "curves.png", ends, accuracy, margin)
        measured = self._control()
        shown = {
            "own\n(margin)": "own_accuracy",
            "another's\n(margin)": "others_accuracy",
            "own\n(likelier)": "own_preference",
            "another's\n(likelier)": "others_preference",
            "nobody's\n(likelier)": "nobodys_preference",
        }
        plot_persons(
            folder / "persons.png",
            {label: measured[name] for label, name in shown.items()},
            {name: self._of_editor(name) for name in sorted({editor for _, editor, _ in self._accuracy["corll"]})},
        )

    def _prequential(self) -> dict[str, Figure]:
        corll, margin = self._accuracy["corll"], self._margin["corll"]
        later = middle(_end(corll))
        flipped = self._judged(self._rules.flipped, correct)
        applied = self._judged(self._rules.corll, number("applied"))
        share = "share of edits whose edited text was preferred before it was learnt"
        names = {
            "corll": f"corlld, default settings: {share}",
            "chosen": f"corlld, {self._rules.chosen_corll.name} (best on validation editors): {share}",
            "sft": f"fine-tuning on edited texts, {self._rules.chosen_sft.name} (best on validation editors): {share}",
            "words": f"word-count perceptron: {share}",
            "longer": f"the longer text: {share}",
            "base": "base model: share of edits whose edited text is the more likely one",
            "flipped": "corlld, labels by a coin: share of edits whose edited text was preferred",
        }
        figures = {f"accuracy_{name}": self._mean(self._accuracy[name], text) for name, text in names.items()}
        figures["accuracy_flipped_labels"] = self._mean(
            flipped, "corlld, labels by a coin: share of edits whose text with the coin's label was preferred"
        )
        figures["accuracy_corll_second_half"] = self._mean(
            {key: value for key, value in corll.items() if key[2] >= later}, "corlld: each editor's second half alone"
        )
        for ours, theirs in (
            ("corll", ("words", "longer", "base", "sft", "flipped")),
            ("chosen", ("words", "sft", "corll")),
        ):
            for other in theirs:
                figures[f"{ours}_minus_{other}"] = self._difference(
                    self._accuracy[ours], self._accuracy[other], f"accuracy of `{ours}` minus that of `{other}`"
                )
        base = self._accuracy["base"]
        for name, rule in (("corll", self._rules.corll), ("chosen", self._rules.chosen_corll)):
            likes = self._judged(rule, preferred)
            figures[f"preference_{name}"] = self._mean(
                likes, f"`{name}`: share of edits whose edited text is the more likely one"
            )
            figures[f"preference_{name}_minus_base"] = self._difference(
                likes, base, f"preference_{name} minus accuracy_base"
            )
        figures["margin_corll"] = self._mean(margin, "corlld: mean margin over the base model, nats")
        figures["margin_chosen"] = self._mean(self._margin["chosen"], "the chosen variant: mean margin, nats")
        figures["margin_sft"] = self._mean(self._margin["sft"], "fine-tuning: mean margin, nats")
        figures["refused_share"] = self._mean(
            {key: 1 - value for key, value in applied.items()}, "corlld: share of edits that the guard refused"
        )
        figures["editors"] = Figure(float(len({editor for _, editor, _ in corll})), "editors that are reported")
        figures["edits"] = Figure(float(len(corll)), "edits that are judged")
        return figures

    def _control(self) -> dict[str, Figure]:
        """Return the figures of each editor's second half, by adapters that have learnt from a first half."""
        scored = [row for row in self._rows if "adapter" in row]
        own = [row for row in scored if row["adapter"] == row["editor"]]
        by_others = [row for row in scored if row["adapter"] != row["editor"]]

        def both(of: Callable[[Row], float]) -> tuple[Found, Found]:
            mine = judgements.values(own, of)
            each: dict[Key, list[float]] = {key: [] for key in mine}
            for row in by_others:
                ((key, value),) = judgements.values([row], of).items()
                each[key].append(value)
            return mine, {key: sum(found) / len(found) for key, found in each.items() if found}

        figures: dict[str, Figure] = {}
        for name, of, meaning in (
            (
                "accuracy",
                correct,
                "share of edits whose edited text gained on the proposed text (base model: one half)",
            ),
            ("preference", preferred, "share of edits whose edited text is the more likely one"),
            ("margin", number("margin"), "margin, nats"),
            ("gain", number("gain"), "rise of the edited text's log-probability over the base model's, nats per token"),
        ):
            mine, others = both(of)
            figures[f"own_{name}"] = self._mean(mine, f"second halves by the editor's own adapter: {meaning}")
            figures[f"others_{name}"] = self._mean(others, f"second halves by other editors' adapters: {meaning}")
            figures[f"own_minus_others_{name}"] = self._difference(
                mine, others, f"own minus other editors' adapters: {meaning}"
            )
        nobody = judgements.values(own, base_correct)
        meaning = "second halves by the base model: share of edits whose edited text is the more likely one"
        figures["nobodys_preference"] = self._mean(nobody, meaning)
        figures["own_minus_nobodys_preference"] = self._difference(
            judgements.values(own, preferred), nobody, "own_preference minus nobodys_preference"
        )
        return figures

    def _validation(self) -> dict[str, Figure]:
        """Return the accuracy of all candidates, and whether this run would choose the same rules."""
        rules = self._rules
        found = {
            rule.name: self._mean(
                self._judged(rule, correct, VALIDATION), f"accuracy of {rule.name} on validation editors"
            )
            for rule in rules.candidates
        }
        best = [
            max(candidates, key=lambda rule: found[rule.name].value)  # max takes the first of equal candidates
            for candidates in (rules.corll_candidates, rules.sft_candidates)
        ]
        agrees = float(best == [rules.chosen_corll, rules.chosen_sft])
        return {f"validation_{name.replace('-', '_')}": figure for name, figure in found.items()} | {
            "candidates_corll": Figure(
                float(len(rules.corll_candidates)), "candidates of corlld that were compared on validation editors"
            ),
            "candidates_sft": Figure(
                float(len(rules.sft_candidates)), "candidates of fine-tuning that were compared on the same edits"
            ),
            "choice_agrees": Figure(
                agrees, "1: the validation of this run chooses the rules that are reported as chosen; 0: not"
            ),
        }

    def _judged(self, rule: Rule, of: Callable[[Row], float], kind: str = REPORTED) -> Found:
        """Return one value per edit that a trained adapter judged."""
        unit = f"{kind}/{rule.name}"
        rows = [row for row in self._rows if row["unit"] == unit or str(row["unit"]).startswith(f"{unit}/")]
        return judgements.values(
            (r for r in rows if "adapter" not in r and r["trained"] and int(r["edit"]) >= ROUND), of
        )

    def _of_editor(self, name: str) -> dict[str, Figure]:
        """Return the accuracy of one editor by method."""
        return {
            method: self._mean({key: value for key, value in self._accuracy[method].items() if key[1] == name}, "")
            for method in ("corll", "chosen", "words", "base")
        }

    def _difference(self, ours: Found, theirs: Found, meaning: str) -> Figure:
        return judgements.difference(ours, theirs, self._commits, f"{meaning}, edit by edit")

    def _mean(self, found: Mapping[Key, float], meaning: str) -> Figure:
        return judgements.mean(found, self._commits, meaning)


def _end(found: Found) -> int:
    """Return the index behind the last judged edit."""
    return 1 + max(edit for _, _, edit in found)
