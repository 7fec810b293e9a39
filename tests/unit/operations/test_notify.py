"""A supervisor gets each report at the right time; a supervisor that can't be reached changes nothing."""

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from corlld.observer import Observers
from corlld.operations.health import Health
from corlld.operations.liveness import Liveness
from corlld.operations.notify import (
    EXTENSION_SECONDS,
    STATUS_EVERY_SECONDS,
    STOP_MARGIN_SECONDS,
    Notifier,
    NotifySocket,
    watchdog_timeout,
)
from corlld.records import PartitionStatus, Stage
from corlld.settings.sections import OperationsSettings
from tests.support.fakes import loop_status
from tests.support.notify_listener import NotifyListener
from tests.support.states import released_state, tombstone


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[NotifyListener]:
    with NotifyListener(tmp_path / "notify") as listener:
        yield listener


def make(
    listener: NotifyListener,
    *,
    stall_after_seconds: float = 10.0,
    watchdog_seconds: float | None = None,
    extend_every_seconds: float = 10.0,
    **operations: Any,
) -> Notifier:
    return Notifier(
        NotifySocket(listener.address),
        OperationsSettings(**operations),
        Liveness(stall_after_seconds),
        watchdog_seconds,
        extend_every_seconds,
    )


def turn(notifier: Notifier, now: float, **status: Any) -> None:
    Observers(Health(notifier._liveness), notifier).turned(loop_status(now=now, **status))


def heard(notifier: Notifier, listener: NotifyListener, name: str) -> list[str]:
    """Return everything that was sent with that name until now."""
    mark = uuid.uuid4().hex
    notifier._socket.send(f"X_MARK={mark}")  # datagrams of one socket keep their order
    listener.wait_for("X_MARK", mark)
    return listener.values(name)


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_assignments_go_out_as_one_datagram(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@corlld-test-{uuid.uuid4().hex}"
    with NotifyListener(address) as listener:
        notify = NotifySocket(address)
        assert notify.send("READY=1", "STATUS=ready: ä")
        assert listener.wait_for("STATUS").value == "ready: ä"
        assert listener.wait_for("READY").datagram == listener.wait_for("STATUS").datagram
        notify.close()
        assert not notify.send("READY=1")


@pytest.mark.parametrize("address", [None, ""])
def test_without_a_socket_nothing_is_sent_and_nothing_is_said(address: str | None) -> None:
    with structlog.testing.capture_logs() as entries:
        assert not NotifySocket(address).send("READY=1")
    assert entries == []


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("vsock:2:1", "allowed: a path, or @ and an abstract name"),
        ("relative", "allowed: a path, or @ and an abstract name"),
        ("/nowhere/at/all", "No such file or directory"),
        ("/" + "x" * 200, "AF_UNIX path too long"),
    ],
)
def test_a_wrong_socket_is_logged_once_and_stops_nothing(address: str, problem: str) -> None:
    with structlog.testing.capture_logs() as entries:
        notify = NotifySocket(address)
        assert not notify.send("READY=1")
        assert not notify.send("WATCHDOG=1")
        notify.close()
    assert [(entry["event"], entry["problem"]) for entry in entries] == [("notify_socket_unusable", problem)]


def test_a_supervisor_that_does_not_read_holds_nothing_up_and_ready_is_sent_again(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        notify = NotifySocket(str(tmp_path / "notify"))
        with structlog.testing.capture_logs() as entries:
            sent = 0
            while notify.send("WATCHDOG=1"):
                sent += 1
                assert sent < 10_000
            notifier = Notifier(notify, OperationsSettings(), Liveness(10), None)
            turn(notifier, 1)
        assert [entry["problem"] for entry in entries] == ["Resource temporarily unavailable"]
        deaf.setblocking(False)
        for _ in range(sent):
            assert deaf.recv(100) == b"WATCHDOG=1"
        turn(notifier, 2)
        assert deaf.recv(100) == b"READY=1"
        turn(notifier, 3)
        notifier.close()
        assert deaf.recv(100).startswith(b"STATUS=")
        with pytest.raises(BlockingIOError):
            deaf.recv(100)  # READY came once


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "120000000"}, 120.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "42"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "41"}, None),
    ],
)
def test_the_watchdog_is_fed_where_this_process_is_asked_to(environ: dict[str, str], expected: float | None) -> None:
    with structlog.testing.capture_logs() as entries:
        assert watchdog_timeout(environ, 42) == expected
    assert entries == []


@pytest.mark.parametrize("usec", ["soon", "-1", "0", "1.5"])
def test_a_watchdog_time_that_is_no_time_is_logged(usec: str) -> None:
    with structlog.testing.capture_logs() as entries:
        assert watchdog_timeout({"WATCHDOG_USEC": usec}, 42) is None
    assert [entry["event"] for entry in entries] == ["watchdog_time_unusable"]


def test_the_stages_of_the_start_are_its_status_and_the_first_turn_is_ready(listener: NotifyListener) -> None:
    notifier = make(listener)
    for stage in (Stage.INPUT, Stage.MODEL, Stage.STATE):
        notifier.starting(stage)
    assert heard(notifier, listener, "READY") == []
    assert listener.values("STATUS") == ["waiting for: input", "loading the model", "opening the state store"]
    turn(notifier, 100, waiting_for=(Stage.INPUT,))
    turn(notifier, 101)
    assert heard(notifier, listener, "READY") == ["1"]
    notifier.close()


def test_more_time_is_asked_for_from_the_model_on_until_the_loop_turns(listener: NotifyListener) -> None:
    notifier = make(listener, extend_every_seconds=0.02)
    notifier.starting(Stage.INPUT)
    assert heard(notifier, listener, "EXTEND_TIMEOUT_USEC") == []
    notifier.starting(Stage.MODEL)
    extension = listener.wait_for("EXTEND_TIMEOUT_USEC", count=3)
    assert int(extension.value) == EXTENSION_SECONDS * 1e6
    turn(notifier, 1)
    assert notifier._extending is not None
    notifier._extending.join(10)
    assert not notifier._extending.is_alive()
    notifier.close()


def test_a_load_that_hangs_is_given_no_more_time_after_its_limit(listener: NotifyListener) -> None:
    notifier = make(listener, extend_every_seconds=0.02, model_load_timeout_seconds=0.05)
    notifier.starting(Stage.MODEL)
    assert notifier._extending is not None
    notifier._extending.join(10)
    assert not notifier._extending.is_alive()
    assert len(heard(notifier, listener, "EXTEND_TIMEOUT_USEC")) == 3  # at 0, 0.02 and 0.04 s
    notifier.close()


def test_pings_come_three_to_a_timeout_while_the_trainer_moves_and_stop_with_it(listener: NotifyListener) -> None:
    notifier = make(listener, watchdog_seconds=12, stall_after_seconds=10)
    for now in range(100, 113):  # progress until 104
        turn(notifier, now, training=True, trainer_progress=min(now, 104))
    assert len(heard(notifier, listener, "WATCHDOG")) == 4  # at 100, 104, 108, 112
    for now in range(113, 140):
        turn(notifier, now, training=True, trainer_progress=104)
    assert len(heard(notifier, listener, "WATCHDOG")) == 4, "115 would be the next, 11 s after the last progress"
    assert "the trainer has made no progress for" in listener.values("STATUS")[-1]
    turn(notifier, 140, training=True, trainer_progress=105)
    assert len(heard(notifier, listener, "WATCHDOG")) == 5
    notifier.close()


def test_without_a_watchdog_nobody_is_pinged(listener: NotifyListener) -> None:
    notifier = make(listener)
    for now in range(100):
        turn(notifier, now)
    assert heard(notifier, listener, "WATCHDOG") == []
    notifier.close()


def test_the_status_is_sent_when_it_changes_and_not_too_often(listener: NotifyListener) -> None:
    notifier = make(listener)
    ready = {"partitions": {number: PartitionStatus(0, 0.0) for number in range(3)}}
    for now in range(100, 110):
        turn(notifier, now, **ready)
    assert heard(notifier, listener, "STATUS") == ["ready: 3 partitions, 0 edits waiting, 0 versions published"]
    notifier.published(released_state(1), (), 0.1)
    notifier.published(tombstone(), (), 0.1)
    for now in range(110, 110 + 3 * int(STATUS_EVERY_SECONDS)):
        turn(notifier, now, buffered_events=now, **ready)
    lines = heard(notifier, listener, "STATUS")
    assert len(lines) == 1 + 3
    assert lines[1] == "ready: 3 partitions, 110 edits waiting, 1 version published"
    turn(notifier, 200, waiting_for=(Stage.INPUT, Stage.STATE))
    assert heard(notifier, listener, "STATUS")[-1] == "waiting for: input, state"
    notifier.close()


def test_a_stop_is_reported_at_once_and_once_with_the_time_it_needs(listener: NotifyListener) -> None:
    notifier = make(listener, shutdown_timeout_seconds=7)
    turn(notifier, 100)
    turn(notifier, 100.1, stopping=True, buffered_events=4)
    turn(notifier, 101, stopping=True, buffered_events=4)
    assert heard(notifier, listener, "STOPPING") == ["1"]
    assert listener.values("EXTEND_TIMEOUT_USEC") == [str(round((7 + STOP_MARGIN_SECONDS) * 1e6))]
    assert listener.wait_for("STOPPING").datagram == listener.wait_for("EXTEND_TIMEOUT_USEC").datagram
    assert listener.values("STATUS")[-1] == "stopping: 4 edits not finished"
    notifier.close()


def test_a_daemon_that_stops_before_its_first_turn_was_never_ready(listener: NotifyListener) -> None:
    notifier = make(listener)
    turn(notifier, 100, stopping=True)
    assert heard(notifier, listener, "STOPPING") == ["1"]
    assert listener.values("READY") == []
    notifier.close()
