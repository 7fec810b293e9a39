"""The rooms of the house: how many, how large, how named, how documented, and what each may import."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "corlld"

MAX_FILES_AT_ROOT = 11
MAX_FOLDERS_AT_ROOT = 14
MAX_LINES = 350
MAX_MEDIAN_LINES = 150
MAX_FUNCTION_LINES = 50
SHARED_NAMES = {"__init__", "study", "report", "pictures", "source"}  # their folder tells them apart


def modules() -> dict[str, str]:
    """Return the source of every module, by its path in the package."""
    return {file.relative_to(HOUSE).as_posix(): file.read_text("utf-8") for file in sorted(HOUSE.rglob("*.py"))}


def lines(source: str) -> int:
    return len(source.splitlines())


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def listed(offenders: Iterable[str]) -> str:
    return "\n".join(["", *offenders])


def test_whoever_lists_the_house_sees_few_files_and_folders() -> None:
    entries = [entry for entry in sorted(HOUSE.iterdir()) if entry.name != "__pycache__"]
    files = [entry.name for entry in entries if entry.is_file()]
    folders = [entry.name for entry in entries if entry.is_dir()]
    assert len(files) <= MAX_FILES_AT_ROOT, f"{len(files)} files: {', '.join(files)}"
    assert len(folders) <= MAX_FOLDERS_AT_ROOT, f"{len(folders)} folders: {', '.join(folders)}"


def test_a_module_is_short() -> None:
    sizes = {path: lines(source) for path, source in modules().items()}
    long = [f"{path}: {size} lines" for path, size in sizes.items() if size > MAX_LINES]
    assert not long, f"more than {MAX_LINES} lines:" + listed(long)
    middle = median(size for path, size in sizes.items() if Path(path).name != "__init__.py")
    assert middle <= MAX_MEDIAN_LINES, f"the median of all modules is {middle} lines"


def test_a_function_is_short() -> None:
    long = [
        f"{path}:{function.lineno}: {function.name}: {size} lines"
        for path, source in modules().items()
        for function in functions(source)
        if (size := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, f"more than {MAX_FUNCTION_LINES} lines:" + listed(long)


def test_no_two_modules_share_a_name() -> None:
    paths = defaultdict(list)
    for path in modules():
        paths[Path(path).stem].append(path)
    shared = [" and ".join(same) for name, same in paths.items() if len(same) > 1 and name not in SHARED_NAMES]
    assert not shared, "one name each, to be found by it:" + listed(shared)


def test_every_module_says_what_is_in_it() -> None:
    silent = [path for path, source in modules().items() if source.strip() and not ast.get_docstring(ast.parse(source))]
    assert not silent, "no docstring:" + listed(silent)


def test_every_import_contract_is_kept() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_variable_of_the_tests_is_not_taken_for_a_setting_by_daemons_that_inherit_it() -> None:
    read = {
        name: str(file.relative_to(ROOT))
        for file in [ROOT / "Makefile", *(ROOT / "tests").rglob("*.py")]
        for name in re.findall(r"(?:environ\.get\(\"|^\t)(CORLLD_\w+)", file.read_text("utf-8"), re.MULTILINE)
        if not name.startswith("CORLLD_TEST_")
    }
    assert not read, "begin their names with CORLLD_TEST_:" + listed(f"{name} in {at}" for name, at in read.items())
