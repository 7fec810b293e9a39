"""Every figure of the bench, declared once: its name, its unit, what it has to reach, and what it says."""

from dataclasses import dataclass
from typing import Any

OTHER_WORKLOADS = ("4x4", "1x16", "long", "light", "heavy")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure to be measured.

    bar: what it has to reach on two cores with the demo's model; None where it only tells. aim: what it is meant to
    reach. at_least: a larger one is better.
    """

    name: str
    unit: str
    sentence: str
    bar: float | None = None
    aim: float | None = None
    at_least: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure's value. low, high: the least and the most of the rounds; None where there was one."""

    figure: Figure
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the bar is reached; None without one."""
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
        "minimum FLOPs of the packed step, a second, over those of a bare F.linear in the same run; fp32",
        0.80,
        0.92,
    ),
    Figure("gemm_share_bf16", "ratio", "the same; bf16", 0.62, 0.80),
    Figure("over_peft_fp32", "times", "pairs a second, packed, over a plain PEFT loop per user; fp32", 3.4, 4.5),
    Figure("over_peft_bf16", "times", "the same; bf16", 3.4, 5.0),
    Figure("over_trl_fp32", "times", "... over TRL's DPOTrainer per user, training only; fp32", 7.5, 10.0),
    Figure("over_trl_with_construction", "times", "... with the trainer made anew for each user; fp32"),
    Figure("packed_over_single", "times", "all users in one call, over one user at a time; fp32", 1.25, 1.5),
    Figure("bf16_over_fp32", "times", "packed, bf16 over fp32", 1.7, 2.1),
    _at_most("guard_cost", "times", "seconds of a packed step with the guard on, over one without; fp32"),
    _at_most(
        "rehearsal_cost",
        "times",
        "seconds of a packed step with the guard on and a passage rehearsed for each user, over one with the guard "
        "alone; fp32",
    ),
    _at_most(
        "flops_over_minimum",
        "times",
        "FLOPs counted in a packed step without the guard, over the analytic minimum; fp32",
        1.10,
        1.03,
    ),
    _at_most("guarded_flops_over_minimum", "times", "the same with the guard's pass in both; fp32"),
    _at_most("padding_share", "ratio", "share of the tokens computed in a packed step that nobody needs", 0.05, 0.0),
)

_DAEMON = (
    _at_most(
        "known_users_cost",
        "times",
        "seconds of an update through the daemon's loop with 100,000 users in the store, over one with 10; tiny model",
        1.10,
        1.02,
    ),
    _at_most(
        "commit_share",
        "ratio",
        "seconds inside state commits and publications (also those that overlap training), over wall time of a burst",
        0.10,
        0.03,
    ),
    _at_most(
        "latency_beyond_seconds",
        "seconds",
        "from the edit in the file to its version published, beyond the flush window and the step",
    ),
    Figure(
        "decode_share",
        "ratio",
        "records a second decoded, validated and batched, over a bare kafka-python poll loop; needs --kafka",
        0.6,
        0.8,
    ),
    _at_most(
        "peak_memory_over_peft",
        "ratio",
        "peak memory above base model and users' states, packed, over the PEFT loop's; fp32, a process each",
        0.5,
        0.3,
    ),
)

_OTHER = tuple(
    Figure(f"{name}_{workload}", "times", f"{what}; workload {workload}, fp32")
    for workload in OTHER_WORKLOADS
    for name, what in (
        ("over_peft", "pairs a second, packed, over the PEFT loop"),
        ("packed_over_single", "all users in one call, over one user at a time"),
    )
)

FIGURES = {figure.name: figure for figure in (*_COMPARED, *_DAEMON, *_OTHER)}
