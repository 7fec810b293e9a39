"""Test which parts of an alert must have data, and all of the dashboard that a test can judge without seeing it."""

import re

import promql_parser as promql
import pytest
import yaml

from tests.support import watching
from tests.support.watching import substituted, with_data


def same(*exprs: str) -> list[str]:
    """Return the expressions in the parser's own spelling."""
    return [str(promql.parse(expr)) for expr in exprs]


def test_a_comparison_becomes_its_bool_form_and_its_operands_are_asked_for_as_well() -> None:
    assert with_data("sum by (job) (a) > 3") == same("sum by (job) (a) > bool 3", "sum by (job) (a)")


def test_each_side_of_and_and_of_or_is_asked_for_alone() -> None:
    assert set(with_data("(a > 1 or b == 0) and on (job) c < d")) == set(
        same(
            "(a > bool 1 or b == bool 0) and on (job) c < bool d",
            "(a > bool 1 or b == bool 0)",
            "c < bool d",
            "a > bool 1",
            "b == bool 0",
            *"abcd",
        )
    )


@pytest.mark.parametrize(
    ("expr", "whole"),
    [
        ("a / on (job) group_left () b >= on (x) c", "a / on (job) group_left () b >= bool on (x) c"),
        ('sum(rate(a{x=~"1|2"}[5m] offset 1h))', 'sum(rate(a{x=~"1|2"}[5m] offset 1h))'),
    ],
)
def test_all_else_stays_as_it_is(expr: str, whole: str) -> None:
    assert with_data(expr)[0] == same(whole)[0]


@pytest.mark.parametrize("expr", ["sum(a > 1)", "a + (b > 1)", "(a > 1) > 2", "-(a == 1)", "a > bool 1", "a unless b"])
def test_where_the_bool_form_would_mean_something_else_it_is_refused(expr: str) -> None:
    with pytest.raises(ValueError, match=r"inside of|already in|unless"):
        with_data(expr)


def test_variables_are_replaced_and_an_unknown_one_is_an_error() -> None:
    assert substituted('rate(a{b=~"$b"}[$r])', {"b": ".+", "r": "4s"}) == 'rate(a{b=~".+"}[4s])'
    with pytest.raises(KeyError):
        substituted("a[$r]", {})


def test_no_expression_fills_gaps_with_made_up_data() -> None:
    variables = {"instance": ".+", "window": "1h", "__rate_interval": "1m", "__range": "1h"}
    for expr in watching.expressions():
        for part in watching.parts(promql.parse(substituted(expr, variables))):
            assert not (isinstance(part, promql.Call) and part.func.name in ("vector", "absent", "absent_over_time"))


def test_rows_ask_the_five_questions_in_order() -> None:
    rows = [panel["title"] for panel in watching.dashboard()["panels"] if panel["type"] == "row"]
    assert rows == ["Healthy?", "Learning?", "Keeping up?", "Safe?", "Does it help?"]


def test_every_panel_says_how_to_read_it_and_in_which_unit() -> None:
    panels = watching.panels()
    assert panels
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert len({panel["title"] for panel in panels}) == len(panels)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in watching.dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells


def test_every_query_asks_the_chosen_datasource_for_the_chosen_daemons() -> None:
    for panel in watching.panels():
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for expr in [target.expr for target in watching.targets()] + watching.annotations():
        assert expr.count("{") == expr.count('instance=~"$instance"')


def test_alerts_name_panels_and_rows_that_exist() -> None:
    titles = {panel["title"] for panel in watching.dashboard()["panels"]}
    named = {
        name
        for alert in watching.alerts()
        for text in alert["annotations"].values()
        for name in re.findall(r'"([^"]+)"', text)
    }
    assert named
    assert named <= titles


def test_grafana_knows_the_interval_of_the_scrapes() -> None:
    sources = yaml.safe_load((watching.GRAFANA / "provisioning/datasources/prometheus.yml").read_text())
    scraped = watching.prometheus_config()["global"]["scrape_interval"]
    assert [source["jsonData"]["timeInterval"] for source in sources["datasources"]] == [scraped]
