"""Dead letters and announcements to Kafka: acknowledged by all replicas, to topics that exist already."""

from collections.abc import Sequence
from concurrent.futures import Future

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from corlld.errors import RetriableError
from corlld.records import DeadLetter
from corlld.settings import DeadLetterSettings, KafkaSettings
from corlld.sources.dead_letters import RECORD_KEY_HEADER, letter_headers, letter_key
from corlld.sources.kafka_client import TopicLookup, connect
from corlld.sources.kafka_options import producer_options

PAYLOAD_DROPPED_HEADER = "corlld.payload"


class TooLargeForTopic(RetriableError):
    """The topic's `max.message.bytes` does not let this record in. Sending the same again is no use."""


class TopicProducer:
    """Sends to one topic. `send` may be called from any thread."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._producer: KafkaProducer = None

    def start(self, timeout_seconds: float) -> None:
        """Raises UnavailableError where broker or topic are not there in time, ConfigurationError for a refusal."""
        lookup = TopicLookup(self._settings, self._topic)
        try:
            lookup.wait_for_topic(timeout_seconds)
        finally:
            lookup.close()
        self._producer = connect(KafkaProducer, producer_options(self._settings), timeout_seconds)
        self._producer.partitions_for(self._topic)  # from now on sending finds the topic's metadata

    def send(self, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> "Future[None]":
        """Done once acknowledged. RetriableError as its exception where it was not."""
        done: Future[None] = Future()

        def failed(error: BaseException) -> None:
            # The error's own text may show the record: its type has to do.
            too_large = isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError)
            kind = TooLargeForTopic if too_large else RetriableError
            done.set_exception(kind(f"topic {self._topic} did not acknowledge ({type(error).__name__})"))

        try:
            sent = self._producer.send(self._topic, key=key, value=value, headers=list(headers))
        except KafkaError as error:
            failed(error)
            return done
        sent.add_callback(lambda _: done.set_result(None))
        sent.add_errback(failed)
        return done

    def close(self, timeout_seconds: float) -> None:
        """Waits for what is under way. What isn't acknowledged by then has failed, and is replayed."""
        if self._producer is None:
            return
        try:
            self._producer.close(timeout_seconds)
        except KafkaError:  # the flush ran out of time: close for good
            self._producer.close(0)
        self._producer = None


class KafkaDeadLetters:
    """Implements `corlld.protocols.DeadLetters`."""

    def __init__(self, kafka: KafkaSettings, settings: DeadLetterSettings) -> None:
        self._payload = settings.payload
        self._producer = TopicProducer(kafka, settings.topic)

    def start(self, timeout_seconds: float) -> None:
        """Raises UnavailableError where broker or topic are not there in time, ConfigurationError for a refusal."""
        self._producer.start(timeout_seconds)

    def send(self, letter: DeadLetter) -> "Future[None]":
        """A letter that is too large for the topic goes without its payload: with it, it would never arrive."""
        if not self._payload:
            return self._send(letter, payload=False)
        done: Future[None] = Future()

        def answered(sent: "Future[None]") -> None:
            error = sent.exception()
            if isinstance(error, TooLargeForTopic) and sent is first:
                self._send(letter, payload=False, dropped=b"dropped: too large").add_done_callback(answered)
            elif error is not None:
                done.set_exception(error)
            else:
                done.set_result(None)

        first = self._send(letter, payload=True)
        first.add_done_callback(answered)
        return done

    def close(self, timeout_seconds: float) -> None:
        self._producer.close(timeout_seconds)

    def _send(self, letter: DeadLetter, *, payload: bool, dropped: bytes | None = None) -> "Future[None]":
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


class KafkaAnnouncements:
    """Implements `corlld.protocols.Announcements`."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._producer = TopicProducer(kafka, topic)

    def start(self, timeout_seconds: float) -> None:
        """Raises UnavailableError where broker or topic are not there in time, ConfigurationError for a refusal."""
        self._producer.start(timeout_seconds)

    def send(self, uid: str, value: bytes | None) -> "Future[None]":
        return self._producer.send(uid.encode(), value)

    def close(self, timeout_seconds: float) -> None:
        self._producer.close(timeout_seconds)
