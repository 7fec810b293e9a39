"""The command line: what it refuses, and the sentence it refuses it with."""

import pytest

from corlld.cli import main
from corlld.errors import ExitCode


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        *((["demo", "--edits", text], "a whole number of at least 1") for text in ("0", "-3", "1.5", "many", "²")),
        *((["demo", "--alpha", text], "a number above 0 and at most 1") for text in ("0", "2", "nan", "half")),
        (["check", "--sample", "all"], "a whole number of at least 1"),
    ],
)
def test_a_number_that_does_not_fit_is_refused_with_what_is_allowed(
    arguments: list[str], allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == ExitCode.USAGE
    assert f"{arguments[1]}: must be {allowed}, not {arguments[2]!r}" in capsys.readouterr().err
