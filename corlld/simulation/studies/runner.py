"""Runs a study from its first unit to its report, and goes on where an earlier run of the same command was cut off."""

import csv
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from corlld import __version__
from corlld.errors import ExitCode, FatalError
from corlld.simulation.studies.contract import Figure, Options, Row, Study
from corlld.system.progress import Advance

_DONE = "units.jsonl"  # rows of the finished units; removed once there is a summary
_SCRATCH = "scratch"  # see `Options`
_PACKAGES = ("torch", "transformers", "peft", "numpy")


def run_study(
    study: Study,
    options: Options,
    folder: Path,
    command: str,
    console: Console,
    progress: Console,
    *,
    minutes: float = math.inf,
) -> None:
    """Run the remaining units of the study, and write `results.csv`, pictures and `summary.json`.

    A sitting that ends before all units are done writes the same of those that are. The summary names the missing
    units, and the next run goes on.

    Args:
        study: the study to run.
        options: its options.
        folder: for the results; made if it is missing. A finished run in it is replaced once the new run is finished.
        command: the command line, for the summary.
        console: shows the figures.
        progress: shows the progress.
        minutes: no unit is begun after this time. The study must be able to report on a part of its units.

    Raises:
        FatalError: the folder can't be used, has a run of another study or with other options, or has other results.
    """
    units = study.units(replace(options, scratch=folder / _SCRATCH))
    done = _Done(folder, study.name, options)
    with Advance(progress, len(units), "units") as advance:
        for unit in units:
            if unit.key not in done.rows and done.seconds_of_this_run < 60 * minutes:
                done.add(unit.key, unit.run())
            advance(1)
    missing = [unit.key for unit in units if unit.key not in done.rows]
    rows = [{"unit": unit.key, **row} for unit in units for row in done.rows.get(unit.key, ())]
    if not rows:
        raise FatalError("--minutes: no unit was done in this time", ExitCode.USAGE)
    (folder / "summary.json").unlink(missing_ok=True)  # of an earlier run: it belongs to other rows
    _write_csv(folder / "results.csv", rows)
    figures = study.report(rows, folder, options)
    summary = _summary(study, options, command, figures, done.spent)
    summary |= {"units": len(units), "missing_units": missing}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    if not missing:
        done.clear()
    console.print(_table(study, summary))
    if missing:
        console.print(f"{len(missing)} of {len(units)} units are missing; the same command goes on", soft_wrap=True)
    console.print(f"CSV, pictures and summary.json: {folder}", soft_wrap=True)


def _summary(
    study: Study, options: Options, command: str, figures: Mapping[str, Figure], spent: "_Spent"
) -> dict[str, Any]:
    return {
        "study": study.name,
        "question": study.question,
        "command": command,
        "seeds": list(options.seeds),
        "quick": options.quick,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"corlld": __version__, "python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
        "cores": os.cpu_count(),
        "minutes": round(spent.seconds / 60, 1),
        "cpu_minutes": round(spent.cpu_seconds / 60, 1),  # low if other work shared the machine
        "budget_minutes": study.budget_minutes,
        "figures": {name: _shortened(asdict(figure)) for name, figure in figures.items()},
    }


class _Spent(NamedTuple):
    """Time that was spent. cpu_seconds: of all threads."""

    seconds: float
    cpu_seconds: float


class _Done:
    """The finished units, in a file that grows by one line per unit."""

    def __init__(self, folder: Path, study: str, options: Options) -> None:
        self._path = folder / _DONE
        self._began = _now()
        self._before = _Spent(0.0, 0.0)  # in earlier runs
        self.rows: dict[str, Sequence[Row]] = {}
        asked = json.loads(json.dumps(asdict(options), default=str))
        head = {"study": study, "options": asked, "corlld": __version__}
        try:
            if folder.exists() and not folder.is_dir():
                raise FatalError(f"--folder: {folder} is not a folder; name another one", ExitCode.USAGE)
            folder.mkdir(parents=True, exist_ok=True)
            whole = self._path.read_bytes() if self._path.exists() else b""
            lines = whole.split(b"\n")[:-1]  # a torn line counts as no unit
            if len(lines) == 1 and json.loads(lines[0]) != head:
                lines = []  # no unit was done, for example because the model was not found
            if lines and json.loads(lines[0]) != head:
                raise FatalError(
                    f"{folder} has a half-done run of another study, or with other options; name another --folder, "
                    f"or remove {_DONE} there",
                    ExitCode.USAGE,
                )
            _check_replaceable(folder, study, options)
            for line in lines[1:]:
                entry = json.loads(line)
                self.rows[entry["unit"]] = entry["rows"]
                self._before = _Spent(*entry["spent"])
            if lines:
                os.truncate(self._path, whole.rindex(b"\n") + 1)
            else:
                self._path.write_text(json.dumps(head) + "\n")
        except OSError as error:
            raise FatalError(f"--folder: {folder} can't be used: {error.strerror}", ExitCode.CANNOT_WRITE) from None
        except (ValueError, KeyError, TypeError):
            raise _damaged(self._path) from None

    def add(self, key: str, rows: Sequence[Row]) -> None:
        self.rows[key] = rows
        with self._path.open("a") as file:
            file.write(json.dumps({"unit": key, "spent": self.spent, "rows": rows}) + "\n")

    @property
    def spent(self) -> _Spent:
        """Time of this run and of the runs that it goes on from."""
        return _Spent(
            *(before + now - then for before, now, then in zip(self._before, _now(), self._began, strict=True))
        )

    @property
    def seconds_of_this_run(self) -> float:
        return _now().seconds - self._began.seconds

    def clear(self) -> None:
        self._path.unlink()
        shutil.rmtree(self._path.parent / _SCRATCH, ignore_errors=True)


def _check_replaceable(folder: Path, study: str, options: Options) -> None:
    """Raise FatalError for results that must not be replaced.

    These are results of another study, results of a whole run if this run is quick or has other seeds, and files that
    no study has made.
    """
    path = folder / "summary.json"
    if not path.exists():
        if (folder / "results.csv").exists() and not (folder / _DONE).exists():
            raise FatalError(
                f"{folder} has a results.csv that no study wrote; name another --folder, or remove it", ExitCode.USAGE
            )
        return
    try:
        earlier = json.loads(path.read_bytes())
        name, quick, seeds = earlier["study"], earlier["quick"], ", ".join(map(str, earlier["seeds"]))
    except (ValueError, KeyError, TypeError):
        raise _damaged(path) from None
    if name != study or (not quick and (options.quick or earlier["seeds"] != list(options.seeds))):
        kind = "a quick run" if quick else "a run"
        raise FatalError(
            f"{folder} has {kind} of the study {name}, seeds {seeds}; name another --folder", ExitCode.USAGE
        )


def _damaged(path: Path) -> FatalError:
    return FatalError(f"{path} is damaged, or of another version; remove it to start again", ExitCode.DATA)


def _now() -> _Spent:
    return _Spent(time.monotonic(), time.process_time())


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
        )


def _shortened(figure: dict[str, Any]) -> dict[str, Any]:
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in figure.items()
        if value is not None
    }


def _table(study: Study, summary: dict[str, Any]) -> Table:
    table = Table(title=study.question, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    for title in ("value", "95 %"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("meaning")
    for name, figure in summary["figures"].items():
        band = f"{figure['low']:.3g} to {figure['high']:.3g}" if "low" in figure else ""
        table.add_row(name, f"{figure['value']:.3g}", band, figure["meaning"])
    table.caption = f"{summary['minutes']:g} minutes; the budget is {study.budget_minutes:g}"
    table.caption_justify = "left"
    return table
