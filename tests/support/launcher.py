"""Starts daemons by fork, so that a life costs no imports; each is a process of its own, which can be killed.

Reads one JSON order a line from standard input, and answers with one JSON line for each start and each end. The child
runs `corlld run` as the command line does. Where an order names a FIFO (or a file) for marks, the child writes a line
to it as it passes each stage, unbuffered, so that the last one survives a kill; at a chosen mark the thread that made
it can be held. A SIGCONT ends the hold.
"""

import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

REAP_SECONDS = 0.02


class Marks:
    """Writes a line for each stage passed; holds the thread that passes `stage` for the `occurrence`-th time."""

    def __init__(self, path: str, hold: Mapping[str, Any] | None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._stage = hold["stage"] if hold else None
        self._left = hold["occurrence"] if hold else 0
        self._hold_seconds = hold["seconds"] if hold else 0.0
        self._woken = threading.Event()
        if hold:
            # What was stopped with a state in its hands goes on with it at once.
            signal.signal(signal.SIGCONT, lambda *_: self._woken.set())
        self._lock = threading.Lock()

    def mark(self, stage: str, *details: object) -> None:
        with self._lock:
            held = stage == self._stage and self._left == 1
            self._left -= stage == self._stage
            os.write(self._fd, (" ".join([stage, *map(str, details)]) + "\n").encode())
            if held:
                os.write(self._fd, b"held\n")
        if held:
            self._woken.wait(self._hold_seconds)


def wrap(marks: Marks) -> None:
    """Let the parts of the daemon tell where they are. The loop itself is not touched."""
    from corlld.learning.learner import CorllLearner
    from corlld.publishing.publisher import AdapterPublisher
    from corlld.sources.jsonl.source import JsonlSource
    from corlld.sources.kafka.source import KafkaSource
    from corlld.state.object_store import ObjectStore
    from corlld.state.store import LocalFolderStore

    poll, commit, poll_file = KafkaSource.poll, KafkaSource.commit, JsonlSource.poll
    update, publish = CorllLearner.update, AdapterPublisher.publish

    def marked_poll(self: KafkaSource, timeout_seconds: float) -> Any:
        polled = poll(self, timeout_seconds)
        if polled.records:
            ends = {record.tenure.partition.partition: record.next_offset for record in polled.records}
            marks.mark("polled", *(f"{partition}:{offset}" for partition, offset in ends.items()))
        return polled

    def marked_poll_file(self: JsonlSource, timeout_seconds: float) -> Any:
        polled = poll_file(self, timeout_seconds)
        if polled.records:
            marks.mark("polled", polled.records[-1].next_offset)
        return polled

    def marked_commit(self: KafkaSource, next_offsets: Mapping[Any, int]) -> bool:
        begun = commit(self, next_offsets)
        if begun:
            marks.mark("commit", *(f"{t.partition.partition}:{offset}" for t, offset in next_offsets.items()))
        return begun

    def marked_update(self: CorllLearner, batches: Sequence[Any]) -> Any:
        uids = [batch.uid for batch in batches]
        marks.mark("training", *uids)
        outcomes = update(self, batches)
        marks.mark("trained", *uids)
        return outcomes

    def marking(save: Callable[..., str]) -> Any:
        def marked_save(self: Any, uid: str, state: Any, token: str) -> str:
            marks.mark("saving", uid, state.version)
            new = save(self, uid, state, token)
            marks.mark("saved", uid, state.version)
            return new

        return marked_save

    def marked_publish(self: AdapterPublisher, state: Any) -> Any:
        marks.mark("publishing", state.uid, state.version)
        released = publish(self, state)
        marks.mark("published", state.uid, state.version)
        return released

    KafkaSource.poll, KafkaSource.commit = marked_poll, marked_commit  # type: ignore[method-assign]  # marks the real stage
    JsonlSource.poll = marked_poll_file  # type: ignore[method-assign]  # marks the real stage
    CorllLearner.update = marked_update  # type: ignore[method-assign]  # marks the real stage
    for store in (LocalFolderStore, ObjectStore):
        store.save = marking(store.save)  # type: ignore[method-assign]  # marks the real stage
    AdapterPublisher.publish = marked_publish  # type: ignore[method-assign]  # marks the real stage


def poison(event_id: str, way: str) -> None:
    """Let a step with this event end the process, or (way `hang`) never end."""
    import resource

    from corlld.learning.learner import CorllLearner

    update = CorllLearner.update
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def poisoned_update(self: CorllLearner, batches: Sequence[Any]) -> Any:
        if any(event.event_id == event_id for batch in batches for event in batch.events):
            os.write(1, f"poisoned: {way}\n".encode())
            if way == "abort":
                os.abort()
            threading.Event().wait()
        return update(self, batches)

    CorllLearner.update = poisoned_update  # type: ignore[method-assign]  # as a kernel's bug would


def live(order: Mapping[str, Any]) -> int:
    """The child's whole life. Returns its exit code."""
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, target)
    os.environ.update(order["environ"])
    if order["mutation"]:
        from tests.support.mutations import MUTATIONS

        MUTATIONS[order["mutation"]]()
    if order["marks"]:
        wrap(Marks(order["marks"], order["hold"]))
    if order["poison"]:
        poison(**order["poison"])
    from corlld.cli import main

    return main(["run", "--config", order["config"]])


def fork(order: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = live(order)
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:  # noqa: BLE001 - must not fall back into the launcher's own loop
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve(import_all: Callable[[], None]) -> None:
    """Serve until standard input ends. Then every daemon that still lives is killed."""
    import_all()
    alive: set[int] = set()
    say(ready=True)
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], REAP_SECONDS)
        if readable:
            line = os.read(0, 1 << 16)
            if not line:
                break
            for order in line.decode().splitlines():
                pid = fork(json.loads(order))
                alive.add(pid)
                say(started=pid)
        for pid in list(alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                alive.discard(pid)
                say(ended=pid, code=os.waitstatus_to_exitcode(status))
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def say(**answer: object) -> None:
    os.write(1, (json.dumps(answer) + "\n").encode())


def import_everything() -> None:
    """Import what takes seconds. It may start no thread: a fork would lose it."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import peft
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import corlld.assembly
    import corlld.learning.learner
    import corlld.publishing.publisher
    import corlld.sources.jsonl.source
    import corlld.sources.kafka.source  # noqa: F401

    assert all((peft, transformers, AutoModelForCausalLM, AutoTokenizer))
    assert threading.active_count() == 1, threading.enumerate()


if __name__ == "__main__":
    serve(import_everything)
