"""Times the ways in turn, round after round, checks that all end with the same tensors, and compares the seconds."""

import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import transformers

from corlld.adapters.layout import AdapterTensors
from corlld.bench import ours
from corlld.bench.figures import FIGURES, OTHER_WORKLOADS, Measured
from corlld.bench.peft_loop import PeftLoop, padding_id
from corlld.bench.ways import GUARDED, REHEARSING, RULE, UNGUARDED, Timed, Took, Way, relative_differences, settle
from corlld.bench.workloads import FIRST, Workload
from corlld.errors import FatalError
from corlld.learning.learner import CorllLearner
from corlld.learning.model.files import find_model_files
from corlld.learning.model.resident import ResidentModel
from corlld.settings.sections import GuardSettings, LearningSettings, ModelSettings

FP32, BF16 = "float32", "bfloat16"
TRL_WHOLE = "trl, constructed"
TOLERANCE = 1e-4  # of the weights
# Of what the step changed. That is less than a hundredth of the weights, so this tolerance is the stricter one. It
# can't be much smaller: a weight whose gradient is only rounding takes a whole step of Adam too, in either direction.
STEP_TOLERANCE = 1e-2
# A linear layer of gemma3-270m, on as many tokens as 16 pairs have there.
GEMM_TOKENS, GEMM_IN, GEMM_OUT = 1712, 640, 2048
GEMM_SECONDS = 0.5


WAYS = ("trl", "peft", "single", "packed", "guarded", "rehearsing", "gemm")  # in turn


class Series(NamedTuple):
    """A timed series. way: one of `WAYS`, or TRL_WHOLE, which is "trl" with the construction of the trainers."""

    workload: str
    dtype: str
    way: str


def _first(dtype: str, *ways: str) -> tuple[Series, ...]:
    return tuple(Series(FIRST, dtype, way) for way in ways)


# Each ratio: the seconds of the second series over those of the first.
RATIOS: dict[str, tuple[Series, ...]] = {
    "over_peft_fp32": _first(FP32, "packed", "peft"),
    "over_peft_bf16": _first(BF16, "packed", "peft"),
    "over_trl_fp32": _first(FP32, "packed", "trl"),
    "over_trl_with_construction": _first(FP32, "packed", "trl, constructed"),
    "packed_over_single": _first(FP32, "packed", "single"),
    "bf16_over_fp32": (*_first(BF16, "packed"), *_first(FP32, "packed")),
    "guard_cost": _first(FP32, "packed", "guarded"),
    "rehearsal_cost": _first(FP32, "guarded", "rehearsing"),
}
for _workload in OTHER_WORKLOADS:
    _packed = Series(_workload, FP32, "packed")
    RATIOS[f"over_peft_{_workload}"] = (_packed, Series(_workload, FP32, "peft"))
    RATIOS[f"packed_over_single_{_workload}"] = (_packed, Series(_workload, FP32, "single"))

SHARES = {
    "gemm_share_fp32": _first(FP32, "packed", "gemm"),
    "gemm_share_bf16": _first(BF16, "packed", "gemm"),
}


class Gemm:
    """Measures the rate of the machine: the same linear layer over and over. `training` is the seconds of a pass."""

    OPERATIONS = 2 * GEMM_TOKENS * GEMM_IN * GEMM_OUT

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._x = torch.randn(GEMM_TOKENS, GEMM_IN, device=device).to(dtype)
        self._weight = torch.randn(GEMM_OUT, GEMM_IN, device=device).to(dtype)

    @torch.no_grad()
    def round(self) -> Took:
        count, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < GEMM_SECONDS:
            torch.nn.functional.linear(self._x, self._weight)
            settle(self._x.device)
            count += 1
        return Took(passed / count)


class Comparison:
    """Keeps the models of a run. Each is loaded when it is first needed.

    Args:
        model: as `model.name`.
        resident: the model in float32.
        workloads: by name; see `choose`.
    """

    def __init__(self, model: str, resident: ResidentModel, workloads: Mapping[str, Workload]) -> None:
        self._model = model
        self._source = find_model_files(ModelSettings(name=model)).source
        self._residents = {FP32: resident}
        self._learners: dict[tuple[str, GuardSettings, LearningSettings], CorllLearner] = {}
        self._workloads = workloads

    def packed(self, *, guarded: bool) -> ours.Ours:
        """Return the packed way on the first workload, in float32, with users who were trained before."""
        workload = self._workloads[FIRST]
        starts = ours.trained_starts(self._learner(FP32, "packed"), workload)
        return self._ours(workload, Series(FIRST, FP32, "guarded" if guarded else "packed"), starts)

    def measure(
        self, wanted: Collection[Series], repeats: int, advance: Callable[[int], None]
    ) -> dict[Series, list[float]]:
        """Return the seconds of each round by series. The series of a workload take turns, after a round to warm up.

        Raises FatalError if the ways of a workload don't end with the same tensors.
        """
        seconds: dict[Series, list[float]] = {}
        for name, workload in self._workloads.items():
            here = [series for series in wanted if series.workload == name]
            seconds |= self._measure_workload(workload, to_run(here), repeats, advance)
        return seconds

    def _measure_workload(
        self, workload: Workload, wanted: Collection[Series], repeats: int, advance: Callable[[int], None]
    ) -> dict[Series, list[float]]:
        starts = {
            dtype: ours.trained_starts(self._learner(dtype, "packed"), workload)
            for dtype in {series.dtype for series in wanted}
        }
        timed = {series: self._make(workload, series, starts[series.dtype]) for series in wanted}
        seconds: dict[Series, list[float]] = {}
        for number in range(1 + repeats):
            for series, way in timed.items():
                took = way.round()
                if number:
                    seconds.setdefault(series, []).append(took.training)
                    if series.way == "trl":
                        whole = series._replace(way=TRL_WHOLE)
                        seconds.setdefault(whole, []).append(took.training + took.construction)
                advance(1)
            if not number and FP32 in starts:
                check_same(
                    [adapter.weights for adapter in starts[FP32]],
                    {
                        series.way: way
                        for series, way in timed.items()
                        if series.dtype == FP32 and series.way != "rehearsing" and isinstance(way, Way)
                    },
                )
        return seconds

    def _make(self, workload: Workload, series: Series, starts: Sequence[AdapterTensors]) -> Timed:
        resident = self._resident(series.dtype)
        if series.way == "gemm":
            return Gemm(resident.model.dtype, resident.device)
        if series.way == "peft":
            return PeftLoop(
                self._base(series.dtype),
                resident.layout,
                padding_id(resident.tokenizer),
                [[edit.pair for edit in edits] for edits in workload.users],
                starts,
            )
        if series.way == "trl":
            from corlld.bench.trl_peer import TrlTrainer

            return TrlTrainer(self._base(series.dtype), resident.tokenizer, resident.layout, workload.users, starts)
        return self._ours(workload, series, starts)

    def _ours(self, workload: Workload, series: Series, starts: Sequence[AdapterTensors]) -> ours.Ours:
        learner = self._learner(series.dtype, series.way)
        events = [tuple(edit.event for edit in edits) for edits in workload.users]
        return ours.Ours(
            f"{series.workload} {series.way}",
            self._resident(series.dtype),
            learner,
            events,
            starts,
            packed=series.way != "single",
        )

    def _resident(self, dtype: str) -> ResidentModel:
        if dtype not in self._residents:
            self._residents[dtype] = ours.load(self._model, dtype)
        return self._residents[dtype]

    def _learner(self, dtype: str, way: str) -> CorllLearner:
        guard = GUARDED if way in ("guarded", "rehearsing") else UNGUARDED
        rule = REHEARSING if way == "rehearsing" else RULE
        key = (dtype, guard, rule)
        if key not in self._learners:
            self._learners[key] = ours.make_learner(self._resident(dtype), guard, rule=rule)
        return self._learners[key]

    def _base(self, dtype: str) -> Any:
        """Return another copy of the model for a peer, on the same device."""
        resident = self._resident(dtype)
        base = transformers.AutoModelForCausalLM.from_pretrained(
            self._source, dtype=resident.model.dtype, trust_remote_code=False
        )
        return base.to(resident.device).eval()


def to_run(wanted: Iterable[Series]) -> list[Series]:
    """Return the series to run for these series, in the order of a round."""
    run = {series._replace(way="trl") if series.way == TRL_WHOLE else series for series in wanted}
    return sorted(run, key=lambda series: (series.workload, series.dtype == BF16, WAYS.index(series.way)))


def check_same(start: Sequence[torch.Tensor], ways: Mapping[str, Way]) -> None:
    """Raise FatalError if a way has ended with other tensors than the first: their seconds could not be compared."""
    weights = {name: way.weights() for name, way in ways.items()}
    for name, other in weights.items():
        first = next(iter(weights))
        of_weights, of_step = relative_differences(start, weights[first], other)
        if not (of_weights <= TOLERANCE and of_step <= STEP_TOLERANCE):
            raise FatalError(
                f"{name} ends with other tensors than {first}: they differ by {of_weights:.1e} of the weights, allowed "
                f"{TOLERANCE:.0e}, and by {of_step:.1e} of what the step changed, allowed {STEP_TOLERANCE:.0e}; "
                "nothing is timed"
            )


def ratios(seconds: Mapping[Series, Sequence[float]], names: Iterable[str]) -> list[Measured]:
    """Return the figures of `RATIOS` that are among the names. Their low and high are of single rounds."""
    found = []
    for name in names:
        if name in RATIOS:
            fast, slow = (seconds[series] for series in RATIOS[name])
            each = [b / a for a, b in zip(fast, slow, strict=True)]
            value = statistics.median(slow) / statistics.median(fast)
            found.append(Measured(FIGURES[name], value, min(each), max(each)))
    return found


def gemm_shares(seconds: Mapping[Series, Sequence[float]], names: Iterable[str], operations: int) -> list[Measured]:
    """Return the figures of `SHARES` that are among the names. operations: the minimum of the first workload."""
    found = []
    for name in names:
        if name in SHARES:
            packed, gemm = (seconds[series] for series in SHARES[name])
            each = [operations / a / (Gemm.OPERATIONS / b) for a, b in zip(packed, gemm, strict=True)]
            value = operations / statistics.median(packed) / (Gemm.OPERATIONS / statistics.median(gemm))
            found.append(Measured(FIGURES[name], value, min(each), max(each)))
    return found
