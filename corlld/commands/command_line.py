"""The command line: names, options and what `--help` teaches. What the commands do is `cli`."""

import argparse
import math
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from corlld import __version__
from corlld.commands.help_text import BENCH_EPILOG, CHECK_EPILOG, SEND_EPILOG, SIMULATE_EPILOG

Command = Callable[[argparse.Namespace], int]

EXIT_CODES = """\
exit codes:
  0   done, or stopped by SIGTERM or SIGINT
  2   wrong command line
  65  the input was refused: too many dead letters, a file that shrank or was
      replaced, a recreated topic, offsets out of range; in `send` and `check
      --sample`: events that are not valid; in `state show`: no store, no such
      user, or a state that can't be read
  69  broker, topic or model could not be reached before
      operations.startup_timeout_seconds, or the port of
      operations.http_address is taken
  70  a bug, or an integrity alarm: a published version differs from its state
  73  the state store, the adapters' folder, the log or standard output can't
      be written
  78  wrong settings, a settings file that can't be read, or a state store that
      belongs to other settings
A second SIGTERM or SIGINT ends the process at once; SIGINT before the loop
runs gives 130.
"""

STUDIES = ("theory", "language-world", "tastes", "real-edits", "no-harm")
STUDIES_USING = {"--model": ("tastes", "real-edits", "no-harm"), "--edits": ("real-edits",)}  # others refuse them
MAX_SAMPLE = 100_000
HELP_COLUMNS = 80  # argparse wraps nothing where an epilog keeps its lines


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser; what it returns has the chosen command as `command`.

    Args:
        commands: by name, `state show` by its two words.
    """
    parser = argparse.ArgumentParser(
        prog="corlld",
        description="Learns from how users edit a language model's drafts: one LoRA adapter a\nuser, always fresh.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"corlld {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings (TOML); default /etc/corlld/corlld.toml where it exists. "
        "CORLLD_<SECTION>__<KEY> in the environment comes before the file",
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str,
        text: str,
        of: "argparse._SubParsersAction[argparse.ArgumentParser]" = subparsers,
        epilog: str | None = None,
    ) -> argparse.ArgumentParser:
        command = of.add_parser(
            name.split()[-1],
            parents=[common],
            help=text,
            description=textwrap.fill(text[0].upper() + text[1:] + ".", HELP_COLUMNS),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=commands[name])
        return command

    add("run", "run the daemon: read edit events, learn, publish adapters, until stopped")
    check = add(
        "check",
        "check settings, broker, topics, model folder and state store, and say what was found",
        epilog=CHECK_EPILOG,
    )
    check.add_argument(
        "--sample",
        type=_sample_size,
        metavar="N",
        help=f"also decode the newest N records (at most {MAX_SAMPLE:,}), and tell what they hold; no group is joined, "
        "nothing is committed",
    )

    send = add("send", "validate a file of edit events, and send them to kafka.topic", epilog=SEND_EPILOG)
    send.add_argument("file", metavar="FILE", help="one event a line, as in the README; `-` is standard input")
    send.add_argument("--dry-run", action="store_true", help="validate only; needs no broker")

    text = "print every setting with its default as a commented TOML file"
    plain = subparsers.add_parser("settings", help=text, description=text[0].upper() + text[1:] + ".")
    plain.add_argument("--markdown", action="store_true", help="as the tables of the README")
    plain.set_defaults(command=commands["settings"])

    text = "print every metric with its type, its labels and what it means"
    metrics = subparsers.add_parser("metrics", help=text, description=text[0].upper() + text[1:] + ".")
    metrics.add_argument("--markdown", action="store_true", help="as a Markdown table")
    metrics.set_defaults(command=commands["metrics"])

    uid = add("uid", "print the pseudonym of a user: what files, logs and topics call them")
    uid.add_argument("user", metavar="USER", help="the user_id of the events; `-` reads it from standard input")

    state = subparsers.add_parser("state", help="look into the state store")
    show = add(
        "state show",
        "show versions, applied offsets, recent event ids, counts and prequential figures",
        state.add_subparsers(title="commands", required=True, metavar="COMMAND"),
    )
    who = show.add_mutually_exclusive_group()
    who.add_argument(
        "user",
        nargs="?",
        metavar="USER",
        help="one user, by user_id (`-`: from standard input); without it: everyone, a line each",
    )
    who.add_argument("--uid", help="one user, by pseudonym")
    show.add_argument("--json", action="store_true", help="for programs")

    replay = add(
        "replay",
        "replay an archive of events through the daemon's loop, on a temporary store, and summarise each user",
    )
    replay.add_argument("file", type=Path, metavar="FILE.jsonl", help="one event a line, as in the README")
    replay.add_argument("--users", type=_positive, metavar="N", help="only the N users with the most events")
    replay.add_argument("--limit", type=_positive, metavar="N", help="only the first N events of each user")
    replay.add_argument("--json", action="store_true", help="print the summary as JSON")
    replay.add_argument("--show-users", action="store_true", help="show the raw user ids of the archive")

    demo = add(
        "demo",
        "watch it learn: two simulated users edit a model's drafts, and the daemon learns from each of them",
    )
    demo.add_argument(
        "--edits",
        type=_positive,
        default=60,
        metavar="N",
        help="edits of each user, rounded up to a multiple of 4 (default %(default)s)",
    )
    demo.add_argument(
        "--alpha",
        type=_share,
        default=1.0,
        metavar="A",
        help="share of the gap to the text that a user has in mind that an edit closes, up to 1 (default %(default)s); "
        "with less the feedback is weaker, and learning slower",
    )
    demo.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="an empty or new folder for states, adapters and the picture (default: a new one for temporary files)",
    )

    text = "measure the learner beside PEFT and TRL, and what the daemon around it costs"
    bench = subparsers.add_parser(
        "bench",
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=BENCH_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument(
        "--model", default="demo", help="as model.name: a folder, a hub id, a .gguf file (default: %(default)s)"
    )
    bench.add_argument("--edits", type=Path, metavar="FILE", help="one event a line (default: made-up edits)")
    bench.add_argument("--figures", type=_names, metavar="A,B", help="only these; what they don't need is not run")
    bench.add_argument(
        "--repeats", type=_positive, default=5, metavar="N", help="timed rounds of each way (default %(default)s)"
    )
    bench.add_argument("--kafka", metavar="HOST:PORT", help="a broker for decode_share; without it that is left out")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write figures, rounds and machine there")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="write a picture (PNG) of pairs a second there")
    bench.set_defaults(command=commands["bench"])

    text = "study on simulated users and real edits whether the learner learns, and whether it does harm"
    simulate = subparsers.add_parser(
        "simulate",
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=SIMULATE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    simulate.add_argument("study", choices=STUDIES, metavar="STUDY", help=", ".join(STUDIES))
    simulate.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="for the results; one that is half done is gone on with (default: corlld-STUDY in the working folder)",
    )
    simulate.add_argument(
        "--seeds", type=_seeds, metavar="1,2,3", help="of the reported runs (default: the study's own)"
    )
    simulate.add_argument("--quick", action="store_true", help="on a scale for a first look: its figures mean little")
    of_some = {option: ", ".join(studies) for option, studies in STUDIES_USING.items()}
    simulate.add_argument("--model", help=f"{of_some['--model']}: as model.name (default: demo)")
    simulate.add_argument("--edits", type=Path, metavar="FILE", help=f"{of_some['--edits']}: one event a line; needed")
    simulate.set_defaults(command=commands["simulate"])
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    seeds = tuple(_positive(seed.strip()) for seed in text.split(","))
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"a seed twice would count as two runs: {text!r}")
    return seeds


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return number


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most 1, not {text!r}")
    return share


def _sample_size(text: str) -> int:
    if (number := _positive(text)) > MAX_SAMPLE:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_SAMPLE}")
    return number
