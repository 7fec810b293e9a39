"""Runs in the tabular world: the rule and its classical ancestor learn from edits, round after round. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np

from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.theory.tabular_world import Array, Indices, UserKind, Users, Worlds

BETA = 0.1
ETA = 10.0  # a step of eta beta = 1, as the perceptron's; its size does not matter to argmax drafts
ACCEPTANCE = 0.1  # the weight c of accepted drafts, in the way that learns from them
FIRST_SLOPE_ROUND = 64  # the regret before it is that of the first guesses


@dataclass(frozen=True, slots=True)
class Way:
    """A way to learn.

    weighted: steps are weighted by sigma(-beta h), which makes the perceptron CoRLL. acceptance: the weight c of
    accepted drafts. bound: the factor before R |w*| / (alpha sqrt T), for argmax drafts.
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
    """The course of a run of T rounds, S seeds and C kinds of users.

    gaps: U(y*) - U(y) of each draft, (T, S, C). gains: U(edit) - U(y), 0 for an acceptance, (T, S, C). edited: the
    draft was changed, (T, S, C). kl_nats: KL(pi || pi_0) at the end, mean over contexts, (S, C).
    """

    gaps: Array
    gains: Array
    edited: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    kl_nats: Array


def learn(worlds: Worlds, seeds: Sequence[int], kinds: Sequence[UserKind], way: Way, draws: str, rounds: int) -> Course:
    """Run rounds of a draft, an edit and a step, for users of all kinds in all worlds.

    Args:
        worlds: one per seed.
        seeds: of contexts, drafts and harm. All kinds of users and ways to learn see the same ones.
        kinds: of users.
        way: how to learn.
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
    """Return drafts drawn from the policy, (S, C). luck: uniform numbers, (S,)."""
    below: Indices = (np.cumsum(policy, -1) < luck[:, None, None]).sum(-1)
    drawn: Indices = np.minimum(below, policy.shape[-1] - 1)
    return drawn


def _step(theta: Array, difference: Array, way: Way) -> Array:
    """Return the step of SGD on a log-linear policy. It goes along the difference of the features."""
    if not way.weighted:
        return difference
    margin = (theta * difference).sum(-1, keepdims=True)
    step: Array = ETA * BETA / (1 + np.exp(BETA * margin)) * difference
    return step


def _kl_nats(theta: Array, features: Array) -> Array:
    """Return KL(pi || uniform) in nats, mean over contexts, (S, C): log Y minus the entropy."""
    policy = _policy(np.einsum("scd,sxyd->scxy", theta, features))
    kl: Array = np.log(policy.shape[-1]) + (policy * np.log(np.maximum(policy, 1e-300))).sum(-1).mean(-1)
    return kl


def checkpoints(rounds: int) -> list[int]:
    """Return the T at which regret is reported: powers of two from 16 on."""
    return [2**power for power in range(4, rounds.bit_length())]


def rows_of(course: Course, seeds: Sequence[int], kinds: Sequence[UserKind], way: Way, draws: str) -> list[Row]:
    """Return one row per seed and kind of user."""
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
