"""A study from its first unit to its report, going on where an earlier run of the same command was cut off."""

import csv
import json
import os
import platform
import shutil
import time
from collections.abc import Sequence
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
from corlld.simulation.studies.contract import Options, Row, Study
from corlld.system.progress import Advance

_DONE = "units.jsonl"  # what is done so far; gone once there is a summary
_SCRATCH = "scratch"  # see `Options`
_PACKAGES = ("torch", "transformers", "peft", "numpy")


def run_study(study: Study, options: Options, folder: Path, command: str, console: Console, progress: Console) -> None:
    """Do what is left of the study, and write `results.csv`, pictures and `summary.json`.

    Args:
        study: see there.
        options: what it was asked for.
        folder: made where it is not there. A finished run in it is done again, and replaced once all is done.
        command: as it was typed.
        console: for the figures.
        progress: for how far it has come.

    Raises:
        FatalError: the folder can't be used, or has a run of another study or with other options, or other results.
    """
    units = study.units(replace(options, scratch=folder / _SCRATCH))
    done = _Done(folder, study.name, options)
    with Advance(progress, len(units), "units") as advance:
        for unit in units:
            if unit.key not in done.rows:
                done.add(unit.key, unit.run())
            advance(1)
    rows = [{"unit": unit.key, **row} for unit in units for row in done.rows[unit.key]]
    (folder / "summary.json").unlink(missing_ok=True)  # of an earlier run: it would tell of other rows
    _write_csv(folder / "results.csv", rows)
    figures = study.report(rows, folder, options)
    summary = {
        "study": study.name,
        "question": study.question,
        "command": command,
        "seeds": list(options.seeds),
        "quick": options.quick,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"corlld": __version__, "python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
        "cores": os.cpu_count(),
        "minutes": round(done.spent.seconds / 60, 1),
        "cpu_minutes": round(done.spent.cpu_seconds / 60, 1),  # tells where other work took its share of the machine
        "budget_minutes": study.budget_minutes,
        "figures": {name: _shortened(asdict(figure)) for name, figure in figures.items()},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    done.clear()
    console.print(_table(study, summary))
    console.print(f"CSV, pictures and summary.json: {folder}", soft_wrap=True)


class _Spent(NamedTuple):
    """cpu_seconds: of all threads."""

    seconds: float
    cpu_seconds: float


class _Done:
    """The units that are done, in a file that grows by a line a unit."""

    def __init__(self, folder: Path, study: str, options: Options) -> None:
        self._path = folder / _DONE
        self._began = _now()
        self._before = _Spent(0.0, 0.0)  # by earlier runs
        self.rows: dict[str, Sequence[Row]] = {}
        asked = json.loads(json.dumps(asdict(options), default=str))
        head = {"study": study, "options": asked, "corlld": __version__}
        try:
            if folder.exists() and not folder.is_dir():
                raise FatalError(f"--folder: {folder} is not a folder; name another one", ExitCode.USAGE)
            folder.mkdir(parents=True, exist_ok=True)
            whole = self._path.read_bytes() if self._path.exists() else b""
            lines = whole.split(b"\n")[:-1]  # a torn line is no unit
            if len(lines) == 1 and json.loads(lines[0]) != head:
                lines = []  # no unit was done, as where the model was not found
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
        """By this run and those that it goes on with."""
        return _Spent(
            *(before + now - then for before, now, then in zip(self._before, _now(), self._began, strict=True))
        )

    def clear(self) -> None:
        self._path.unlink()
        shutil.rmtree(self._path.parent / _SCRATCH, ignore_errors=True)


def _check_replaceable(folder: Path, study: str, options: Options) -> None:
    """Refuses to replace the results of another study, those of a whole run by a quick one or other seeds, and those
    that no run of ours has made.
    """
    path = folder / "summary.json"
    if not path.exists():
        if (folder / "results.csv").exists() and not (folder / _DONE).exists():
            raise FatalError(
                f"{folder} has a results.csv that is of no study; name another --folder, or remove it", ExitCode.USAGE
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
    return FatalError(f"{path} is damaged, or of another version; remove it to begin anew", ExitCode.DATA)


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
