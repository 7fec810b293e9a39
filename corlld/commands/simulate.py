"""`corlld simulate`: its options. The studies are in `corlld.simulation.studies`."""

import argparse
import math
from pathlib import Path

from corlld.commands.shared import (
    file_path,
    log_warnings_alone,
    positive,
    stderr_console,
    stdout_console,
    typed_command,
)
from corlld.errors import ConfigurationError, ExitCode, FatalError

STUDIES = ("theory", "language-world", "tastes", "weak-edits", "real-edits", "no-harm")
# Others refuse them.
STUDIES_USING = {
    "--model": ("tastes", "weak-edits", "real-edits", "no-harm"),
    "--edits": ("real-edits",),
    "--minutes": ("weak-edits", "real-edits"),
}

NAME = "simulate"
HELP = "run a study, on simulated users or real edits: does the learner learn, and does it do harm?"
DESCRIPTION = (
    "Run a study, on simulated users or real edits: does the learner learn, and does it do harm? "
    "Each study writes results.csv, pictures and summary.json. A study that was interrupted goes on when the same "
    "command is given again."
)
EPILOG = """\
studies:
  theory          the classical bounds, on tables instead of a model (a minute)
  language-world  a small transformer and users whose wishes are known, beside
                  other ways to learn from the same number of answers
  tastes          simulated users edit gemma3-270m's drafts (under an hour)
  weak-edits      the same users change a little of each draft, or harm
                  it (hours, in sittings: --minutes)
  real-edits      an archive; each edit is judged before it is learnt from
  no-harm         what noise and hostile users do to an adapter

examples:
  corlld simulate theory
  corlld simulate real-edits --edits edits.jsonl --folder real-edits
  corlld simulate weak-edits --model demo-chat --minutes 60
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    parser.add_argument("study", choices=STUDIES, metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument(
        "--folder",
        type=file_path,
        metavar="DIR",
        help="write the results there, and go on with a half-done run that is there (default: ./corlld-STUDY)",
    )
    parser.add_argument(
        "--seeds", type=_seeds, metavar="1,2,3", help="seeds of the reported runs (default: the study's own)"
    )
    parser.add_argument("--quick", action="store_true", help="run on a small scale; the figures mean little")
    of_some = {option: ", ".join(studies) for option, studies in STUDIES_USING.items()}
    parser.add_argument("--model", help=f"for {of_some['--model']}: as model.name (default: demo)")
    parser.add_argument(
        "--edits", type=file_path, metavar="FILE", help=f"for {of_some['--edits']}, which needs it: one event per line"
    )
    parser.add_argument(
        "--minutes",
        type=positive,
        metavar="N",
        help=f"for {of_some['--minutes']}: begin no unit after this time, and report on those that are done",
    )


def run(arguments: argparse.Namespace) -> int:
    """See `Command`.

    Raises FatalError for an option that the study does not use or a folder of other results, ConfigurationError
    without its packages.
    """
    log_warnings_alone()
    for option, value in (
        ("--model", arguments.model),
        ("--edits", arguments.edits),
        ("--minutes", arguments.minutes),
    ):
        if value is not None and arguments.study not in STUDIES_USING[option]:
            raise FatalError(f"{option}: the study {arguments.study} does not use it", ExitCode.USAGE)
    try:
        # Pictures come last: a missing package would be reported after hours.
        import matplotlib  # noqa: F401

        from corlld.learning.model.files import DEMO
        from corlld.simulation.studies.catalogue import find_study
        from corlld.simulation.studies.contract import Options
        from corlld.simulation.studies.runner import run_study

        study = find_study(arguments.study)
    except ImportError as error:
        raise ConfigurationError(f"the studies need {error.name}: pip install 'corlld[demo]'") from None
    model = DEMO if arguments.model is None else arguments.model
    options = Options(arguments.seeds or study.seeds, arguments.quick, model, arguments.edits)
    folder = arguments.folder or Path(f"corlld-{study.name}")
    run_study(
        study,
        options,
        folder,
        typed_command(),
        stdout_console(),
        stderr_console(),
        minutes=math.inf if arguments.minutes is None else arguments.minutes,
    )
    return ExitCode.OK


def _seeds(text: str) -> tuple[int, ...]:
    seeds = tuple(positive(seed.strip()) for seed in text.split(","))
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"a seed twice would count as two runs: {text!r}")
    return seeds
