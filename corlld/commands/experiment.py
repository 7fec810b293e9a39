"""`corlld experiment`: what the arms of the experiment say, from the users' states."""

import argparse
import json
import math
import time
from typing import TYPE_CHECKING

from rich.console import Console

from corlld.commands.out_of_reach import OutOfReach
from corlld.commands.shared import add_config, load, print_table, stderr_console, stdout_console
from corlld.errors import ConfigurationError, ExitCode, FatalError, RetriableError, StateUnreadable

if TYPE_CHECKING:
    from corlld.commands.state_views import ReadableStore
    from corlld.experiment.tally import Tally

NAME = "experiment"
HELP = "compare the arms of the experiment: does learning help, and how sure is that"
DESCRIPTION = (
    "Compare the arms of the experiment ([[experiment.arms]]), from the users' states: does learning save users work, "
    "and how sure is that? The intervals hold however often they are looked at, so one may look every day and stop "
    "when one likes. Nothing is changed, and the daemon may run meanwhile."
)
EPILOG = """\
examples:
  corlld experiment
  corlld experiment --difference 0.1      how many users show a tenth of a draft
  corlld experiment --json > arms.json

A user counts once, by the mean edit ratio of the first `experiment.drafts`
drafts after the user's first 8. The column `forgotten` says how much less
likely an arm's adapters make plain text than the base model does: the mean of
the updates that rehearsed plain text, in nats per token. The exit code is 65 if
there is no store, and 78 if the settings have no arms. The others are in
`corlld --help`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    add_config(parser)
    parser.add_argument(
        "--difference",
        type=_difference,
        default=0.05,
        metavar="D",
        help="say how many more users it takes to see a difference of D, a share of a draft (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises ConfigurationError without arms, FatalError without a store."""
    from corlld.assembly import build_store, no_store_yet
    from corlld.commands.experiment_views import FEW_COLUMNS, arms_table, findings, to_json
    from corlld.experiment.arms import Arms
    from corlld.experiment.differences import comparisons
    from corlld.experiment.tally import Tally

    settings = load(arguments, quiet=True)
    arms = Arms(settings.experiment, settings.learning, settings.guard)
    if not arms:
        needed = "a table [[experiment.arms]] per arm: see Does it help? in deploy/README.md"
        raise ConfigurationError(f"experiment.arms: not set, needed: {needed}")
    store = build_store(settings)
    if (identity := store.identity()) is None:
        raise FatalError(f"state store: {no_store_yet(settings)}", ExitCode.DATA)
    tally = Tally(arms, settings.experiment.drafts, identity.start_adapter)
    unreadable = count_users(store, tally, stderr_console())
    found = list(comparisons(arms, tally.arms, difference=arguments.difference, now=time.time()))
    if arguments.json:
        print(json.dumps(to_json(arms, tally, found, unreadable, settings.experiment.drafts), indent=2))
    else:
        console = stdout_console(soft_wrap=True)
        print_table(console, arms_table(arms, tally), arms_table(arms, tally, FEW_COLUMNS))
        for line in findings(tally, found, unreadable):
            console.print(line, markup=False)
    return ExitCode.OK


def count_users(store: "ReadableStore", tally: "Tally", console: Console) -> int:
    """Count every user of the store in, reading no tensors. Return how many states can't be read.

    console: where progress is shown.

    Raises RetriableError if the store is away.
    """
    from corlld.system.progress import Advance

    uids, unreadable, out_of_reach = list(store.uids()), 0, OutOfReach()
    with Advance(console, len(uids), "users") as advance:
        for uid in uids:
            try:
                state = store.load_header(uid)
            except RetriableError as error:
                out_of_reach.note(uid, error)
                unreadable += 1
            except StateUnreadable:
                out_of_reach.served()
                unreadable += 1
            else:
                out_of_reach.served()
                if state is not None:
                    tally.add(state)
            advance(1)
    out_of_reach.finish()
    return unreadable


def _difference(text: str) -> float:
    try:
        difference = float(text)
    except ValueError:
        difference = math.nan
    if not 0.001 <= difference < 1:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0.001 and below 1, not {text!r}")
    return difference
