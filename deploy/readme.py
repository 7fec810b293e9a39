"""Rewrites what README.md tells of the program by what the program tells of itself: `make readme`.

Between `<!-- NAME:begin -->` and `<!-- NAME:end -->` stands the output of `corlld NAME --markdown`. With --check
nothing is written, and the exit code is 1 where the file is behind.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

PART = re.compile(r"<!-- (?P<name>\w+):begin -->\n(?P<text>.*?)<!-- (?P=name):end -->\n", re.DOTALL)
HAND_WRITTEN = ("guide",)  # marked for its test


def rewritten(text: str) -> str:
    """The text with its generated parts made anew."""
    return PART.sub(_generated, text)


def _generated(part: re.Match[str]) -> str:
    name = part["name"]
    if name in HAND_WRITTEN:
        return part[0]
    command = [sys.executable, "-m", "corlld", name, "--markdown"]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return f"<!-- {name}:begin -->\n{told}<!-- {name}:end -->\n"


def main() -> int:
    """Rewrite or check the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    before = arguments.file.read_text(encoding="utf-8")
    after = rewritten(before)
    if arguments.check and after != before:
        print(f"{arguments.file} is behind: run `make readme`", file=sys.stderr)
        return 1
    if after != before:
        arguments.file.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
