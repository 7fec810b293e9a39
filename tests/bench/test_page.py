"""The page `corlld/bench/README.md` has the bars and aims of today, and says of each figure whether its bar holds."""

from pathlib import Path

from corlld.bench.figures import FIGURES, Measured

PAGE = Path(__file__).parents[2] / "corlld" / "bench" / "README.md"
HOLDS = {True: "holds", False: "**below**", None: ""}


def rows() -> dict[str, list[str]]:
    """Return the cells of the table of figures, by the figure's name."""
    lines = (line for line in PAGE.read_text().splitlines() if line.startswith("| `") and line.count("|") == 7)
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {first.strip("`"): rest for first, *rest in cells}


def number(cell: str) -> float | None:
    return float(cell) if cell else None


def test_the_page_has_every_figure_with_a_bar_and_the_bars_and_aims_of_today() -> None:
    found = {name: (number(bar), number(aim)) for name, (_, _, bar, aim, _) in rows().items()}
    assert found.keys() >= {name for name, figure in FIGURES.items() if figure.bar is not None}
    assert found == {name: (FIGURES[name].bar, FIGURES[name].aim) for name in found}


def test_the_page_says_of_each_figure_whether_its_bar_holds() -> None:
    for name, (value, _, _, _, said) in rows().items():
        assert said == HOLDS[Measured(FIGURES[name], float(value)).holds], name
