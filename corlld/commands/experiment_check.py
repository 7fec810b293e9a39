"""What `corlld check` says of the experiment: its arms, and what the settings do to one that is running."""

import math
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from corlld.commands.experiment_views import not_compared
from corlld.errors import RetriableError, StateUnreadable
from corlld.experiment.arms import Arms
from corlld.experiment.tally import Tally
from corlld.settings.learning_rule import DEFAULT_ARM
from corlld.system.plurals import counted

if TYPE_CHECKING:
    from corlld.commands.state_views import ReadableStore

HOLDOUT_ADVICE = (
    "recommended: a holdout of 5 % of new users, to know whether learning helps: "
    '[[experiment.arms]] name = "holdout", share = 0.05, holdout = true'
)
# Pseudonyms are random, so that the first users of the store are as good as any others. A person waits.
LOOK_USERS = 1_000
LOOK_SECONDS = 2.0


def described(arms: Arms) -> Iterator[str]:
    """Yield the arms with their shares, remarks on arms that can't differ, and advice if there is no holdout."""
    yield (
        ", ".join(
            f"{name} {arm.share:.3g}" + (" (no learning)" if name in arms.holdouts else "")
            for name, arm in arms.by_name.items()
        )
        or "no arms"
    )
    yield from _same_rules(arms)
    if not arms.holdouts:
        yield HOLDOUT_ADVICE


def _same_rules(arms: Arms) -> Iterator[str]:
    """Yield a remark for each arm with the rule of another one. It is no error: experts run such A/A tests."""
    learning = sorted(arms.rules, key=lambda name: name != DEFAULT_ARM)  # the default first: others are like it
    first: dict[str, str] = {}  # arm by digest of its rule
    for arm in learning:
        if (other := first.setdefault(arms.by_name[arm].digest, arm)) != arm:
            yield (
                f"arm {arm} has the same rule as arm {other}: they differ by chance alone (an A/A test). To compare "
                f"rules, set `learning` of arm {arm} to values that arm {other} does not have"
            )


def left_out(arms: Arms, store: "ReadableStore", drafts: int, start: str | None) -> Iterator[str]:
    """Yield a sentence for each change of the settings that takes users out of a running experiment.

    Only some users are looked at. Nothing is said if there is no experiment, and of states that can't be read.

    Args:
        arms: those of the settings.
        store: where the users are.
        drafts: number of drafts that make an outcome.
        start: the digest of the adapter that new users begin from; None if from nothing.
    """
    if not arms:
        return
    tally, looked_at = Tally(arms, drafts, start), 0
    deadline = math.inf
    for uid in islice(store.uids(), LOOK_USERS):
        deadline = min(deadline, time.monotonic() + LOOK_SECONDS)  # the time of a long listing does not count
        try:
            state = store.load_header(uid)
        except (RetriableError, StateUnreadable):  # the daemon goes on without such a user too
            state = None
        if state is not None:
            tally.add(state)
        looked_at += 1
        if time.monotonic() > deadline:
            break
    for sentence in not_compared(tally):
        yield f"changed while it runs: of {counted(looked_at, 'user')} looked at, {sentence}"
