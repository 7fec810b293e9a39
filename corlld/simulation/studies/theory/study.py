"""`corlld simulate theory`: do the rule and its classical ancestor keep the bounds that are proved for them?

In the world of `tabular_world` the best text is known. For drafts that are the policy's most likely text (argmax) and
feedback with gain_t >= alpha gap_t - xi_t, with |phi| <= R = 1 and |w*| = 1:

    preference perceptron  REG_T <= (1/(alpha T)) sum xi_t + 2 R |w*| / (alpha sqrt T)
    CoRLL by SGD           REG_T <= (2/(alpha T)) sum xi_t + 4 R |w*| / (alpha sqrt T)

The first is Shivaswamy & Joachims 2012. The second is the same proof for steps that sigma(-beta h) weighs: at a uniform
reference an argmax draft has h <= 0, so the weights are between 1/2 and 1. There is no bound for sampled drafts; they
are shown apart.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsFloat

import numpy as np

from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.intervals import mean_figure, paired_difference
from corlld.simulation.studies.theory.pictures import plot_plateaus, plot_regret
from corlld.simulation.studies.theory.tabular_world import Array, Indices, Noise, UserKind, Users, Worlds, make_worlds

ROUNDS = 4096
QUICK_ROUNDS = 256
ALPHAS = (0.1, 0.3, 1.0)
EPSILONS = (0.2, 0.4)
BETA = 0.1
ETA = 10.0  # a step of eta beta = 1, as the perceptron's; its size does not matter to argmax drafts
ACCEPTANCE = 0.1  # the weight c, where accepted drafts are learnt from as well
FIRST_SLOPE_ROUND = 64  # regret before it is that of the first guesses

DRAWS = ("argmax", "sampled")
NOISES: tuple[Noise, ...] = ("scaled", "unscaled")
KINDS = tuple(
    UserKind(alpha, epsilon, noise)
    for alpha in ALPHAS
    for epsilon, noise in ((0.0, NOISES[0]), *((e, n) for n in NOISES for e in EPSILONS))
)


@dataclass(frozen=True, slots=True)
class Way:
    """How it is learnt. bound: the factor before R |w*| / (alpha sqrt T), for argmax drafts.

    weighted: by sigma(-beta h), which makes the perceptron CoRLL. acceptance: the weight c.
    """

    name: str
    weighted: bool
    acceptance: float
    bound: float


PERCEPTRON = Way("perceptron", weighted=False, acceptance=0.0, bound=2.0)
CORLL = Way("corll", weighted=True, acceptance=0.0, bound=4.0)
ACCEPTING = Way("corll+acceptances", weighted=True, acceptance=ACCEPTANCE, bound=np.nan)
WAYS = (PERCEPTRON, CORLL, ACCEPTING)


@dataclass(frozen=True, slots=True)
class Course:
    """What happened in each round, each (T, S, C). gaps, gains: of utility; a gain of 0 is an acceptance.

    kl_nats: KL(pi || pi_0) at the end, mean over contexts, (S, C).
    """

    gaps: Array
    gains: Array
    edited: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    kl_nats: Array


def learn(worlds: Worlds, seeds: Sequence[int], kinds: Sequence[UserKind], way: Way, draws: str, rounds: int) -> Course:
    """Rounds of a draft, an edit and a step, for users of all kinds in all worlds.

    Args:
        worlds: one a seed.
        seeds: of contexts, drafts and harm: all kinds and ways see the same ones.
        kinds: of users.
        way: how it is learnt.
        draws: `argmax`: the draft is the most likely text; `sampled`: it is drawn from the policy.
        rounds: T.
    """
    users, utilities = Users(kinds), worlds.utilities
    randoms = [np.random.default_rng([seed, 1]) for seed in seeds]
    contexts = np.stack([random.integers(utilities.shape[1], size=rounds) for random in randoms])
    chances, luck = (np.stack([random.random(rounds) for random in randoms]) for _ in range(2))
    rows = np.arange(len(seeds))
    theta = np.zeros((len(seeds), len(kinds), worlds.features.shape[-1]))
    gaps, gains, edits = [], [], []
    for t in range(rounds):
        phi, worth = worlds.features[rows, contexts[:, t]], utilities[rows, contexts[:, t]]  # (S, Y, D), (S, Y)
        scores = theta @ phi.transpose(0, 2, 1)  # (S, C, Y)
        policy = _policy(scores)
        drafts = scores.argmax(-1) if draws == "argmax" else _drawn(policy, luck[:, t])
        edited = users.edit(worth, drafts, chances[:, t])
        difference = phi[rows[:, None], edited] - phi[rows[:, None], drafts]
        theta = theta + _step(theta, difference, way)
        if way.acceptance:
            pull = phi[rows[:, None], drafts] - policy @ phi
            theta = theta + ETA * way.acceptance * np.where((edited == drafts)[..., None], pull, 0)
        drafted = np.take_along_axis(worth, drafts, 1)
        gaps.append(worth.max(-1)[:, None] - drafted)
        gains.append(np.take_along_axis(worth, edited, 1) - drafted)
        edits.append(edited != drafts)
    return Course(np.stack(gaps), np.stack(gains), np.stack(edits), _kl_nats(theta, worlds.features))


def _policy(scores: Array) -> Array:
    odds = np.exp(scores - scores.max(-1, keepdims=True))
    policy: Array = odds / odds.sum(-1, keepdims=True)
    return policy


def _drawn(policy: Array, luck: Array) -> Indices:
    """By the inverse of the distribution; luck: uniform, (S,)."""
    below: Indices = (np.cumsum(policy, -1) < luck[:, None, None]).sum(-1)
    drawn: Indices = np.minimum(below, policy.shape[-1] - 1)
    return drawn


def _step(theta: Array, difference: Array, way: Way) -> Array:
    """The perceptron identity: a step of SGD on a log-linear policy goes along the difference of the features."""
    if not way.weighted:
        return difference
    margin = (theta * difference).sum(-1, keepdims=True)
    step: Array = ETA * BETA / (1 + np.exp(BETA * margin)) * difference
    return step


def _kl_nats(theta: Array, features: Array) -> Array:
    """Against the uniform distribution: log Y minus the entropy."""
    policy = _policy(np.einsum("scd,sxyd->scxy", theta, features))
    kl: Array = np.log(policy.shape[-1]) + (policy * np.log(np.maximum(policy, 1e-300))).sum(-1).mean(-1)
    return kl


def checkpoints(rounds: int) -> list[int]:
    """The T at which regret is told: powers of two from 16 on."""
    return [2**power for power in range(4, rounds.bit_length())]


def rows_of(course: Course, seeds: Sequence[int], kinds: Sequence[UserKind], way: Way, draws: str) -> list[Row]:
    """A row a seed and kind of user."""
    rounds = len(course.gaps)
    times = np.arange(1, rounds + 1)[:, None, None]
    alpha = np.array([kind.alpha for kind in kinds])
    regret = course.gaps.cumsum(0) / times
    slack = np.maximum(0, alpha * course.gaps - course.gains)
    bound = way.bound / 2 * (slack.cumsum(0) / times / alpha + 2 / (alpha * np.sqrt(times)))
    ratio = (regret / bound).max(0)
    marks = checkpoints(rounds)
    late = [mark for mark in marks if mark >= FIRST_SLOPE_ROUND]
    logs = np.log(np.maximum([regret[mark - 1] for mark in late], 1e-12)).reshape(len(late), -1)
    slope = np.polyfit(np.log(late), logs, 1)[0].reshape(ratio.shape)
    quarter = rounds // 4
    pairs = course.edited.sum(0)
    found = []
    for place, kind in np.ndenumerate(np.broadcast_to(np.array(kinds, object), ratio.shape)):
        gaps, gains = course.gaps[:, *place], course.gains[:, *place]
        row: Row = {
            "way": way.name,
            "drafts": draws,
            "alpha": kind.alpha,
            "epsilon": kind.epsilon,
            "noise": kind.noise if kind.epsilon else "none",
            "seed": seeds[place[0]],
            "slope": _short(slope[place]),
            "second_quarter": _short(gaps[quarter : 2 * quarter].mean()),
            "last_quarter": _short(gaps[-quarter:].mean()),
            "alpha_hat": _short(gains.sum() / gaps.sum()),
            "xi_hat": _short(slack[:, *place].mean()),
            "harmful_share": _short((gains < 0).sum() / max(1, pairs[place])),
            "accepted_share": _short(1 - pairs[place] / rounds),
            "kl_nats": _short(course.kl_nats[place]),
        }
        if draws == "argmax" and np.isfinite(way.bound):
            row["largest_ratio"] = _short(ratio[place])
        found.append(row | {f"regret_{mark}": _short(regret[mark - 1][place]) for mark in marks})
    return found


def _short(value: SupportsFloat) -> float:
    return float(f"{float(value):.4g}")


class _Theory:
    name = "theory"
    question = "Do the rule and the preference perceptron keep the classical bounds, and where does noise stop them?"
    budget_minutes = 3.0
    seeds = tuple(range(1, 16))

    def units(self, options: Options) -> Sequence[Unit]:
        rounds = QUICK_ROUNDS if options.quick else ROUNDS

        def unit(way: Way, draws: str) -> Unit:
            def run() -> list[Row]:
                course = learn(make_worlds(options.seeds), options.seeds, KINDS, way, draws, rounds)
                return rows_of(course, options.seeds, KINDS, way, draws)

            return Unit(f"{way.name}, {draws} drafts", run)

        return [unit(way, draws) for draws in DRAWS for way in WAYS]

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        plot_regret(folder / "regret.png", rows)
        plot_plateaus(folder / "plateaus.png", rows)
        return _bounds(rows) | _slopes(rows) | _plateaus(rows) | _feedback(rows)


def chosen(rows: Sequence[Row], column: str, **where: object) -> list[float]:
    """One column of the rows that are so."""
    return [float(row[column]) for row in rows if all(row[name] == value for name, value in where.items())]


def _bounds(rows: Sequence[Row]) -> dict[str, Figure]:
    """The largest share of the bound that any seed used up at any T: a bound has no interval, one above 1 breaks it."""
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
                values = chosen(rows, "slope", way=way.name, drafts=draws, alpha=alpha, noise="none")
                figures[f"{way.name}_slope_{draws}_alpha_{alpha:g}"] = mean_figure(
                    values, f"slope of log REG_T against log T, {way.name}, {draws} drafts, no noise"
                )
            values = chosen(rows, "slope", way=way.name, drafts=draws, noise="none")
            figures[f"{way.name}_slope_{draws}_flattest"] = Figure(
                max(values), f"the flattest slope of any seed and alpha, {way.name}, {draws} drafts, no noise"
            )
    return figures


def _plateaus(rows: Sequence[Row]) -> dict[str, Figure]:
    """At alpha 0.3: what is left of regret in the last quarter of the rounds, and how it went on falling."""
    figures = {}
    for epsilon, noise, draws, way in itertools.product(EPSILONS, NOISES, DRAWS, (CORLL, ACCEPTING)):
        where = {"way": way.name, "drafts": draws, "alpha": 0.3, "noise": noise, "epsilon": epsilon}
        early, late = (chosen(rows, f"{quarter}_quarter", **where) for quarter in ("second", "last"))
        name, text = f"{way.name}_{noise}_{epsilon:g}_{draws}", f"{way.name}, {noise} noise {epsilon:g}, {draws} drafts"
        figures[f"{name}_left"] = mean_figure(late, f"mean gap in the last quarter of the rounds, {text}, alpha 0.3")
        if draws == "argmax":
            figures[f"{name}_fall"] = paired_difference(
                early, late, f"fall of the mean gap from the second quarter to the last, {text}, alpha 0.3"
            )
    return figures


def _feedback(rows: Sequence[Row]) -> dict[str, Figure]:
    """At alpha 0.3 and CoRLL with argmax drafts: what the feedback was, measured and not assumed."""
    figures = {}
    for epsilon, noise in ((0.0, "none"), *((e, n) for n in NOISES for e in EPSILONS)):
        where = {"way": CORLL.name, "drafts": "argmax", "alpha": 0.3, "noise": noise, "epsilon": epsilon}
        for column, meaning in (
            ("alpha_hat", "sum of gains / sum of gaps"),
            ("xi_hat", "mean slack below alpha times the gap"),
            ("harmful_share", "share of the edits that harm"),
        ):
            values = chosen(rows, column, **where)
            figures[f"{column}_{noise}_{epsilon:g}"] = mean_figure(values, f"{meaning}; nominal alpha 0.3, corll")
    return figures


STUDY: Study = _Theory()
