"""A whole run of the bench: measures the wanted figures, shows them, and writes them down."""

import statistics
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from rich.console import Console

from corlld.bench import ours
from corlld.bench.comparison import BF16, FP32, RATIOS, SHARES, Comparison, Series, gemm_shares, ratios, to_run
from corlld.bench.counted import operations_over_minimum, padding_share
from corlld.bench.daemon_costs import commit_share, latencies_beyond
from corlld.bench.decoding import decode_shares
from corlld.bench.figures import FIGURES, Measured
from corlld.bench.known_users import SIZES, known_users_cost
from corlld.bench.memory import peak_beyond_states
from corlld.bench.minimum import ModelShape, forward_only, minimum, shape_of
from corlld.bench.report import Report, plot, show, write_json
from corlld.bench.workloads import FIRST, Workload, choose, read_edits
from corlld.errors import ConfigurationError, ExitCode, FatalError
from corlld.learning.model.loading import choose_device, slow_dtype
from corlld.records import EditEvent
from corlld.system.progress import Advance

PASSES = 2  # passes that need each token: the reference, and the policy with its backward pass


@dataclass(frozen=True, slots=True)
class Request:
    """The options of a run.

    edits: a file of events; None: made-up edits. figures: names; None: all. repeats: timed rounds of each way. kafka:
    host:port; None: no broker. json, picture: files to write. command: the command line.
    """

    model: str
    edits: Path | None
    figures: tuple[str, ...] | None
    repeats: int
    kafka: str | None
    json: Path | None
    picture: Path | None
    command: str


def bench(request: Request, console: Console, progress: Console) -> Report:
    """Measure the wanted figures, show them, and write them to the files of the request.

    Args:
        request: the options.
        console: shows the tables.
        progress: shows the progress.

    Raises:
        FatalError: a figure does not exist, the edits can't be used, or the ways do not do the same.
        ConfigurationError: a package of the extra `bench` is missing, or the model can't be used.
        UnavailableError: the broker can't be reached.
    """
    began = datetime.now(UTC)
    wanted, notes = _wanted(request)
    series = to_run(each for name in wanted for each in {**RATIOS, **SHARES}.get(name, ()))
    _need(*(["trl"] if any(each.way == "trl" for each in series) else []), *(["matplotlib"] if request.picture else []))
    transformers.utils.logging.disable_progress_bar()
    edits = read_edits(request.edits)
    resident = ours.load(request.model, FP32)
    shape = shape_of(resident.model, resident.layout)  # before a learner changes the model for its own use
    workloads = choose(edits, ours.make_encoder(resident.tokenizer))
    events = [edit.event for edits in workloads[FIRST].users for edit in edits]

    beside = [name for name in BESIDE if name in wanted]
    steps = (1 + request.repeats) * len(series) + sum(_steps(name, request.repeats) for name in beside)
    with Advance(progress, steps, "steps") as advance:
        comparison = Comparison(request.model, resident, workloads)
        seconds = comparison.measure(series, request.repeats, advance)
        found = _compared(comparison, shape, resident.vocabulary, workloads[FIRST], seconds, wanted)
        del comparison  # or its models would stay in memory beside those of the daemons
        found += [BESIDE[name](request, events, advance) for name in beside]
    order = list(FIGURES)
    found.sort(key=lambda measured: order.index(measured.figure.name))
    report = Report(request.command, began, request.model, workloads, seconds, found, notes)
    show(report, console)
    if request.picture is not None:
        plot(report, request.picture)
    if request.json is not None:
        write_json(report, request.json)
    return report


def _wanted(request: Request) -> tuple[set[str], list[str]]:
    """Return the names of the figures to measure, and notes on what is left out."""
    names = set(FIGURES if request.figures is None else request.figures)
    if unknown := sorted(names - set(FIGURES)):
        raise FatalError(f"--figures: no {', '.join(unknown)}; there are {', '.join(FIGURES)}", ExitCode.USAGE)
    notes = []
    if request.kafka is None and "decode_share" in names:
        names.discard("decode_share")
        notes.append("decode_share is left out: it needs a broker, --kafka host:port")
    halves = {name for name in names if any(each.dtype == BF16 for each in {**RATIOS, **SHARES}.get(name, ()))}
    if halves and (slow := slow_dtype(torch.bfloat16, choose_device("auto"))):
        names -= halves
        notes.append(f"{', '.join(sorted(halves))}: left out, since {slow}")
    return names, notes


def _need(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise ConfigurationError(f"the bench needs {package}: pip install 'corlld[bench]'")


def _steps(name: str, repeats: int) -> int:
    """Return the steps on the progress bar of a figure beside the comparison."""
    rounds = {"known_users_cost": len(SIZES) * (2 + repeats), "decode_share": 1 + repeats, "peak_memory_over_peft": 2}
    return rounds.get(name, 1)


def _compared(
    comparison: Comparison,
    shape: ModelShape,
    vocabulary: int,
    workload: Workload,
    seconds: Mapping[Series, Sequence[float]],
    wanted: Collection[str],
) -> list[Measured]:
    """Return the figures from the seconds, and those from the operations of one more packed step."""
    least = minimum(shape, workload.pairs).total
    found = ratios(seconds, wanted) + gemm_shares(seconds, wanted, least)
    if "flops_over_minimum" in wanted:
        over = operations_over_minimum(comparison.packed(guarded=False).round, least)
        found.append(Measured(FIGURES["flops_over_minimum"], over))
    if "guarded_flops_over_minimum" in wanted:
        guarded = least + forward_only(shape, workload.pairs)
        over = operations_over_minimum(comparison.packed(guarded=True).round, guarded)
        found.append(Measured(FIGURES["guarded_flops_over_minimum"], over))
    if "padding_share" in wanted:
        needed = PASSES * sum(pair.tokens for pair in workload.pairs)
        share = padding_share(comparison.packed(guarded=False).round, vocabulary, needed)
        found.append(Measured(FIGURES["padding_share"], share))
    return found


def _known_users_cost(request: Request, events: Sequence[EditEvent], advance: Callable[[int], None]) -> Measured:
    with _folder() as folder:
        seconds, each = known_users_cost(folder, request.repeats, advance)
    return Measured(FIGURES["known_users_cost"], seconds[SIZES[-1]] / seconds[SIZES[0]], min(each), max(each))


def _commit_share(request: Request, events: Sequence[EditEvent], advance: Callable[[int], None]) -> Measured:
    with _folder() as folder:
        share = commit_share(folder, request.model, events)
    advance(1)
    return Measured(FIGURES["commit_share"], share)


def _latency(request: Request, events: Sequence[EditEvent], advance: Callable[[int], None]) -> Measured:
    with _folder() as folder:
        each = latencies_beyond(folder, request.model, events)
    advance(1)
    return Measured(FIGURES["latency_beyond_seconds"], statistics.median(each), min(each), max(each))


def _decode_share(request: Request, events: Sequence[EditEvent], advance: Callable[[int], None]) -> Measured:
    assert request.kafka is not None  # noqa: S101 - see `_wanted`
    share, each = decode_shares(request.kafka, events, request.repeats, advance)
    return Measured(FIGURES["decode_share"], share, min(each), max(each))


def _peak_memory(request: Request, events: Sequence[EditEvent], advance: Callable[[int], None]) -> Measured:
    peaks = []
    for way in ("packed", "peft"):
        peaks.append(peak_beyond_states(way, request.model, request.edits))
        advance(1)
    return Measured(FIGURES["peak_memory_over_peft"], peaks[0] / peaks[1])


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="corlld-bench-") as folder:
        yield Path(folder)


# The figures that need models, processes or a broker of their own.
BESIDE: dict[str, Callable[[Request, Sequence[EditEvent], Callable[[int], None]], Measured]] = {
    "known_users_cost": _known_users_cost,
    "commit_share": _commit_share,
    "latency_beyond_seconds": _latency,
    "decode_share": _decode_share,
    "peak_memory_over_peft": _peak_memory,
}
