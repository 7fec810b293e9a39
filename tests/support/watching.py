"""What Prometheus and Grafana are given: the expressions of alerts and dashboard, and what must have data in them."""

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
    """One query of a panel. `instant`: Grafana asks for the newest value alone."""

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
    """Those that show something: not the rows' headings."""
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
    """All of them; those of the dashboard with Grafana's variables."""
    return [rule["expr"] for rule in rules()] + [target.expr for target in targets()] + annotations()


def substituted(text: str, variables: Mapping[str, str]) -> str:
    """The text with `$name` replaced, as Grafana does it.

    Raises KeyError for a variable that has no value.
    """
    return re.sub(r"\$(\w+)", lambda match: variables[match[1]], text)


def parts(node: promql.Expr) -> Iterator[promql.Expr]:
    """The expression and everything below it."""
    found: list[promql.Expr] = []
    promql.walk(node, found.append)
    yield from found


def with_data(expr: str) -> list[str]:
    """Expressions each of which must return data for `expr` to be able to say anything.

    The whole of it, with each comparison in its `bool` form: 0 instead of nothing where it does not hold, so that what
    is missing is missing for want of data. And each operand of a comparison or of `and` and `or`, since the other one
    of an `or` would do for the whole.

    Raises ValueError where a comparison is an operand of anything else than `and` and `or`: it would mean something
    else in its `bool` form. For `unless` as well, which returns nothing where both sides have data.
    """
    node = promql.parse(expr)
    operands = [
        side
        for part in parts(node)
        if isinstance(part, promql.BinaryExpr) and str(part.op) in (*COMPARISONS, *SET_OPERATORS)
        for side in (part.lhs, part.rhs)
        if not isinstance(side, promql.NumberLiteral)
    ]
    return list(dict.fromkeys(_unfiltered(one) for one in (node, *operands)))


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
