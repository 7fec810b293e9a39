"""The files for Prometheus, judged by promtool; and that no alert is without its test."""

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.support import watching
from tests.support.prometheus_server import need

ALERTS = {alert["alert"]: alert for alert in watching.alerts()}


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"),
        ("test", "rules", "alerts.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_is_content(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [need("promtool"), *command], cwd=watching.PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _cases(alert: str) -> list[list[dict[str, Any]]]:
    """Return what the unit tests expect of the alert, once for each time at which they look."""
    tests = yaml.safe_load((watching.PROMETHEUS / "alerts.test.yml").read_text())["tests"]
    asked = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    return [case["exp_samples"] for test in tests for case in test["promql_expr_test"] if case["expr"] == asked]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tested_firing_and_quiet(alert: str) -> None:
    cases = _cases(alert)
    assert any(cases)
    assert not all(cases)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_urgent_it_is_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "First" in rule["annotations"]["description"]


@pytest.mark.parametrize("alert", ALERTS)
def test_labels_that_a_text_names_are_there_when_the_alert_fires(alert: str) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", "".join(ALERTS[alert]["annotations"].values())))
    for firing in filter(None, _cases(alert)):
        for sample in firing:
            assert named <= set(re.findall(r"(\w+)=", sample["labels"]))
