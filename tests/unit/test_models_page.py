"""The page of families of models names the families of the sweep."""

import re
from pathlib import Path

from tests.families.table import FAMILIES

PAGE = Path(__file__).parents[2] / "deploy/MODELS.md"


def test_the_page_has_a_row_for_each_family_of_the_sweep() -> None:
    _, _, rows = PAGE.read_text("utf-8").partition("|---|---|---|---|---|---|\n")
    assert sorted(re.findall(r"^\| (\S+) \|", rows, re.MULTILINE)) == sorted(FAMILIES), "run `make test-families`"
