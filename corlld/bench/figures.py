"""All figures of the bench, declared once: name, unit, bar, aim and meaning."""

from dataclasses import dataclass
from typing import Any

OTHER_WORKLOADS = ("4x4", "1x16", "long", "light", "heavy")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure to be measured.

    bar: the value that it has to reach on two cores with the demo's model; None: it is only reported. aim: the value
    that it shall reach one day. at_least: a larger value is better.
    """

    name: str
    unit: str
    sentence: str
    bar: float | None = None
    aim: float | None = None
    at_least: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured figure. low, high: the smallest and the largest value of the rounds; None without rounds."""

    figure: Figure
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool | None:
        """True if the bar is reached; None without a bar."""
        bar = self.figure.bar
        if bar is None:
            return None
        return self.value >= bar if self.figure.at_least else self.value <= bar

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.figure.name,
            "value": self.value,
            "unit": self.figure.unit,
            "bar": self.figure.bar,
            "holds": self.holds,
            "aim": self.figure.aim,
            "low": self.low,
            "high": self.high,
            "what": self.figure.sentence,
        }


def _at_most(name: str, unit: str, sentence: str, bar: float | None = None, aim: float | None = None) -> Figure:
    return Figure(name, unit, sentence, bar, aim, at_least=False)


_COMPARED = (
    Figure(
        "gemm_share_fp32",
        "ratio",
        "minimum FLOPs of the packed step per second, over those of a bare F.linear in the same run; fp32",
        0.80,
        0.92,
    ),
    Figure(
        "gemm_share_bf16",
        "ratio",
        "minimum FLOPs of the packed step per second, over those of a bare F.linear in the same run; bf16",
        0.62,
        0.80,
    ),
    Figure(
        "over_peft_fp32", "times", "packed pairs per second, over those of a plain PEFT loop per user; fp32", 3.4, 4.5
    ),
    Figure(
        "over_peft_bf16",
        "times",
        "packed pairs per second, over those of a plain PEFT loop per user; bf16",
        3.4,
        5.0,
    ),
    Figure(
        "over_trl_fp32",
        "times",
        "packed pairs per second, over those of TRL's DPOTrainer per user, training only; fp32",
        7.5,
        10.0,
    ),
    Figure(
        "over_trl_with_construction",
        "times",
        "packed pairs per second, over those of TRL's DPOTrainer with its construction per user; fp32",
    ),
    Figure(
        "packed_over_single",
        "times",
        "pairs per second of all users in one call, over one user at a time; fp32",
        1.25,
        1.5,
    ),
    Figure("bf16_over_fp32", "times", "packed pairs per second, bf16 over fp32", 1.7, 2.1),
    _at_most("guard_cost", "times", "seconds of a packed step with the guard on, over one without; fp32"),
    _at_most(
        "rehearsal_cost",
        "times",
        "seconds of a packed step with the guard and a rehearsed passage per user, over one with the guard; fp32",
    ),
    _at_most(
        "flops_over_minimum",
        "times",
        "FLOPs counted in a packed step without the guard, over the analytic minimum; fp32",
        1.10,
        1.03,
    ),
    _at_most(
        "guarded_flops_over_minimum",
        "times",
        "FLOPs counted in a packed step with the guard, over the analytic minimum with the guard's pass; fp32",
    ),
    _at_most("padding_share", "ratio", "share of the tokens computed in a packed step that are not needed", 0.05, 0.0),
)

_DAEMON = (
    _at_most(
        "known_users_cost",
        "times",
        "seconds of an update through the daemon's loop with 100,000 users in the store, over one with 10; tiny model",
        1.05,
        1.02,
    ),
    _at_most(
        "commit_share",
        "ratio",
        "seconds in state commits and publications (even those that overlap training), over wall time of a burst",
        0.05,
        0.03,
    ),
    _at_most(
        "latency_beyond_seconds",
        "seconds",
        "seconds from the edit in the file to its published version, beyond the flush window and the step",
    ),
    Figure(
        "decode_share",
        "ratio",
        "records per second decoded, validated and batched, over a bare kafka-python poll loop; needs --kafka",
        0.6,
        0.8,
    ),
    _at_most(
        "peak_memory_over_peft",
        "ratio",
        "peak memory above base model and users' states, packed over the PEFT loop; fp32, in a process each",
        0.5,
        0.3,
    ),
)

_OTHER = tuple(
    Figure(f"{name}_{workload}", "times", f"{what}; workload {workload}, fp32")
    for workload in OTHER_WORKLOADS
    for name, what in (
        ("over_peft", "packed pairs per second, over those of the PEFT loop"),
        ("packed_over_single", "pairs per second of all users in one call, over one user at a time"),
    )
)

FIGURES = {figure.name: figure for figure in (*_COMPARED, *_DAEMON, *_OTHER)}
