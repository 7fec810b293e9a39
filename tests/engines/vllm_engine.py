"""vLLM in an environment and a process of its own, as the tests talk to it."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("CORLLD_TEST_ENGINES", ROOT / ".venv-engines/bin/python")).absolute()


class VllmEngine:
    """See `vllm_worker` for what can be asked. log: where vLLM writes."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log
        self._numbers: dict[str, int] = {}

    def ask(self, adapter: Path | None = None, **request: Any) -> dict[str, Any]:
        """Send a request, with the adapter version in this folder if there is one, and return the answer."""
        if adapter is not None:
            request["adapter"] = {"name": str(adapter), "number": self._number(adapter), "folder": str(adapter)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def unload(self, adapter: Path) -> bool:
        return bool(self.ask(unload=self._number(adapter))["unloaded"])

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"vLLM has ended: {self._log.read_text()[-3000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _number(self, adapter: Path) -> int:
        """Return the adapter's number at the engine: a number of its own for each version, as for each name."""
        return self._numbers.setdefault(str(adapter), len(self._numbers) + 1)


@contextlib.contextmanager
def vllm_engine(model: str, log: Path, *, adapters: int = 1) -> Iterator[VllmEngine]:
    """Serve the model while the block runs. adapters: how many of them vLLM keeps in memory."""
    assert PYTHON.exists(), f"there is no {PYTHON}: `make test-engines` installs vLLM"
    command = [str(PYTHON), str(Path(__file__).with_name("vllm_worker.py")), model, str(adapters)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
            cwd=log.parent,
        )
    try:
        engine = VllmEngine(process, log)
        assert engine.answer() == {"ready": True}
        yield engine
    finally:
        # vLLM's engine is a process below this one: all of the session are ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
