"""The table of metrics lists what `/metrics` exposes, no more and no less, and always in the same words."""

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from corlld.cli import main
from corlld.commands.metrics import markdown
from corlld.operations.prometheus import Metrics


def test_the_table_lists_exactly_what_is_exposed_besides_the_process_and_python() -> None:
    metrics = Metrics(0.0, 10)
    exposed = {
        (family.name + "_total" if family.type == "counter" else family.name, family.type)
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        if not family.name.startswith(("process_", "python_"))
    }
    rows = [line.split(" | ") for line in markdown(metrics.descriptions).splitlines() if line.startswith("| `")]
    assert {(name.strip("| `"), kind) for name, kind, *_ in rows} == exposed
    assert all(len(row) == 4 and len(row[3]) > 10 for row in rows), "each says what it means"


def test_the_table_is_the_same_every_time_and_for_every_daemon() -> None:
    assert markdown(Metrics(0.0, 10).descriptions) == markdown(Metrics(99.0, 5).descriptions)


def test_the_labels_of_the_table_are_those_of_the_series() -> None:
    metrics = Metrics(0.0, 10)
    described = {each.name: set(each.labels) for each in metrics.descriptions}
    for family in metrics.registry.collect():
        for sample in family.samples:
            name = family.name + "_total" if family.type == "counter" else family.name
            if name in described:
                assert set(sample.labels) - {"le"} == described[name]


def test_the_command_prints_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown(Metrics(0.0, 10).descriptions)
    assert main(["metrics"]) == 0
    out = capsys.readouterr().out
    assert all(each.name in out for each in Metrics(0.0, 10).descriptions)
