"""The output of a run: tables, a picture and JSON, with the machine that it ran on."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from corlld.bench.comparison import Series
from corlld.bench.figures import Measured
from corlld.bench.workloads import Workload
from corlld.simulation.drawing import new_picture

_COLOURS = {"float32": "#1f77b4", "bfloat16": "#d9541e"}
_MATRIX_FLAGS = ("amx", "asimd", "avx", "bf16", "fma", "i8mm", "neon", "sme", "sve")


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a run. seconds: of each round. notes: what could not be measured, and why."""

    command: str
    began: datetime
    model: str
    workloads: Mapping[str, Workload]
    seconds: Mapping[Series, Sequence[float]]
    figures: Sequence[Measured]
    notes: Sequence[str]

    def pairs_a_second(self, series: Series) -> list[float]:
        return [len(self.workloads[series.workload].pairs) / seconds for seconds in self.seconds[series]]

    @property
    def ways(self) -> list[Series]:
        """The series that train, and so have pairs per second."""
        return [series for series in self.seconds if series.way != "gemm"]


def machine() -> dict[str, Any]:
    """Return the properties of the machine and its software on which the figures depend."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
        "cpu_flags": _cpu_flags(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _cpu_flags() -> list[str]:
    """Return the CPU's flags that decide how fast it multiplies matrices."""
    has = torch.cpu.get_capabilities()
    return sorted(name for name, value in has.items() if value is True and name.startswith(_MATRIX_FLAGS))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def show(report: Report, console: Console) -> None:
    """Print the tables and the notes."""
    own = machine()
    console.print(
        f"{own['cpu']}, {own['cores']} cores, {own['threads']} threads, {own['memory_bytes'] / 1e9:.0f} GB; "
        f"torch {own['torch']}; {report.model}; {report.began:%Y-%m-%d %H:%M}",
        soft_wrap=True,
    )
    console.print(f"the CPU has {', '.join(own['cpu_flags'])}", soft_wrap=True)
    if report.ways:
        console.print(_speed_table(report))
    console.print(_figure_table(report.figures))
    for note in report.notes:
        console.print(note, soft_wrap=True)


def _speed_table(report: Report) -> Table:
    table = Table(title="Pairs per second, median of the rounds", title_justify="left", box=box.SIMPLE_HEAD)
    for title in ("workload", "dtype", "way"):
        table.add_column(title, no_wrap=True)
    for title in ("pairs/s", "least", "most", "tokens"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("note")
    for series in report.ways:
        rates = report.pairs_a_second(series)
        workload = report.workloads[series.workload]
        table.add_row(
            *series,
            *(f"{rate:.2f}" for rate in (statistics.median(rates), min(rates), max(rates))),
            str(sum(pair.tokens for pair in workload.pairs)),
            workload.note,
        )
    table.caption = "workload: users x pairs per user; tokens: of all its pairs, each prompt once"
    table.caption_justify = "left"
    return table


def _figure_table(figures: Sequence[Measured]) -> Table:
    table = Table(title="Figures", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    for title in ("value", "least", "most", "bar", "aim"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("holds", no_wrap=True)
    table.add_column("meaning")
    for measured in figures:
        figure = measured.figure
        sign = ">= " if figure.at_least else "<= "
        table.add_row(
            figure.name,
            _number(measured.value),
            _number(measured.low),
            _number(measured.high),
            "" if figure.bar is None else sign + _number(figure.bar),
            _number(figure.aim),
            {None: "", True: "yes", False: "no"}[measured.holds],
            f"{figure.unit}: {figure.sentence}",
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def write_json(report: Report, path: Path) -> None:
    """Write the figures with machine, date, command and the seconds of every round."""
    content = {
        "figures": [measured.to_json() for measured in report.figures],
        "notes": list(report.notes),
        "machine": machine(),
        "date": report.began.isoformat(),
        "command": report.command,
        "model": report.model,
        "rounds": [{**series._asdict(), "seconds": list(seconds)} for series, seconds in report.seconds.items()],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def plot(report: Report, path: Path) -> None:
    """Plot the pairs per second of each way as a bar, with the spread of the rounds. Needs matplotlib."""
    ways = list(reversed(report.ways))  # the first way at the top
    rates = [report.pairs_a_second(series) for series in ways]
    medians = [statistics.median(rate) for rate in rates]
    figure = new_picture(8, 1.2 + 0.3 * len(ways))
    axes = figure.subplots()
    axes.barh(
        [f"{series.workload}  {series.way}" + ("  bf16" if series.dtype == "bfloat16" else "") for series in ways],
        medians,
        xerr=[
            [median - min(rate) for median, rate in zip(medians, rates, strict=True)],
            [max(rate) - median for median, rate in zip(medians, rates, strict=True)],
        ],
        color=[_COLOURS[series.dtype] for series in ways],
    )
    own = machine()
    axes.set(xlabel="pairs per second", title=f"{report.model} on {own['cpu']}, {own['threads']} threads")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
