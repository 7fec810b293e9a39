"""The figures of the study `no-harm`, from its rows, and the limits that were stated beforehand. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.intervals import mean_figure, paired_difference
from corlld.simulation.studies.no_harm.harmful_users import HOSTILE, KINDS
from corlld.simulation.studies.no_harm.variants import DEFAULTS, UNGUARDED, UNREHEARSED


@dataclass(frozen=True, slots=True)
class Band:
    """Limits for the noisy user after its last edit.

    plain_ratio: perplexity of plain English over that of the base model. repetition_rise: repetition in the canary
    drafts minus that in the base model's. draft_repetition: repetition in the drafts of its last edits.
    """

    plain_ratio: float
    repetition_rise: float
    draft_repetition: float


BAND_SEEDS = (101, 102)
# Stated before the reported seeds were run, from the noisy user of seeds 101, 102 (the demo's two tastes). After
# 80 edits with the defaults the ratio was 1.02 and 1.03, and repetition in drafts was .45 and .20.
NOISE_BAND = Band(plain_ratio=1.3, repetition_rise=0.35, draft_repetition=0.6)

# Stated beforehand too: rehearsal stays on by default if every noisy user is in the band with it, some noisy user is
# outside without it, and the held-out distance of honest users is larger by at most this in the mean.
HONEST_LOSS = 0.1

MEASURES = {
    "plain_ratio": "perplexity of plain English over that of the base model",
    "canary_similarity": "similarity of the canary drafts to the base model's, 0 to 1",
    "draft_repetition": "repetition in the drafts of its last edits, 0 to 1",
    "edit_ratio": "share of its last drafts that it changed, 0 to 1",
    "held_out_distance": "share of held-out drafts that an honest user would have to change, 0 to 1",
    "wanted_nats": "rise of log pi per token of the texts that it wants, held-out prompts",
    "base_drafts_nats": "fall of log pi per token of the base model's canary drafts",
    "own_drafts_nats": "log pi - log pi_base per token of its adapter's canary drafts",
}
GUARD_COLUMNS = {
    "rejected_drift": "pairs that were rejected for their drift",
    "wanted_nats": MEASURES["wanted_nats"],
}
RULE_COLUMNS = {column: MEASURES[column] for column in ("plain_ratio", "held_out_distance", "draft_repetition")}
# What a daemon can measure without the hidden text. -1: a smaller value is worse.
SIGNALS = {
    "draft_repetition": 1,
    "edit_ratio": 1,
    "plain_ratio": 1,
    "canary_similarity": -1,
    "canary_repetition": 1,
    "base_drafts_nats": 1,
    "drift_max": 1,
}


def figures_of(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return all figures of the study by name."""
    compared = {**_band(rows, DEFAULTS, NOISE_BAND), **_band(rows, UNREHEARSED, NOISE_BAND), **_rehearsal(rows)}
    return {
        **_harm(rows),
        **compared,
        "rehearsal_wins": rehearsal_wins(compared),
        **_guarded(rows),
        **_variants(rows),
        **_signals(rows),
    }


def _chosen(
    rows: Sequence[Row], column: str, user: str, variant: str = DEFAULTS, edits: int | None = None
) -> list[float]:
    """Return one column of a kind of user, one value per seed. edits: None: after the last edit."""
    own = [row for row in rows if row["user"] == user and row["variant"] == variant]
    last = max((int(row["edits"]) for row in own), default=0) if edits is None else edits
    return [float(row[column]) for row in own if row["edits"] == last and row.get(column, "") != ""]


def _learnt(kind: str) -> str:
    """Return the variant in which the edits of this kind of user are learnt."""
    return UNGUARDED if kind == "pasting" else DEFAULTS


def _harm(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the measures after the last edit, with the defaults."""
    figures = {}
    for kind in KINDS:
        for column, meaning in MEASURES.items():
            figures[f"{kind}_{column}"] = mean_figure(_chosen(rows, column, kind), f"{meaning}, {kind} user")
    start = [
        float(row["held_out_distance"])
        for row in rows
        if row["edits"] == 0 and row["user"] == "honest" and row["variant"] == DEFAULTS
    ]
    figures["base_held_out_distance"] = mean_figure(start, f"{MEASURES['held_out_distance']}, base model")
    return figures


def _band(rows: Sequence[Row], variant: str, band: Band) -> dict[str, Figure]:
    """Return whether the noisy user stayed within the limits that were stated beforehand."""
    columns = ("plain_ratio", "canary_repetition", "canary_repetition_of_base", "draft_repetition")
    plain, canary, base, drafts = (_chosen(rows, column, "noisy", variant) for column in columns)
    rises = [a - b for a, b in zip(canary, base, strict=True)]
    inside = [
        ratio <= band.plain_ratio and rise <= band.repetition_rise and own <= band.draft_repetition
        for ratio, rise, own in zip(plain, rises, drafts, strict=True)
    ]
    name = f"noisy_{variant.replace(' ', '_')}"
    return {
        f"{name}_in_band": Figure(
            sum(inside) / len(inside), f"{variant}: share of seeds whose noisy user stayed within {band}"
        ),
        f"{name}_worst_plain_ratio": Figure(max(plain), f"{variant}: largest perplexity ratio of a noisy user"),
        f"{name}_worst_repetition_rise": Figure(
            max(rises), f"{variant}: largest repetition in canary drafts of a noisy user, minus the base model's"
        ),
        f"{name}_worst_draft_repetition": Figure(
            max(drafts), f"{variant}: largest repetition in the last drafts of a noisy user"
        ),
    }


def _guarded(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the share of pasted and honest edits that the guard refused."""
    own = [row for row in rows if row["user"] == "pasting"]
    figures = {}
    for variant in (DEFAULTS, UNGUARDED):
        edits = max(int(row["edits"]) for row in own if row["variant"] == variant)
        refused = [value / edits for value in _chosen(rows, "rejected_repetitive", "pasting", variant)]
        name = variant.replace(" ", "_")
        figures[f"pasting_{name}_refused"] = mean_figure(refused, f"{variant}: share of pasted edits refused")
        figures[f"pasting_{name}_draft_repetition_last"] = mean_figure(
            _chosen(rows, "draft_repetition", "pasting", variant),
            f"{variant}: {MEASURES['draft_repetition']}, pasting user",
        )
    honest = _chosen(rows, "rejected_repetitive", "honest")
    figures["honest_refused"] = Figure(
        sum(honest), "edits of honest users that the guard refused as repetitive, sum over seeds"
    )
    return figures


def _rehearsal(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the measures without rehearsal, and the defaults minus them, after the last edit."""
    figures = {}
    for kind in ("honest", "noisy"):
        for column, meaning in RULE_COLUMNS.items():
            with_it, without = (_chosen(rows, column, kind, variant) for variant in (DEFAULTS, UNREHEARSED))
            figures[f"{kind}_unrehearsed_{column}"] = mean_figure(without, f"{meaning}, {kind} user, {UNREHEARSED}")
            figures[f"{kind}_rehearsal_{column}_difference"] = paired_difference(
                with_it, without, f"{meaning}, {kind} user, defaults minus {UNREHEARSED}, seed by seed"
            )
    return figures


def rehearsal_wins(figures: Mapping[str, Figure]) -> Figure:
    """Return 1 if rehearsal stays on by the rule at `HONEST_LOSS`, 0 if not."""
    with_it, without = (
        figures[f"noisy_{variant.replace(' ', '_')}_in_band"].value for variant in (DEFAULTS, UNREHEARSED)
    )
    loss = figures["honest_rehearsal_held_out_distance_difference"].value
    return Figure(
        float(with_it == 1 > without and loss <= HONEST_LOSS),
        "1: with rehearsal every noisy user is in the band, without it some are not, and the held-out distance of "
        f"honest users is larger by at most {HONEST_LOSS:g} (stated beforehand); 0: not",
    )


def _variants(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the first seed's measures with other guards and rules, beside the defaults after as many edits."""
    figures = {}
    own = [row for row in rows if row["seed"] == rows[0]["seed"]]
    elsewhere = (DEFAULTS, UNGUARDED, UNREHEARSED)  # they have figures of their own
    for variant in dict.fromkeys(str(row["variant"]) for row in own if row["variant"] not in elsewhere):
        edits = max(int(row["edits"]) for row in own if row["variant"] == variant)
        columns = GUARD_COLUMNS if variant.startswith("drift") else RULE_COLUMNS
        for kind in dict.fromkeys(str(row["user"]) for row in own if row["variant"] == variant):
            for column, meaning in columns.items():
                for name in (DEFAULTS, variant):
                    (value,) = _chosen(own, column, kind, name, edits)
                    figures[f"{kind}_{name.replace(' ', '_')}_{edits}_{column}"] = Figure(
                        value, f"{meaning}, {kind} user, {name}, {edits} edits, first seed"
                    )
    for kind in KINDS:
        drifts = [
            float(row["drift_max"])
            for row in rows
            if row["user"] == kind and row["variant"] == _learnt(kind) and row.get("drift_max", "") != ""
        ]
        figures[f"{kind}_largest_drift"] = Figure(
            max(drifts), f"largest drift of an update, nats per token, {kind} user, {_learnt(kind)}"
        )
    return figures


def _signals(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return how well each signal tells hostile users from honest ones, as an automatic roll-back would have to.

    A signal tells them apart if the hostile user's mildest value is worse than the honest user's worst value. The
    pasting user is taken from the variant in which the guard lets it through.
    """
    figures = {}
    for kind in HOSTILE:
        for column, sign in SIGNALS.items():
            honest = [sign * value for value in _chosen(rows, column, "honest")]
            hostile = [sign * value for value in _chosen(rows, column, kind, _learnt(kind))]
            figures[f"{kind}_told_by_{column}"] = Figure(
                min(hostile) - max(honest),
                f"mildest {column} of the {kind} user ({len(hostile)} seeds) minus the honest user's worst "
                f"({len(honest)} seeds), after the last edit; below 0 the signal tells nothing",
            )
    return figures
