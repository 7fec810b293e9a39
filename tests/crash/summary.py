"""Put the storms of a run together: `python -m tests.crash.summary STORMS FOLDER` writes FOLDER/summary.json.

It writes nothing if storms on one of the S3 servers are missing: the figures there are those of a whole run.
"""

import json
import os
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.s3_servers import SERVERS

SIGNALS = ("kills", "stops", "taken_over", "lost_swaps", "orderly_ends")
FIGURES = ("records", "events", "duplicates", "versions", "copies_of_dead_letters", "late_announcements")


def summary_of(storms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of all storms together, and each storm's own, with the seed that repeats it."""
    totals: Counter[str] = Counter()
    last_marks: Counter[str] = Counter()
    for verdict in storms.values():
        storm, figures = verdict["storm"], verdict["figures"]
        totals.update({name: storm[name] for name in SIGNALS})
        totals.update({name: figures[name] for name in FIGURES})
        last_marks.update(storm["last_marks"])
        totals["faulty_answers"] += sum(storm.get("faulty_answers", {}).values())
        totals["problems"] += len(verdict["problems"])
    return {
        "storms": len(storms),
        **totals,
        "kills_and_stops": totals["kills"] + totals["stops"],  # a daemon that was stopped and then killed counts twice
        "lives": last_marks.total(),
        "falls_at_work": last_marks.total() - last_marks["none"],  # orderly ends among them
        "last_marks": dict(last_marks.most_common()),  # what the daemons had done when they fell
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()},
        "each": {name: {"problems": verdict["problems"], **verdict["storm"]} for name, verdict in storms.items()},
    }


def main(source: str, target: str) -> None:
    storms = {file.stem: json.loads(file.read_text()) for file in sorted(Path(source).glob("*.json"))}
    if missing := [server for server in SERVERS if not any(server in name for name in storms)]:
        print(f"{target}/summary.json stays as it is: no storm ran on {' and '.join(missing)} (it takes Go to build)")
        return
    Path(target).mkdir(parents=True, exist_ok=True)
    Path(target, "summary.json").write_text(json.dumps(summary_of(storms), indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
