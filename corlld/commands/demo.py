"""`corlld demo`: its options and its folder. The demonstration itself is in `corlld.simulation`."""

import argparse
import math
import tempfile
from pathlib import Path

from corlld.commands.shared import add_config, file_path, load, positive, stdout_console
from corlld.errors import ConfigurationError, ExitCode, FatalError

NAME = "demo"
HELP = "show how simulated users edit a model's drafts and the daemon learns from each"
DESCRIPTION = (
    "Show how it learns: three simulated users edit a model's drafts. The daemon learns from two of them, each by an "
    "adapter of its own. The third one is the control: a holdout, from which nothing is learnt. "
    "It takes a few minutes on two cores, and needs neither a broker nor a GPU."
)
EPILOG = """\
examples:
  corlld demo
  corlld demo --edits 20 --folder demo   a short demo; its files are kept
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    add_config(parser)
    parser.add_argument(
        "--edits",
        type=positive,
        default=60,
        metavar="N",
        help="edits per user, rounded up to a multiple of 4 (default: %(default)s)",
    )
    parser.add_argument(
        "--alpha",
        type=_share,
        default=1.0,
        metavar="A",
        help="how much of the gap between the draft and the text that the user wants an edit closes: above 0, at most "
        "1 (default: %(default)s); a smaller share is weaker feedback and slower learning",
    )
    parser.add_argument(
        "--folder",
        type=file_path,
        metavar="DIR",
        help="a new or empty folder for states, adapters and the picture (default: a new temporary folder)",
    )


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises FatalError for a folder that can't be used, ConfigurationError without its packages."""
    settings = load(arguments, quiet=True)
    folder = _folder(arguments.folder)
    try:
        from corlld.simulation.demo_session import demo
    except ImportError as error:
        raise ConfigurationError(f"the demo needs {error.name}: pip install 'corlld[demo]'") from None
    demo(settings, folder, edits=arguments.edits, alpha=arguments.alpha, console=stdout_console())
    return ExitCode.OK


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most 1, not {text!r}")
    return share


def _folder(asked: Path | None) -> Path:
    """Return an empty folder, made if need be. Raises FatalError if it holds something or can't be made."""
    try:
        if asked is None:
            return Path(tempfile.mkdtemp(prefix="corlld-demo-"))
        if asked.exists() and not asked.is_dir():
            raise FatalError(f"--folder: {asked} is not a folder; name a new folder", ExitCode.USAGE)
        asked.mkdir(parents=True, exist_ok=True)
        if any(asked.iterdir()):
            raise FatalError(f"--folder: {asked} is not empty; name a new folder", ExitCode.USAGE)
    except OSError as error:
        raise FatalError(f"--folder: {asked} can't be used: {error.strerror}", ExitCode.CANNOT_WRITE) from None
    return asked
