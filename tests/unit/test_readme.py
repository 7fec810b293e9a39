"""The pages (README.md and those beside the code) say what the program says, and their links lead somewhere."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest

from corlld.bench.figures import FIGURES
from corlld.cli import COMMANDS, build_parser, main
from corlld.events.decoder import EventDecoder
from corlld.settings.sections import EventSettings
from corlld.settings.words import KEYS, SECTIONS, is_secret

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted(page for folder in ("corlld", "deploy", "tests") for page in (ROOT / folder).rglob("*.md"))]
GENERATED = [ROOT / "deploy/SETTINGS.md", ROOT / "deploy/METRICS.md"]
SWEPT = ROOT / "deploy/MODELS.md"  # written by `make test-families`
WRITTEN = [page for page in PAGES if page not in (*GENERATED, SWEPT)]
MAX_LINES = 260
MAX_COLUMNS = 120
FIGURES_SHOWN = 6


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, kind: str) -> list[str]:
    """Return the text of each code block whose first line is ```kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """Return the page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings: lower case, hyphens for spaces, without punctuation."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Return the targets of the page's links and pictures that stay in the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


# Generated pages


def recipes() -> dict[Path, list[str]]:
    """Return what `make docs` writes: each page with the arguments of the command that makes it."""
    written = re.findall(r"^\t\$\(BIN\)/corlld (.+) > (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {ROOT / page: shlex.split(arguments) for arguments, page in written}


def test_make_docs_writes_the_generated_pages() -> None:
    assert list(recipes()) == GENERATED


@pytest.mark.parametrize("page", GENERATED, ids=name)
def test_a_generated_page_is_what_its_command_prints(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(recipes()[page]) == 0
    assert page.read_text() == capsys.readouterr().out, "run `make docs`"


def test_the_settings_tables_have_each_setting_once_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--markdown"]) == 0
    tables = capsys.readouterr().out.split("\n\n## `[")[1:]
    assert [table.partition("]`")[0] for table in tables] == list(SECTIONS)
    for section, table in zip(SECTIONS, tables, strict=True):
        rows = [line for line in table.splitlines() if line.startswith("| `")]
        names = [(section, row.split("`")[1]) for row in rows]
        assert names == [name for name in KEYS if name[0] == section]
        for name, row in zip(names, rows, strict=True):
            assert row.replace("\\|", "").count("|") == 5, "four cells, whatever a description holds"
            assert KEYS[name]["description"].replace("|", "\\|") in row
            default = row.split(" | ")[1]
            assert bool(default) == (KEYS[name].get("default") is not None)
            assert is_secret(name) == ("the credential file `" in row)


def test_defaults_are_written_as_the_settings_file_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    main(["settings", "--markdown"])
    out = capsys.readouterr().out
    assert '| `topic` | `"edits"` |' in out
    assert "| `max_record_bytes` | `1_000_000` | an integer > 0 |" in out
    assert '| `cloudevents_edit_types` | `["*.edit"]` |' in out


# Written pages


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().splitlines()) <= MAX_LINES


def test_no_line_of_the_readme_is_long() -> None:
    assert [line for line in README.read_text().splitlines() if len(line) > MAX_COLUMNS] == []


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_only_tables_and_code_have_long_lines(page: Path) -> None:
    lines = [line for line in prose(page).splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > MAX_COLUMNS] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_every_page() -> None:
    assert {(ROOT / link.partition("#")[0]).resolve() for link in links(README)} >= set(PAGES) - {README}


def commands_of_the_figures() -> list[str]:
    (table,) = re.findall(r"^## Six figures\n(.*?)^## ", README.read_text(), re.DOTALL | re.MULTILINE)
    return re.findall(r"\| `([^`]+)` \|$", table, re.MULTILINE)


def test_the_readme_shows_six_figures() -> None:
    assert len(commands_of_the_figures()) == FIGURES_SHOWN


def assert_exists(command: list[str]) -> None:
    """Assert that the command is a target of the Makefile, or that the command line's parser takes it."""
    program, *arguments = command
    if program == "make":
        assert set(arguments) <= make_targets(), command
    elif arguments != ["--version"]:
        assert program == "corlld"
        parsed = build_parser(COMMANDS).parse_args(arguments)
        assert set(getattr(parsed, "figures", None) or ()) <= set(FIGURES)


@pytest.mark.parametrize("command", commands_of_the_figures())
def test_the_command_of_each_figure_exists(command: str) -> None:
    assert_exists(shlex.split(command))


def shell_commands(page: Path) -> list[list[str]]:
    """Return the calls of corlld and make in the page's shell blocks.

    Variables that are set before a call, and what the shell does with its output, are left out.
    """
    call = re.compile(r'^(?:\w+=(?:"[^"]*"|\S*) )*((?:corlld|make) .*)$', re.MULTILINE)
    calls = [found for kind in ("sh", "sh root") for block in blocks(page, kind) for found in call.findall(block)]
    split = [shlex.split(found, comments=True) for found in calls]
    return [list(takewhile(lambda word: word not in ("&", "|", ">"), words)) for words in split]


@pytest.mark.parametrize("page", [page for page in WRITTEN if blocks(page, "sh")], ids=name)
def test_the_commands_in_shell_blocks_exist(page: Path) -> None:
    commands = shell_commands(page)
    assert commands
    for command in commands:
        assert_exists(command)


@pytest.mark.parametrize("page", [README, ROOT / "deploy/README.md"], ids=name)
def test_the_events_of_the_pages_are_valid(page: Path) -> None:
    decoder = EventDecoder(EventSettings(), supports_messages=True)
    examples = blocks(page, "json")
    assert examples
    for example in examples:
        events = [example] if example.startswith("{\n") else example.splitlines()
        for event in events:
            assert decoder.decode(b"ann", event.encode(), []).user_id == "ann"


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_the_settings_that_a_page_names_exist(page: Path) -> None:
    named = {tuple(pair) for pair in re.findall(r"`([a-z_]+)\.([a-z_0-9]+)[` ]", prose(page)) if pair[0] in SECTIONS}
    files = {("state", "safetensors")}
    assert named - files <= set(KEYS)
