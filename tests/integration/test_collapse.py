"""A collapse that naive users brought about with the real model is exposed by the metrics, as the alert on them asks.

`drafts-collapse.jsonl` are the first 40 drafts of each user of a run with `NaiveEditor`s, `drafts-sound.jsonl` those of
`corlld demo`, in order; tests/real/test_demo.py makes both runs again. Neither drift nor the change of
log pi(edited tail) told the two apart, and the guard undid no step of either; the words that are repeated do.
"""

import json
from pathlib import Path

import pytest

from corlld.observer import Observers
from corlld.operations.health import Health
from corlld.operations.liveness import Liveness
from corlld.operations.metrics_observer import MetricsObserver
from corlld.operations.prometheus import Metrics
from tests.support.daemon_parts import Parts, begun, records, value

RISE = "corlld_draft_repetition_rise_ratio"
ALERT_RISE, ALERT_SHARE = "0.2", 0.1  # CorlldDraftsRepeat: so much more is repeated, in more than so many drafts


def share_that_repeats_more(run: str, user: str) -> float:
    """Share of the drafts of the user's own adapters that repeat ALERT_RISE more than that user's first drafts."""
    lines = (Path(__file__).parent / f"drafts-{run}.jsonl").read_text(encoding="utf-8").splitlines()
    drafts = [draft for draft in map(json.loads, lines) if draft["user_id"] == user]
    metrics = Metrics(0.0, 100)
    parts = Parts(batching={"max_events": 4})
    parts.observer = Observers(MetricsObserver(metrics, Health(Liveness(300.0))))
    texts = [
        value(str(number), proposed=draft["proposed"], edited="another text", adapter_version=draft["adapter_version"])
        for number, draft in enumerate(drafts)
    ]
    parts.run(begun(*records(*texts)))
    count = metrics.registry.get_sample_value(f"{RISE}_count", {"draft": "own"})
    below = metrics.registry.get_sample_value(f"{RISE}_bucket", {"draft": "own", "le": ALERT_RISE})
    assert count is not None
    assert below is not None
    assert count > 25
    return 1 - below / count


@pytest.mark.parametrize("user", ["mira", "jonas"])
def test_repeated_words_give_a_collapse_away(user: str) -> None:
    assert share_that_repeats_more("collapse", user) > 0.5 > ALERT_SHARE


@pytest.mark.parametrize("user", ["mira", "jonas"])
def test_a_sound_learner_gives_no_alarm(user: str) -> None:
    assert share_that_repeats_more("sound", user) <= ALERT_SHARE
