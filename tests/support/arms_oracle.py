"""Judges an experiment from the outside: users' arms and outcomes from the topic and the states, by itself.

Nothing of corlld is imported. The arm of each user is worked out from the settings' shares, and each figure from the
events in the order of their partition. Files of states are read to see what was learnt.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from tests.support import oracle

FIRST_DRAFTS = 8


@dataclass
class User:
    """What the topic says of a user. ratios: edit ratios of the drafts, in order, each event id once."""

    uid: str
    arm: str
    ratios: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def outcome(self, drafts: int) -> float | None:
        later = self.ratios[FIRST_DRAFTS : FIRST_DRAFTS + drafts]
        return sum(later) / drafts if len(later) == drafts else None


def arm_of(uid: str, shares: Mapping[str, float]) -> str:
    """Return the arm of a new user. shares: in the order of the settings; the rest is `default`."""
    digest = hashlib.blake2b(uid.encode(), key=b"corlld/arms", digest_size=8).digest()
    point, end = int.from_bytes(digest, "big") / 2**64, 0.0
    for arm, share in shares.items():
        end += share
        if point < end:
            return arm
    return "default"


def users_of(case: oracle.Case, shares: Mapping[str, float]) -> dict[str, User]:
    """Return the users of the topic by uid."""
    users: dict[str, User] = {}
    for record in oracle.read_topic(case.bootstrap, case.topic):
        event_id, fields = oracle.read_event(record)
        uid = oracle.uid_of(case, fields["user_id"])
        user = users.setdefault(uid, User(uid, arm_of(uid, shares)))
        if event_id not in user.seen:
            user.seen.add(event_id)
            user.ratios.append(Levenshtein.normalized_distance(fields["proposed"], fields["edited"]))
            user.versions.append(fields["adapter_version"])
    return users


def states_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the text of each user's newest state, by uid."""
    return {
        each.name: oracle.read_state_header(oracle.newest_state_file(each)) for each in (folder / "users").iterdir()
    }


def figures_of(users: Mapping[str, User], drafts: int) -> dict[str, dict[str, Any]]:
    """Return what `corlld experiment --json` must say of each arm."""
    by_arm: dict[str, list[User]] = defaultdict(list)
    for user in users.values():
        by_arm[user.arm].append(user)
    found = {}
    for arm, own in by_arm.items():
        outcomes = [outcome for user in own if (outcome := user.outcome(drafts)) is not None]
        first = [ratio for user in own for ratio in user.ratios[:FIRST_DRAFTS]]
        later = [ratio for user in own for ratio in user.ratios[FIRST_DRAFTS : FIRST_DRAFTS + drafts]]
        found[arm] = {
            "users": len(own),
            "outcomes": outcomes,
            "first": sum(first) / len(first),
            "later": sum(later) / len(later),
            "accepted": sum(ratio == 0 for ratio in later) / len(later),
            "first_events": len(first),
            "later_events": len(later),
            "events": sum(len(user.ratios) for user in own),
        }
    return found


def is_refuted(difference: float, better: Sequence[float], worse: Sequence[float], error: float) -> bool:
    """Return whether mean(worse) - mean(better) can't be as small as `difference`: by the gamblers, plainly.

    Outcomes are rounded to a thousandth. The mean of `better` is looked for on a grid.
    """
    bets = [0.9 * 0.55**place for place in range(10)]

    def capital(outcomes: Sequence[float], mean: float) -> float:
        logs = [sum(math.log1p(bet * (x / mean - 1)) for x in outcomes) for bet in bets]
        return max(logs) + math.log(sum(math.exp(log - max(logs)) for log in logs) / len(bets))

    low, high = max(0.0, -difference), min(1.0, 1 - difference)
    means = [low + (high - low) * place / 200 for place in range(1, 200)]
    left, right = [round(x, 3) for x in worse], [1 - round(x, 3) for x in better]
    return min(capital(left, mean + difference) + capital(right, 1 - mean) for mean in means) >= -math.log(error)
