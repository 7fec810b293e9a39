"""Commands and exit codes. Heavy parts are imported by the command that needs them."""

import argparse
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import structlog
from rich.console import Console

from corlld import __version__
from corlld.commands.command_line import STUDIES_USING, Command, build_parser
from corlld.errors import ConfigurationError, CorlldError, ExitCode, FatalError
from corlld.settings.sections import Settings
from corlld.system.streams import hold_closed_streams, say, unwritable


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
    arguments = build_parser(COMMANDS).parse_args(argv)
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


def _load(arguments: argparse.Namespace) -> Settings:
    from corlld.operations.logs import configure_logging
    from corlld.settings.load import load_settings

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
    from corlld.system.signals import stop_on_signals

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
    from corlld.commands.check import check

    return check(_load(arguments), _stdout(soft_wrap=True), sample=arguments.sample)


def _send(arguments: argparse.Namespace) -> int:
    from corlld.commands.send import send_file

    console = Console(stderr=True)
    print(send_file(_load_quietly(arguments), arguments.file, dry_run=arguments.dry_run, console=console))
    return ExitCode.OK


def _settings(arguments: argparse.Namespace) -> int:
    from corlld.settings.words import render_default_toml, render_markdown

    print(render_markdown() if arguments.markdown else render_default_toml(), end="")
    return ExitCode.OK


def _metrics(arguments: argparse.Namespace) -> int:
    from corlld.commands import metrics_table
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
    from corlld.assembly import build_store, no_store_yet, pseudonyms
    from corlld.commands.state import show_states

    settings = _load(arguments)
    store = build_store(settings)
    fingerprint = store.secret_fingerprint()
    uid = arguments.uid
    if arguments.user is not None:
        names = pseudonyms(settings)
        if fingerprint not in (None, names.fingerprint):
            raise ConfigurationError(
                "the store's pseudonyms were made with another identity.secret: under this one no user can be found"
            )
        uid = names.uid(_user(arguments))
    if fingerprint is None:
        raise FatalError(f"state store: {no_store_yet(settings)}", ExitCode.DATA)
    return show_states(store, uid, as_json=arguments.json, console=_stdout())


def _replay(arguments: argparse.Namespace) -> int:
    from corlld.commands.replay import replay, summary_table, to_json

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
        from corlld.simulation.demo_session import demo
    except ImportError as error:
        raise ConfigurationError(f"the demo needs {error.name}: pip install 'corlld[demo]'") from None
    demo(settings, folder, edits=arguments.edits, alpha=arguments.alpha, console=_stdout())
    return ExitCode.OK


def _bench(arguments: argparse.Namespace) -> int:
    from corlld.operations.logs import configure_logging

    configure_logging("warning", "auto")  # the tables say the rest
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
        command=shlex.join(["corlld", *sys.argv[1:]]),
    )
    bench(request, _stdout(), Console(stderr=True))
    return ExitCode.OK


def _simulate(arguments: argparse.Namespace) -> int:
    from corlld.operations.logs import configure_logging

    configure_logging("warning", "auto")  # the tables say the rest
    for option, value in (("--model", arguments.model), ("--edits", arguments.edits)):
        if value is not None and arguments.study not in STUDIES_USING[option]:
            raise FatalError(f"{option}: the study {arguments.study} has no use for it", ExitCode.USAGE)
    try:
        # Pictures come last: that it is missing would be told after hours.
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
    run_study(study, options, folder, shlex.join(["corlld", *sys.argv[1:]]), _stdout(), Console(stderr=True))
    return ExitCode.OK


def _new_file(option: str, path: Path | None) -> Path | None:
    """A file that can be written, seen before the minutes that its content takes. Raises FatalError."""
    try:
        if path is not None:
            path.touch()
    except OSError as error:
        raise FatalError(f"{option}: {path} can't be written: {error.strerror}", ExitCode.CANNOT_WRITE) from None
    return path


def _demo_folder(asked: Path | None) -> Path:
    """An empty folder. Raises FatalError for one with anything in it, and where none can be made."""
    try:
        if asked is None:
            return Path(tempfile.mkdtemp(prefix="corlld-demo-"))
        if asked.exists() and not asked.is_dir():
            raise FatalError(f"--folder: {asked} is not a folder; name a new one", ExitCode.USAGE)
        asked.mkdir(parents=True, exist_ok=True)
        if any(asked.iterdir()):
            raise FatalError(f"--folder: {asked} is not empty; name a new folder", ExitCode.USAGE)
    except OSError as error:
        raise FatalError(f"--folder: {asked} can't be used: {error.strerror}", ExitCode.CANNOT_WRITE) from None
    return asked


def _user(arguments: argparse.Namespace) -> str:
    """The user id; `-` reads it from standard input, since a command line can be seen by everyone on the machine.

    Raises FatalError for what no event can have as its user_id: its pseudonym would be nobody's.
    """
    from corlld.events.decoder import MAX_USER_ID_CHARS

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


COMMANDS: dict[str, Command] = {
    "run": _run,
    "check": _check,
    "send": _send,
    "settings": _settings,
    "metrics": _metrics,
    "uid": _uid,
    "state show": _state_show,
    "replay": _replay,
    "demo": _demo,
    "bench": _bench,
    "simulate": _simulate,
}
