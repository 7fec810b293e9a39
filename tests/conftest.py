"""Fixtures that all tests share. The environment is set here, before anything imports torch or transformers."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.kafka.broker import KafkaBroker, KafkaCluster

if TYPE_CHECKING:
    from tests.support.daemon_process import Launcher


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A real broker, shared by the whole run: tests make topics and groups of their own."""
    if running := os.environ.get("CORLLD_TEST_KAFKA"):
        yield KafkaCluster(running)
        return
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own_kafka_broker(tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker for one test alone, that may stop and start it. Started."""
    broker = KafkaBroker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def launcher() -> "Launcher":
    """Forks daemons that have torch imported already. Imported here, for tests that need no model to start fast."""
    from tests.support.daemon_process import shared_launcher

    return shared_launcher()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without a chat template, so that `messages` are refused."""
    from tests.support.tiny_models import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
