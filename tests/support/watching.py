"""Read the files for Prometheus and Grafana: expressions of alerts and dashboard, and the parts that must have data."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
GRAFANA = DEPLOY / "grafana"

COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
SET_OPERATORS = ("and", "or", "unless")


@dataclass(frozen=True)
class Target:
    """One query of a panel. `instant`: Grafana asks for the newest value only."""

    panel: str
    expr: str
    legend: str
    instant: bool


def prometheus_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    return config


def rule_groups() -> dict[str, Any]:
    groups: dict[str, Any] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    return groups


def rules() -> list[dict[str, Any]]:
    return [rule for group in rule_groups()["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((GRAFANA / "dashboards/corlld.json").read_text())
    return whole


def panels() -> list[dict[str, Any]]:
    """Return the panels that show something. The rows' headings are left out."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def targets() -> list[Target]:
    return [
        Target(panel["title"], target["expr"], target["legendFormat"], target.get("instant", False))
        for panel in panels()
        for target in panel["targets"]
    ]


def annotations() -> list[str]:
    return [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]


def expressions() -> list[str]:
    """Return the expressions of all rules, panels and annotations. The dashboard's contain Grafana's variables."""
    return [rule["expr"] for rule in rules()] + [target.expr for target in targets()] + annotations()


def substituted(text: str, variables: Mapping[str, str]) -> str:
    """Return the text with each `$name` replaced, as Grafana does it.

    Raises KeyError for a variable that has no value.
    """
    return re.sub(r"\$(\w+)", lambda match: variables[match[1]], text)


def parts(node: promql.Expr) -> Iterator[promql.Expr]:
    """Yield the expression and everything below it."""
    found: list[promql.Expr] = []
    promql.walk(node, found.append)
    yield from found


def with_data(expr: str) -> list[str]:
    """Return the expressions that must all return data; otherwise `expr` can't say anything.

    The first is the whole expression with each comparison in its `bool` form. A comparison that does not hold then
    returns 0 instead of nothing, so nothing means that data are missing. The others are the operands of comparisons and
    of `and` and `or`: without them one side of an `or` would be enough for the whole.

    Raises ValueError if a comparison is an operand of anything but `and` and `or`, since its `bool` form would mean
    something else. Also raises it for `unless`, which returns nothing if both sides have data.
    """
    node = promql.parse(expr)
    operands = [
        side
        for part in parts(node)
        if isinstance(part, promql.BinaryExpr) and str(part.op) in (*COMPARISONS, *SET_OPERATORS)
        for side in (part.lhs, part.rhs)
        if not isinstance(side, promql.NumberLiteral)
    ]
    return list(dict.fromkeys(_unfiltered(each) for each in (node, *operands)))


def _unfiltered(node: promql.Expr) -> str:
    if isinstance(node, promql.ParenExpr):
        return f"({_unfiltered(node.expr)})"
    if isinstance(node, promql.BinaryExpr):
        operator, matching = str(node.op), f" {node.modifier}" if node.modifier else ""
        if operator == "unless":
            raise ValueError(f"`unless` in {node}")
        if operator in ("and", "or"):
            return f"{_unfiltered(node.lhs)} {operator}{matching} {_unfiltered(node.rhs)}"
        if operator in COMPARISONS:
            if node.modifier and node.modifier.return_bool:
                raise ValueError(f"`bool` already in {node}")
            return f"{_plain(node.lhs)} {operator} bool{matching} {_plain(node.rhs)}"
    return _plain(node)


def _plain(node: promql.Expr) -> str:
    for part in parts(node):
        if isinstance(part, promql.BinaryExpr) and str(part.op) in (*COMPARISONS, *SET_OPERATORS):
            raise ValueError(f"a comparison inside of {node}")
    return str(node)
