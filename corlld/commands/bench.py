"""`corlld bench`: its options and files. The measurements are in `corlld.bench`."""

import argparse
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

NAME = "bench"
HELP = "measure the learner beside PEFT and TRL, and the cost of the daemon around it"
DESCRIPTION = (
    "Measure the learner beside PEFT and TRL, and the cost of the daemon around it. Four ways train on the same pairs: "
    "the learner with many users packed together, the learner with one user at a time, a plain PEFT loop, and TRL's "
    "DPOTrainer. They take turns, round after round, after a check that all of them end with the same tensors."
)
EPILOG = """\
The table and the JSON file say which bars hold. The bars are meant for two
cores and the demo's model. There, all figures together take about an hour, and
each of them takes minutes.

examples:
  corlld bench --figures over_peft_fp32,packed_over_single --repeats 3
  corlld bench --edits edits.jsonl --json bench.json --plot bench.png
  corlld bench --kafka broker:9092        decode_share makes a topic, and
                                          removes it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    parser.add_argument(
        "--model", default="demo", help="as model.name: a folder, a hub id, a .gguf file (default: %(default)s)"
    )
    parser.add_argument("--edits", type=file_path, metavar="FILE", help="one event per line (default: made-up edits)")
    parser.add_argument("--figures", type=_names, metavar="A,B", help="measure only these (default: all)")
    parser.add_argument(
        "--repeats", type=positive, default=5, metavar="N", help="timed rounds of each way (default: %(default)s)"
    )
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker for decode_share, which is left out without it")
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write figures, rounds and machine to this file")
    parser.add_argument(
        "--plot", type=file_path, metavar="FILE", help="write a picture (PNG) of pairs per second to this file"
    )


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises FatalError for a file that can't be written, ConfigurationError without its packages."""
    log_warnings_alone()
    try:
        from corlld.bench.measurement import Request, bench
    except ImportError as error:
        raise ConfigurationError(f"the bench needs {error.name}: pip install 'corlld[bench]'") from None
    request = Request(
        model=arguments.model,
        edits=arguments.edits,
        figures=arguments.figures,
        repeats=arguments.repeats,
        kafka=arguments.kafka,
        json=_new_file("--json", arguments.json),
        picture=_new_file("--plot", arguments.plot),
        command=typed_command(),
    )
    bench(request, stdout_console(), stderr_console())
    return ExitCode.OK


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _new_file(option: str, path: Path | None) -> Path | None:
    """Make the file before the minutes that its content takes. Raises FatalError if it can't be written."""
    try:
        if path is not None:
            path.touch()
    except OSError as error:
        raise FatalError(f"{option}: {path} can't be written: {error.strerror}", ExitCode.CANNOT_WRITE) from None
    return path
