"""The times that deploy/README.md names are those of the code."""

from pathlib import Path

import pytest

from corlld.commands.repair_run import STANDSTILL_SECONDS
from corlld.commands.run import CLOSING_SECONDS
from corlld.commands.shared import REACH_SECONDS
from corlld.loop.poison import FIRST_PROBE_SECONDS, LAST_PROBE_SECONDS
from corlld.loop.store_breaker import LOOK_AGAIN_SECONDS
from corlld.publishing import announcer
from corlld.settings.sections import BatchingSettings, KafkaSettings
from corlld.sources.jsonl.rotation import WAIT_SECONDS
from corlld.sources.kafka import source
from corlld.sources.kafka.options import delivery_seconds
from corlld.sources.kafka.probes import ANSWER_SECONDS, CONNECT_SECONDS

DEPLOY = Path(__file__).parents[2] / "deploy"
WORDS = {1: "a", 2: "twice", 10: "ten"}
KAFKA = KafkaSettings()


@pytest.mark.parametrize(
    "sentence",
    [
        f"(all commands but `run`: {REACH_SECONDS:g} seconds, if it is known what is in the way)",
        f"it had not ended {CLOSING_SECONDS:g} seconds after `operations.shutdown_timeout_seconds`",
        f"ends the process with exit code 70, {CLOSING_SECONDS:g} seconds after `operations.shutdown_timeout_seconds`",
        f"It then waits {WORDS[int(BatchingSettings().flush_after_seconds)]} seconds for more edits of a user",
        f"for {WAIT_SECONDS:g} seconds after the first line was written to the new one",
        f"no connection comes about within {CONNECT_SECONDS:g} s",
        f"connections are accepted, but nothing answers within {ANSWER_SECONDS:g} s",
        f"newest 20 records are looked at after {FIRST_PROBE_SECONDS:g} seconds, then less and less often, every "
        f"{LAST_PROBE_SECONDS / 60:g} minutes in the end",
        f"the delivery time-out ({WORDS[int(delivery_seconds(KAFKA) / KAFKA.request_timeout_seconds)]} "
        "`kafka.request_timeout_seconds`)",
        f"does so within {WORDS[int(announcer.LOOK_SECONDS / 60)]} minute",
        f"A stop waits at most {announcer.CLOSE_SECONDS:g} seconds for the topic, and {source.CLOSE_SECONDS:g} for a "
        "last commit",
        f"again at every third user that it would set aside, and after {LOOK_AGAIN_SECONDS / 60:g} minutes",
        f"stand still for {WORDS[int(STANDSTILL_SECONDS / 60)]} minute, the",
    ],
)
def test_the_guide_names_the_time_of_the_code(sentence: str) -> None:
    assert sentence in " ".join((DEPLOY / "README.md").read_text("utf-8").split())
