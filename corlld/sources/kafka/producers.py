"""Sends dead letters and announcements to Kafka: to topics that exist, acknowledged by all replicas."""

import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import structlog
from kafka import KafkaProducer, errors

from corlld.errors import ConfigurationError, MissingRightError, RetriableError, TooLargeForTopic, UnavailableError
from corlld.records import DeadLetter
from corlld.settings.sections import DeadLetterSettings, KafkaSettings
from corlld.sources.dead_letters import PAYLOAD_DROPPED_HEADER, RECORD_KEY_HEADER, letter_headers, letter_key
from corlld.sources.kafka.client import TopicLookup
from corlld.sources.kafka.connecting import connect
from corlld.sources.kafka.deliveries import GRACE_SECONDS, Deliveries, acknowledge, fail
from corlld.sources.kafka.features import IDEMPOTENCE
from corlld.sources.kafka.options import LOOKUP_SECONDS, delivery_seconds, producer_options
from corlld.sources.kafka.rights import refuse_missing, unknown_rights
from corlld.sources.kafka.topic_limits import LIMITS, acknowledged_by_newer, refuse_unacknowledged, unknown_limits
from corlld.sources.kafka.write_right import WriteRight

log = structlog.get_logger("corlld.kafka")

FORCED_CLOSE_SECONDS = 5.0  # for kafka-python's thread to notice; it takes milliseconds


class TopicProducer:
    """Sends to one topic. `send` may be called from any thread.

    A producer of kafka-python that did not deliver a record in time is given up, and replaced by the next `send`:
    it may never send again (see `deliveries`).

    Args:
        idempotent: a retry neither doubles a record nor is overtaken by a later one. After an error that is not
            retriable, such a producer of kafka-python sends nothing any more: it is replaced too.
        problem_seconds: how long `start` waits if it is known what is in the way.
    """

    def __init__(
        self, settings: KafkaSettings, topic: str, *, idempotent: bool, problem_seconds: float = math.inf
    ) -> None:
        self._problem_seconds = problem_seconds
        self._settings = settings
        self._topic = topic
        self._idempotent = idempotent
        self._right = WriteRight(settings, topic, idempotent=idempotent)
        self._remarks: tuple[str, ...] = ()  # sentences on the topic that are no problem yet
        self.limits: Mapping[str, str] = {}  # those of `LIMITS` that are known; after `start`
        self._lock = threading.Lock()
        self._producer: KafkaProducer = None
        self._broken: KafkaProducer = None
        self._closed = False
        self._deliveries = Deliveries(delivery_seconds(settings) + GRACE_SECONDS, self._give_up)

    def start(self, timeout_seconds: float) -> None:
        """Reach broker and topic.

        A missing right to write is no error, unless the topic is hidden: the right may be given later. See `problem`.

        Raises UnavailableError after `timeout_seconds`, ConfigurationError if the broker refuses access, or the topic
        can never acknowledge.
        """
        needs = IDEMPOTENCE if self._idempotent else ()
        lookup = TopicLookup(
            self._settings,
            self._topic,
            needs=needs,
            rights=self._right.needed,
            problem_seconds=self._problem_seconds,
        )
        try:
            view = lookup.wait_for_topic(timeout_seconds)
            if view.granted.hidden:
                refuse_missing(view.granted, self._settings)
            self.limits = lookup.configs(*LIMITS)
        finally:
            lookup.close()
        refuse_unacknowledged(self._topic, view.replicas, self.limits, capped=lookup.replicas_capped)
        if (newer := acknowledged_by_newer(self._topic, view.replicas, self.limits)) is not None:
            log.warning("too_few_replicas", problem=newer)
        self._right.begin(view.granted)
        remarks = (
            newer,
            unknown_rights(view.granted),
            unknown_limits(self._topic, self.limits, refused=lookup.configs_refused),
        )
        self._remarks = tuple(sentence for sentence in remarks if sentence is not None)
        self._producer = self._connect(timeout_seconds)

    @property
    def problem(self) -> str | None:
        """Return a sentence on why the topic takes nothing; None if nothing is known. No I/O."""
        return self._right.problem

    def describe(self) -> str:
        """Return the topic, and remarks on it, a line each. Raises MissingRightError.

        To be called after `start`.
        """
        self.refuse_problem()
        return "\n".join((f"topic {self._topic}", *self._remarks))

    def refuse_problem(self) -> None:
        """Raise MissingRightError if there is a problem."""
        if (problem := self.problem) is not None:
            raise MissingRightError(problem)

    def send(self, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> "Future[int]":
        """Send a record. The future is done once it is acknowledged, with the number of its partition.

        RetriableError as its exception means: not acknowledged. TooLargeForTopic: the topic will never take it.
        """
        done: Future[int] = Future()
        producer: KafkaProducer = None

        def failed(error: BaseException) -> None:
            if self._idempotent and not isinstance(error, errors.RetriableError):
                self._broken = producer
            if isinstance(error, errors.AuthorizationError):
                self._right.refused(error)
            # Only the error's type is shown: its text may quote the record.
            too_large = isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError)
            kind = TooLargeForTopic if too_large else RetriableError
            fail(done, kind(f"topic {self._topic} did not acknowledge ({type(error).__name__})"))

        def not_acknowledged(error: BaseException) -> None:
            if isinstance(error, errors.KafkaTimeoutError):  # it expired
                self._give_up(producer)
            failed(error)

        def acknowledged(metadata: Any) -> None:
            self._right.acknowledged()
            acknowledge(done, metadata.partition)

        try:
            producer = self._working_producer()
            sent = producer.send(self._topic, key=key, value=value, headers=list(headers))
        except (errors.KafkaError, UnavailableError, ConfigurationError) as error:
            failed(error)
            return done
        self._deliveries.expect(done, producer)
        sent.add_callback(acknowledged)
        sent.add_errback(not_acknowledged)
        return done

    def close(self, timeout_seconds: float) -> None:
        """Wait for records under way. What is not acknowledged within `timeout_seconds` has failed."""
        self._right.close()
        self._closed = True
        if self._lock.acquire(timeout=timeout_seconds):
            producer, self._producer = self._producer, None
            self._lock.release()
            if producer is not None:
                _close(producer, 0 if producer is self._broken else timeout_seconds)
        self._deliveries.close()

    def _give_up(self, producer: KafkaProducer) -> None:
        """Let a producer end that did not deliver. All its records fail, those that it was given later included.

        It only sets flags, so kafka-python's own thread may call it.
        """
        self._broken = producer
        producer._sender.force_close()

    def _connect(self, timeout_seconds: float) -> KafkaProducer:
        options = producer_options(self._settings) | {"enable_idempotence": self._idempotent}
        producer = connect(KafkaProducer, options, timeout_seconds)
        with suppress(errors.KafkaError):  # sending asks again, and tells what is in the way
            producer.partitions_for(self._topic)  # now, so that sending need not wait for the topic's metadata
        return producer

    def _working_producer(self) -> KafkaProducer:
        with self._lock:
            if self._producer is self._broken and not self._closed:
                if self._broken is not None:
                    log.warning("producer_replaced", topic=self._topic)
                    _close(self._broken, 0)
                self._producer = self._broken = None
                self._producer = self._connect(LOOKUP_SECONDS)
            if self._closed:  # `close` did not wait for the connection
                producer, self._producer = self._producer, None
                if producer is not None:
                    _close(producer, 0)
                raise errors.IllegalStateError("closed")
            return self._producer


def _close(producer: KafkaProducer, timeout_seconds: float) -> None:
    try:
        producer.close(timeout_seconds)
    except errors.KafkaError:  # the flush ran out of time
        # This fails what is under way. Another `close` alone would wait for the same flush, and raise again.
        producer._sender.force_close()
        producer.close(FORCED_CLOSE_SECONDS)


class KafkaDeadLetters:
    """Implements `corlld.protocols.DeadLetters`."""

    def __init__(self, kafka: KafkaSettings, settings: DeadLetterSettings, problem_seconds: float = math.inf) -> None:
        self._payload = settings.payload
        # kafka-python waits for a topic's metadata in the thread that sends; the loop must not.
        self._sending = ThreadPoolExecutor(1, "dead-letters")
        # A letter that is too large would break an idempotent producer, and a letter twice does no harm.
        self._producer = TopicProducer(kafka, settings.topic, idempotent=False, problem_seconds=problem_seconds)

    def start(self, timeout_seconds: float) -> None:
        """See `TopicProducer.start`."""
        self._producer.start(timeout_seconds)

    @property
    def problem(self) -> str | None:
        return self._producer.problem

    @property
    def limits(self) -> Mapping[str, str]:
        """Return the topic's limits that are known, by their names."""
        return self._producer.limits

    def describe(self) -> str:
        """See `TopicProducer.describe`."""
        return self._producer.describe()

    def send(self, letter: DeadLetter) -> "Future[None]":
        """Send a letter. If it is too large for the topic, it is sent again without its payload."""
        done: Future[None] = Future()
        self._sending.submit(self._begin, letter, done).add_done_callback(lambda begun: _pass_on_bug(begun, done))
        return done

    def _begin(self, letter: DeadLetter, done: "Future[None]") -> None:
        first: Future[int] | None = None

        def answered(sent: "Future[int]") -> None:
            if isinstance(sent.exception(), TooLargeForTopic) and sent is first and self._payload:
                self._send(letter, payload=False, dropped=b"dropped: too large").add_done_callback(answered)
            else:
                _pass_on(sent, done)

        first = self._send(letter, payload=self._payload)
        first.add_done_callback(answered)

    def close(self, timeout_seconds: float) -> None:
        self._sending.shutdown(wait=False, cancel_futures=True)
        self._producer.close(timeout_seconds)

    def _send(self, letter: DeadLetter, *, payload: bool, dropped: bytes | None = None) -> "Future[int]":
        record = letter.record
        headers = [(name, value.encode()) for name, value in letter_headers(letter).items()]
        if dropped is not None:
            headers.append((PAYLOAD_DROPPED_HEADER, dropped))
        if payload:
            if record.key is not None:
                headers.append((RECORD_KEY_HEADER, record.key))
            headers = [*record.headers, *headers]
        # A letter always has a value: without one it would be a tombstone on a compacted topic.
        value = (record.value or b"") if payload else b""
        return self._producer.send(letter_key(letter).encode(), value, headers)


def _pass_on_bug(begun: "Future[None]", done: "Future[None]") -> None:
    """Pass an exception of the sending thread on, which nobody else would see."""
    if not begun.cancelled() and (bug := begun.exception()) is not None:
        done.set_exception(bug)


def _pass_on(sent: "Future[int]", done: "Future[None]") -> None:
    """Pass on that a record was acknowledged, or why it was not."""
    if (error := sent.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(None)


class KafkaAnnouncements:
    """Implements `corlld.protocols.Announcements`."""

    def __init__(self, kafka: KafkaSettings, topic: str, problem_seconds: float = math.inf) -> None:
        # Idempotent, since the last word on a user must stay the last.
        self._producer = TopicProducer(kafka, topic, idempotent=True, problem_seconds=problem_seconds)

    def start(self, timeout_seconds: float) -> None:
        """See `TopicProducer.start`."""
        self._producer.start(timeout_seconds)

    @property
    def problem(self) -> str | None:
        return self._producer.problem

    def describe(self) -> str:
        return self._producer.describe()

    def send(self, uid: str, value: bytes | None) -> "Future[None]":
        done: Future[None] = Future()
        self._producer.send(uid.encode(), value).add_done_callback(lambda sent: _pass_on(sent, done))
        return done

    def close(self, timeout_seconds: float) -> None:
        self._producer.close(timeout_seconds)
