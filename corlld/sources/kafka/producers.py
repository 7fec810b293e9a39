"""What goes to Kafka, acknowledged by all replicas and to topics that exist already: dead letters, announcements."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from kafka import KafkaProducer, errors

from corlld.errors import ConfigurationError, RetriableError, TooLargeForTopic, UnavailableError
from corlld.records import DeadLetter
from corlld.settings.sections import DeadLetterSettings, KafkaSettings
from corlld.sources.dead_letters import RECORD_KEY_HEADER, letter_headers, letter_key
from corlld.sources.kafka.client import TopicLookup, connect
from corlld.sources.kafka.options import LOOKUP_SECONDS, producer_options

PAYLOAD_DROPPED_HEADER = "corlld.payload"
FORCED_CLOSE_SECONDS = 5.0  # for kafka-python's thread to notice; it takes milliseconds


class TopicProducer:
    """Sends to one topic. `send` may be called from any thread.

    Args:
        idempotent: a retry can neither double a record nor overtake a later one. Such a producer of kafka-python is of
            no use any more after an error that is not retriable, so it is replaced then.
    """

    def __init__(self, settings: KafkaSettings, topic: str, *, idempotent: bool) -> None:
        self._settings = settings
        self._topic = topic
        self._idempotent = idempotent
        self._lock = threading.Lock()
        self._producer: KafkaProducer = None
        self._broken: KafkaProducer = None
        self._closed = False

    def start(self, timeout_seconds: float) -> None:
        """Raises UnavailableError where broker or topic are not there in time, ConfigurationError for a refusal."""
        lookup = TopicLookup(self._settings, self._topic)
        try:
            lookup.wait_for_topic(timeout_seconds)
        finally:
            lookup.close()
        self._producer = self._connect(timeout_seconds)

    def send(self, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> "Future[int]":
        """Done once acknowledged, with the partition that took it. RetriableError as its exception where it was not."""
        done: Future[int] = Future()
        producer: KafkaProducer = None

        def failed(error: BaseException) -> None:
            if self._idempotent and not isinstance(error, errors.RetriableError):
                self._broken = producer
            # The error's own text may show the record: its type has to do.
            too_large = isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError)
            kind = TooLargeForTopic if too_large else RetriableError
            done.set_exception(kind(f"topic {self._topic} did not acknowledge ({type(error).__name__})"))

        try:
            producer = self._working_producer()
            sent = producer.send(self._topic, key=key, value=value, headers=list(headers))
        except (errors.KafkaError, UnavailableError, ConfigurationError) as error:
            failed(error)
            return done
        sent.add_callback(lambda metadata: done.set_result(metadata.partition))
        sent.add_errback(failed)
        return done

    def close(self, timeout_seconds: float) -> None:
        """Waits for what is under way. What isn't acknowledged by then has failed, and is replayed."""
        with self._lock:
            self._closed = True
            producer, self._producer = self._producer, None
        if producer is not None:
            _close(producer, timeout_seconds)

    def _connect(self, timeout_seconds: float) -> KafkaProducer:
        options = producer_options(self._settings) | {"enable_idempotence": self._idempotent}
        producer = connect(KafkaProducer, options, timeout_seconds)
        producer.partitions_for(self._topic)  # from now on sending finds the topic's metadata
        return producer

    def _working_producer(self) -> KafkaProducer:
        with self._lock:
            if self._closed:
                raise errors.IllegalStateError("closed")
            if self._producer is self._broken:
                if self._broken is not None:
                    _close(self._broken, 0)
                self._producer = self._broken = None
                self._producer = self._connect(LOOKUP_SECONDS)
            return self._producer


def _close(producer: KafkaProducer, timeout_seconds: float) -> None:
    try:
        producer.close(timeout_seconds)
    except errors.KafkaError:  # the flush ran out of time
        # Fails what is under way; another `close` alone would wait for the same flush, and raise again.
        producer._sender.force_close()
        producer.close(FORCED_CLOSE_SECONDS)


class KafkaDeadLetters:
    """Implements `corlld.protocols.DeadLetters`."""

    def __init__(self, kafka: KafkaSettings, settings: DeadLetterSettings) -> None:
        self._payload = settings.payload
        # kafka-python waits for a topic's metadata in the thread that sends; the loop must not.
        self._sending = ThreadPoolExecutor(1, "dead-letters")
        # A letter that is too large would break an idempotent producer, and a letter twice does no harm.
        self._producer = TopicProducer(kafka, settings.topic, idempotent=False)

    def start(self, timeout_seconds: float) -> None:
        """Raises UnavailableError where broker or topic are not there in time, ConfigurationError for a refusal."""
        self._producer.start(timeout_seconds)

    def send(self, letter: DeadLetter) -> "Future[None]":
        """A letter that is too large for the topic goes without its payload: with it, it would never arrive."""
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
        # No value would be a tombstone on a compacted topic: a letter has always one.
        value = (record.value or b"") if payload else b""
        return self._producer.send(letter_key(letter).encode(), value, headers)


def _pass_on_bug(begun: "Future[None]", done: "Future[None]") -> None:
    """What a thread raised would be lost in it."""
    if not begun.cancelled() and (bug := begun.exception()) is not None:
        done.set_exception(bug)


def _pass_on(sent: "Future[int]", done: "Future[None]") -> None:
    """That it was acknowledged, or why not; where does not matter."""
    if (error := sent.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(None)


class KafkaAnnouncements:
    """Implements `corlld.protocols.Announcements`."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._producer = TopicProducer(kafka, topic, idempotent=True)  # the last word on a user must stay the last

    def start(self, timeout_seconds: float) -> None:
        """Raises UnavailableError where broker or topic are not there in time, ConfigurationError for a refusal."""
        self._producer.start(timeout_seconds)

    def send(self, uid: str, value: bytes | None) -> "Future[None]":
        done: Future[None] = Future()
        self._producer.send(uid.encode(), value).add_done_callback(lambda sent: _pass_on(sent, done))
        return done

    def close(self, timeout_seconds: float) -> None:
        self._producer.close(timeout_seconds)
