"""The right to write, as a producer learns of it from refusals and from what the broker says."""

import threading
from types import SimpleNamespace

import pytest
from kafka.errors import TopicAuthorizationFailedError
from structlog.testing import capture_logs

from corlld.sources.kafka import write_right
from corlld.sources.kafka.client import TopicView
from corlld.sources.kafka.rights import Granted, writing
from corlld.sources.kafka.write_right import WriteRight
from tests.support.kafka.topics import kafka_settings
from tests.support.waiting import wait_until

REFUSED_SECONDS = 0.5


def test_a_refusal_is_forgotten_after_some_seconds_if_the_broker_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def look() -> TopicView:
        asked.set()
        return TopicView(None, frozenset({0}), granted=Granted(untold=writing("letters", idempotent=False)))

    monkeypatch.setattr(write_right, "TopicLookup", lambda *_, **__: SimpleNamespace(look=look, close=lambda: None))
    monkeypatch.setattr(write_right, "ASK_AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(write_right, "REFUSED_SECONDS", REFUSED_SECONDS)
    right = WriteRight(kafka_settings("kafka:9092", "edits"), "letters", idempotent=False)
    with capture_logs() as lines:
        right.refused(TopicAuthorizationFailedError())
        assert asked.wait(10)
        assert right.problem is not None, "it may just have been refused"
        wait_until(lambda: right.problem is None, "the refusal is forgotten", 10)
    right.close()
    assert [line["event"] for line in lines] == ["right_missing", "right_not_told"]
