"""Commands and exit codes. Heavy parts are imported by the command that needs them."""

import argparse
import math
import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from rich.console import Console

from corlld import __version__
from corlld.errors import ConfigurationError, CorlldError, ExitCode, FatalError
from corlld.help_text import CHECK_EPILOG, SEND_EPILOG
from corlld.outputs import hold_closed_streams, say, unwritable
from corlld.settings import Settings

EXIT_CODES = """\
exit codes:
  0   done, or stopped by SIGTERM or SIGINT
  2   wrong command line
  65  the input was refused: too many dead letters, a file that shrank or was
      replaced, a recreated topic, offsets out of range; in `send` and `check
      --sample`: events that are not valid; in `state show`: no such user, or a
      state that can't be read
  69  broker, topic or model could not be reached before
      operations.startup_timeout_seconds, or the port of
      operations.http_address is taken
  70  a bug, or an integrity alarm: a published version differs from its state
  73  the state store, the adapters' folder, the log or standard output can't
      be written
  78  wrong settings, or a state store that belongs to other settings
A second SIGTERM or SIGINT ends the process at once; SIGINT before the loop
runs gives 130.
"""

MAX_SAMPLE = 100_000
HELP_COLUMNS = 80  # argparse wraps nothing where an epilog keeps its lines


def entry() -> int:
    """What the installed `corlld` calls: `main`, in a process of its own."""
    from corlld.operations.logs import log_uncaught_errors

    hold_closed_streams()
    log_uncaught_errors()
    try:
        code = main()
    except SystemExit as ended:  # argparse's, which has printed, or a signal's before the loop runs
        code = int(ended.code or ExitCode.OK)
    return _settle(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except FatalError as error:
        return _fail(str(error), error.exit_code)
    except CorlldError as error:
        return _fail(str(error), ExitCode.UNAVAILABLE)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        return ExitCode.OK  # the reader left, as `| head` does
    except OSError:
        if (problem := unwritable(probe="\n")) is None:
            raise
        return _fail(problem, ExitCode.CANNOT_WRITE)


def _settle(code: int) -> int:
    """The exit code of a command that returned `code`, once all that it printed and logged was written, or was not."""
    from corlld.operations.logs import log_problem

    logged, printed = log_problem(), unwritable()
    if code == ExitCode.OK and (problem := logged or printed):
        return _fail(problem, ExitCode.CANNOT_WRITE)
    return code


def _fail(message: str, code: int) -> int:
    for line in message.splitlines():
        say(f"corlld: {line}")
    return code


def _parser() -> argparse.ArgumentParser:
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
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        of: "argparse._SubParsersAction[argparse.ArgumentParser]" = commands,
        epilog: str | None = None,
    ) -> argparse.ArgumentParser:
        command = of.add_parser(
            name,
            parents=[common],
            help=text,
            description=textwrap.fill(text[0].upper() + text[1:] + ".", HELP_COLUMNS),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=run)
        return command

    add("run", _run, "run the daemon: read edit events, learn, publish adapters, until stopped")
    check = add(
        "check",
        _check,
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

    send = add("send", _send, "validate a file of edit events, and send them to kafka.topic", epilog=SEND_EPILOG)
    send.add_argument("file", metavar="FILE", help="one event a line, as in the README; `-` is standard input")
    send.add_argument("--dry-run", action="store_true", help="validate only; needs no broker")

    text = "print every setting with its default as a commented TOML file"
    plain = commands.add_parser("settings", help=text, description=text[0].upper() + text[1:] + ".")
    plain.add_argument("--markdown", action="store_true", help="as the tables of the README")
    plain.set_defaults(command=_settings)

    text = "print every metric with its type, its labels and what it means"
    metrics = commands.add_parser("metrics", help=text, description=text[0].upper() + text[1:] + ".")
    metrics.add_argument("--markdown", action="store_true", help="as a Markdown table")
    metrics.set_defaults(command=_metrics)

    uid = add("uid", _uid, "print the pseudonym of a user: what files, logs and topics call them")
    uid.add_argument("user", metavar="USER", help="the user_id of the events; `-` reads it from standard input")

    state = commands.add_parser("state", help="look into the state store")
    show = add(
        "show",
        _state_show,
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
        _replay,
        "replay an archive of events through the daemon's loop, on a temporary store, and summarise each user",
    )
    replay.add_argument("file", type=Path, metavar="FILE.jsonl", help="one event a line, as in the README")
    replay.add_argument("--users", type=_positive, metavar="N", help="only the N users with the most events")
    replay.add_argument("--limit", type=_positive, metavar="N", help="only the first N events of each user")
    replay.add_argument("--json", action="store_true", help="print the summary as JSON")
    replay.add_argument("--show-users", action="store_true", help="show the raw user ids of the archive")

    demo = add(
        "demo",
        _demo,
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
    return parser


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


def _load(arguments: argparse.Namespace) -> Settings:
    from corlld.operations.logs import configure_logging
    from corlld.settings_file import load_settings

    configure_logging("info", "auto")  # until it is known what the settings say
    settings = load_settings(arguments.config)
    configure_logging(settings.operations.log_level, settings.operations.log_format)
    return settings


def _load_quietly(arguments: argparse.Namespace) -> Settings:
    """For commands whose progress bar says what their logs would."""
    from corlld.operations.logs import configure_logging

    settings = _load(arguments)
    if settings.operations.log_level == "info":
        configure_logging("warning", settings.operations.log_format)
    return settings


def _run(arguments: argparse.Namespace) -> int:
    from corlld.assembly import build_daemon, watched
    from corlld.signals import stop_on_signals

    # Until the loop runs nothing has begun that would have to be finished.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(ExitCode.OK))
    log = structlog.get_logger("corlld")
    try:
        settings = _load(arguments)
        with watched(settings) as observer:
            daemon = build_daemon(settings, observer)
            with stop_on_signals(daemon.request_stop):
                log.info("running", version=__version__)
                daemon.run()
    except FatalError:
        raise
    except Exception:  # nothing goes on after it: a bug is logged without its message, which could quote a text
        log.exception("bug")
        return _fail("this is a bug in corlld; the log has its frames", ExitCode.INTERNAL)
    log.info("stopped")
    if daemon.abandoned:
        # A thread is still in a step that the stop could not wait for; joining it would take as long.
        os._exit(_settle(ExitCode.OK))
    return ExitCode.OK


def _check(arguments: argparse.Namespace) -> int:
    from corlld.check import check

    return check(_load(arguments), _stdout(soft_wrap=True), sample=arguments.sample)


def _send(arguments: argparse.Namespace) -> int:
    from corlld.send import send_file

    console = Console(stderr=True)
    print(send_file(_load_quietly(arguments), arguments.file, dry_run=arguments.dry_run, console=console))
    return ExitCode.OK


def _settings(arguments: argparse.Namespace) -> int:
    from corlld.settings_text import render_default_toml, render_markdown

    print(render_markdown() if arguments.markdown else render_default_toml(), end="")
    return ExitCode.OK


def _metrics(arguments: argparse.Namespace) -> int:
    from corlld.operations import metrics_table
    from corlld.operations.metrics import Metrics

    descriptions = Metrics(started_at=0.0, buffer_limit_events=0).descriptions
    if arguments.markdown:
        print(metrics_table.markdown(descriptions), end="")
    else:
        _stdout().print(metrics_table.table(descriptions))
    return ExitCode.OK


def _uid(arguments: argparse.Namespace) -> int:
    from corlld.assembly import pseudonyms

    print(pseudonyms(_load(arguments)).uid(_user(arguments)))
    return ExitCode.OK


def _state_show(arguments: argparse.Namespace) -> int:
    from corlld.assembly import build_store, pseudonyms
    from corlld.state.report import show_states

    settings = _load(arguments)
    store = build_store(settings)
    uid = arguments.uid
    if arguments.user is not None:
        names = pseudonyms(settings)
        if store.secret_fingerprint() not in (None, names.fingerprint):
            raise ConfigurationError(
                "the store's pseudonyms were made with another identity.secret: under this one no user can be found"
            )
        uid = names.uid(_user(arguments))
    return show_states(store, uid, as_json=arguments.json, console=_stdout())


def _replay(arguments: argparse.Namespace) -> int:
    from corlld.replay import replay, summary_table, to_json

    summary = replay(
        _load_quietly(arguments),
        arguments.file,
        users=arguments.users,
        limit=arguments.limit,
        console=Console(stderr=True),
    )
    if arguments.json:
        print(to_json(summary, show_users=arguments.show_users))
    else:
        _stdout().print(summary_table(summary, show_users=arguments.show_users))
        for reason, count in summary["dead_letters"].items():
            print(f"set aside: {count} {reason}")
    return ExitCode.OK


def _demo(arguments: argparse.Namespace) -> int:
    from corlld.operations.logs import configure_logging

    settings = _load(arguments)
    if settings.operations.log_level == "info":
        configure_logging("warning", settings.operations.log_format)  # the table says the rest
    folder = _demo_folder(arguments.folder)
    try:
        from corlld.simulation.demo import demo
    except ImportError as error:
        raise ConfigurationError(f"the demo needs {error.name}: pip install 'corlld[demo]'") from None
    demo(settings, folder, edits=arguments.edits, alpha=arguments.alpha, console=_stdout())
    return ExitCode.OK


def _demo_folder(asked: Path | None) -> Path:
    """An empty folder. Raises ConfigurationError for one with anything in it, FatalError where none can be made."""
    try:
        if asked is None:
            return Path(tempfile.mkdtemp(prefix="corlld-demo-"))
        if asked.exists() and not asked.is_dir():
            raise ConfigurationError(f"--folder: {asked} is not a folder; name a new one")
        asked.mkdir(parents=True, exist_ok=True)
        if any(asked.iterdir()):
            raise ConfigurationError(f"--folder: {asked} is not empty; name a new folder")
    except OSError as error:
        raise FatalError(f"--folder: {asked} can't be used: {error.strerror}", ExitCode.CANNOT_WRITE) from None
    return asked


def _user(arguments: argparse.Namespace) -> str:
    """The user id; `-` reads it from standard input, since a command line can be seen by everyone on the machine.

    Raises FatalError for what no event can have as its user_id: its pseudonym would be nobody's.
    """
    from corlld.events import MAX_USER_ID_CHARS

    user: str = arguments.user
    try:
        user = sys.stdin.read().rstrip("\n") if user == "-" else user
        user.encode()  # bytes of a command line that are no text are half characters here
    except UnicodeError:
        raise FatalError("USER: not text in UTF-8", ExitCode.USAGE) from None
    if not 0 < len(user) <= MAX_USER_ID_CHARS:
        raise FatalError(f"USER: a user_id has 1 to {MAX_USER_ID_CHARS} characters", ExitCode.USAGE)
    return user


def _stdout(*, soft_wrap: bool = False) -> Console:
    """Wide enough for a table where the output is a file or a pipe."""
    return Console(highlight=False, soft_wrap=soft_wrap, width=None if sys.stdout.isatty() else 140)
