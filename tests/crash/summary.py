"""Put the storms of a run together: `python -m tests.crash.summary STORMS FOLDER` writes FOLDER/summary.json."""

import json
import os
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def summary_of(storms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of all storms together, and each storm's own, with the seed that repeats it."""
    totals: Counter[str] = Counter()
    last_marks: Counter[str] = Counter()
    for verdict in storms.values():
        storm, figures = verdict["storm"], verdict["figures"]
        totals.update({name: storm[name] for name in ("kills", "stops")})
        totals.update({name: figures[name] for name in ("records", "events", "duplicates", "versions")})
        last_marks.update(storm["last_marks"])
        totals["faulty_answers"] += sum(storm.get("faulty_answers", {}).values())
        totals["problems"] += len(verdict["problems"])
    return {
        "storms": len(storms),
        **totals,
        "kills_and_stops": totals["kills"] + totals["stops"],
        "last_marks": dict(last_marks.most_common()),  # what the daemons had done when they fell
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()},
        "each": {name: {"problems": verdict["problems"], **verdict["storm"]} for name, verdict in storms.items()},
    }


def main(source: str, target: str) -> None:
    storms = {file.stem: json.loads(file.read_text()) for file in sorted(Path(source).glob("*.json"))}
    Path(target).mkdir(parents=True, exist_ok=True)
    Path(target, "summary.json").write_text(json.dumps(summary_of(storms), indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
