"""What the tests with real daemons share."""

from pathlib import Path

import pytest

from tests.integration.daemon_process import Launcher, shared_launcher
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="session")
def launcher() -> Launcher:
    return shared_launcher()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without a chat template, so that `messages` are refused."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
