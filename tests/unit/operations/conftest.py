"""An observer whose metrics the tests read."""

import pytest

from tests.support.metric_series import Watched


@pytest.fixture
def watched() -> Watched:
    return Watched()
