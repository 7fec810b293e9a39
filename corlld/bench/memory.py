"""Peak memory of a way, measured in a process of its own.

`python -m corlld.bench.memory` reads a request from standard input.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
import transformers

from corlld.adapters.layout import AdapterLayout, AdapterTensors, new_adapter
from corlld.bench import ours
from corlld.bench.peft_loop import PeftLoop, padding_id
from corlld.bench.ways import UNGUARDED, Timed
from corlld.bench.workloads import FIRST, Workload, choose, read_edits
from corlld.errors import FatalError
from corlld.learning.model.files import find_model_files
from corlld.learning.model.linear_modules import choose_modules
from corlld.settings.sections import ModelSettings

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_ROUNDS = 2  # in the first the users are untrained


def peak_beyond_states(way: str, model: str, edits: Path | None) -> int:
    """Return the bytes at the peak of some rounds of "packed" or "peft", above the loaded model and the users' states.

    Adapter and moments of a user count once as state; copies of them count for the way. Raises FatalError if the memory
    can't be measured.
    """
    request = json.dumps({"way": way, "model": model, "edits": None if edits is None else str(edits)})
    command = [sys.executable, "-m", "corlld.bench.memory"]
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise FatalError(f"peak memory of {way} could not be measured: {last}")
    peak: int = json.loads(done.stdout)["bytes"]
    return peak


def _measure(way: str, model: str, edits: Path | None) -> int:
    make = {"packed": _packed, "peft": _peft}[way]
    loaded, timed, states = make(model, edits)
    for _ in range(_ROUNDS):
        timed.round()
    return _resident_bytes("VmHWM") - loaded - states


def _packed(model: str, edits: Path | None) -> tuple[int, Timed, int]:
    resident = ours.load(model, "float32")
    workload = choose(read_edits(edits), ours.make_encoder(resident.tokenizer))[FIRST]
    loaded = _start_from_here()
    starts = _starts(resident.layout, workload)
    learner = ours.make_learner(resident, UNGUARDED, len(starts))
    events = [tuple(edit.event for edit in edits) for edits in workload.users]
    way = ours.Ours("packed", resident, learner, events, starts, packed=True)
    return loaded, way, sum(start.nbytes for start in starts)


def _peft(model: str, edits: Path | None) -> tuple[int, Timed, int]:
    source = find_model_files(ModelSettings(name=model)).source
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, trust_remote_code=False
    ).requires_grad_(False)
    layout = AdapterLayout(ours.ADAPTER.r, ours.ADAPTER.lora_alpha, choose_modules(base, ours.ADAPTER.target_modules))
    workload = choose(read_edits(edits), ours.make_encoder(tokenizer))[FIRST]
    loaded = _start_from_here()
    starts = _starts(layout, workload)
    pairs = [[edit.pair for edit in edits] for edits in workload.users]
    way = PeftLoop(base, layout, padding_id(tokenizer), pairs, starts)
    return loaded, way, sum(start.nbytes for start in starts)


def _starts(layout: AdapterLayout, workload: Workload) -> list[AdapterTensors]:
    return [new_adapter(layout, str(user), "") for user in range(len(workload.users))]


def _start_from_here() -> int:
    """Return the bytes that are resident now, and count the peak from now on."""
    _CLEAR_REFS.write_text(_RESET_PEAK)
    return _resident_bytes("VmRSS")


def _resident_bytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise FatalError(f"{_STATUS} has no {name}")


def main() -> None:
    """Measure what standard input asks for, and print the bytes."""
    request = json.load(sys.stdin)
    edits = None if request["edits"] is None else Path(request["edits"])
    print(json.dumps({"bytes": _measure(request["way"], request["model"], edits)}))


if __name__ == "__main__":
    main()
