"""Clients of kafka-python are made in time or not at all, whatever kafka-python does meanwhile."""

import logging
import ssl
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaConnectionError, KafkaError

from corlld.errors import ConfigurationError, UnavailableError
from corlld.sources.kafka import options as kafka_options
from corlld.sources.kafka import whole_reads
from corlld.sources.kafka.client import TopicView
from corlld.sources.kafka.connecting import connect
from corlld.sources.kafka.diagnosis import Finding
from corlld.sources.kafka.newest_records import newest_records
from corlld.sources.kafka.options import admin_options
from corlld.sources.kafka.rights import Granted
from corlld.sources.kafka.source import CONSUMER_SECONDS, KafkaSource
from tests.support.kafka import impostors
from tests.support.kafka.topics import kafka_settings

PATIENCE_SECONDS = 20.0


@pytest.fixture(autouse=True)
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corlld.sources.kafka.diagnosis.find", lambda *_: {})


OPTIONS = admin_options(kafka_settings("kafka:9092", "edits"))


def test_a_client_that_hangs_while_it_is_made_is_given_up_and_closed_when_it_comes() -> None:
    go_on, closed = threading.Event(), threading.Event()

    def make(**_: Any) -> Any:
        go_on.wait(PATIENCE_SECONDS)
        return SimpleNamespace(close=closed.set)

    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"^kafka:9092: no broker could be reached \(waited 0\.[2-9] s\)$"):
        connect(make, OPTIONS, 0.2)
    assert time.monotonic() - began < PATIENCE_SECONDS / 2
    assert not closed.is_set()
    go_on.set()
    assert closed.wait(PATIENCE_SECONDS)


class SecondTry:
    """Makes a client at the second try. Keeps the addresses that it was given."""

    def __init__(self) -> None:
        self.tried: list[list[str]] = []

    def __call__(self, **options: Any) -> str:
        self.tried.append(options["bootstrap_servers"])
        if len(self.tried) < 2:
            raise KafkaConnectionError
        return "a client"


def test_the_next_try_leaves_out_addresses_at_which_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = ["dead:1", "kafka:9092", "dead:2"]
    found = {name: Finding("it is dead") for name in ("dead:1", "dead:2")}
    monkeypatch.setattr("corlld.sources.kafka.diagnosis.find", lambda *_: found)
    make = SecondTry()
    assert connect(make, OPTIONS | {"bootstrap_servers": servers}, 60, problem_seconds=0.0) == "a client"
    assert make.tried == [servers, ["kafka:9092"]]


def test_it_is_given_up_early_only_if_something_is_wrong_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect(SecondTry(), OPTIONS, 60, problem_seconds=0.0) == "a client"
    monkeypatch.setattr("corlld.sources.kafka.diagnosis.find", lambda *_: {"kafka:9092": Finding("it is dead")})
    with pytest.raises(UnavailableError, match=r"^kafka:9092: it is dead"):
        connect(SecondTry(), OPTIONS, 60, problem_seconds=0.0)


def test_probes_use_up_no_time_of_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corlld.sources.kafka.connecting.LOOKUP_SECONDS", 0.0)

    def find(*_: Any) -> dict[str, Finding]:
        threading.Event().wait(1.0)
        return {}

    monkeypatch.setattr("corlld.sources.kafka.diagnosis.find", find)
    assert connect(SecondTry(), OPTIONS, 0.8) == "a client"


def test_a_short_time_is_given_to_one_try() -> None:
    seconds: list[float] = []

    def make(**options: Any) -> str:
        seconds.append(options["bootstrap_timeout_ms"] / 1000)
        return "a client"

    assert connect(make, OPTIONS, kafka_options.LOOKUP_SECONDS) == "a client"
    assert seconds == [pytest.approx(kafka_options.LOOKUP_SECONDS, abs=0.1)]


def test_a_consumer_has_time_to_connect_though_the_questions_took_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def note(_make: Any, _options: Any, timeout_seconds: float) -> Any:
        assert timeout_seconds == CONSUMER_SECONDS
        raise Stop

    source = KafkaSource(kafka_settings("kafka:9092", "edits"))
    lookup: Any = source._lookup
    lookup.wait_for_topic = lambda _: TopicView("0" * 32, frozenset({0}))
    lookup.cluster_id = lambda: "c1"
    monkeypatch.setattr("corlld.sources.kafka.source.connect", note)
    with pytest.raises(Stop):
        source.start(0.0)


@pytest.mark.parametrize(
    ("mechanism", "said"),
    [("PLAIN", "the broker refused the user name or the password, as it seems"), (None, "no broker could be reached")],
)
def test_a_broker_that_closes_connections_in_the_middle_of_the_authentication_refuses_the_password(
    mechanism: str | None, said: str
) -> None:
    def make(**_: Any) -> Any:
        raise KafkaConnectionError("socket disconnected")

    with pytest.raises(UnavailableError, match=f"^kafka:9092: {said}"):
        connect(make, OPTIONS | {"sasl_mechanism": mechanism}, 0.2)


@pytest.mark.parametrize("misreading", [KeyError("endpoint_type"), ValueError("not a UUID")])
def test_an_answer_that_is_misread_while_a_client_is_made_is_a_sentence(misreading: Exception) -> None:
    def make(**_: Any) -> Any:
        raise misreading

    with pytest.raises(ConfigurationError, match=r"kafka:9092: the broker's answer is not as kafka-python"):
        connect(make, OPTIONS, 60)


def test_a_failure_of_another_client_is_not_taken_for_its_own() -> None:
    other_failed = threading.Event()

    def fail(**_: Any) -> Any:
        logging.getLogger("kafka.net.manager").error("failed: %s", ssl.SSLError(1, "it is another's"))
        other_failed.set()
        raise KafkaConnectionError

    def make(**_: Any) -> Any:
        assert other_failed.wait(PATIENCE_SECONDS)
        raise KafkaConnectionError("111 ECONNREFUSED")

    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Any] = pool.submit(connect, make, OPTIONS, 0.1)
        with pytest.raises(ConfigurationError, match="TLS failed"):
            connect(fail, OPTIONS, 60)
        with pytest.raises(UnavailableError, match=r"could be reached \(Connection refused\)"):
            waiting.result(PATIENCE_SECONDS)


def test_a_tls_handshake_without_an_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_options, "HANDSHAKE_SECONDS", 0.2)
    ended: Future[Exception] = Future()

    def make(address: str) -> None:
        settings = kafka_settings(address, "edits", security_protocol="SSL")
        try:
            KafkaAdminClient(**admin_options(settings), bootstrap_timeout_ms=100)
        except KafkaError as error:
            ended.set_result(error)

    with impostors.silent() as address:
        threading.Thread(target=make, args=(address,), daemon=True).start()
        assert isinstance(ended.result(PATIENCE_SECONDS), KafkaError)


def misread(*_: object, **__: object) -> Any:
    raise KeyError("leader_epoch")


def test_an_answer_that_is_misread_in_a_poll_is_a_sentence() -> None:
    source = KafkaSource(kafka_settings("kafka:9092", "edits"))
    coordinator = SimpleNamespace(_join_task=None, rejoining=False)
    source._consumer = SimpleNamespace(poll=misread, _coordinator=coordinator)
    with pytest.raises(ConfigurationError, match=r"kafka:9092: the broker's answer is not as .*leader_epoch"):
        source.poll(0.1)


def test_an_answer_that_is_misread_while_a_sample_is_read_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    view = SimpleNamespace(topic_id=None, partitions={0}, granted=Granted())
    lookup = SimpleNamespace(wait_for_topic=lambda _: view, close=lambda: None)
    monkeypatch.setattr(whole_reads, "TopicLookup", lambda *_, **__: lookup)
    consumer = SimpleNamespace(end_offsets=misread, close=lambda **_: None)
    monkeypatch.setattr(whole_reads, "connect", lambda *_, **__: consumer)
    with pytest.raises(ConfigurationError, match=r"kafka:9092: the broker's answer is not as .*leader_epoch"):
        list(newest_records(kafka_settings("kafka:9092", "edits"), 1, 1))
