"""Rate of records decoded, validated and batched, beside that of a bare kafka-python poll loop on the same topic."""

import secrets
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from corlld.bench.daemon_costs import event_line
from corlld.durable import Attempts
from corlld.errors import ConfigurationError, FatalError, UnavailableError
from corlld.events.decoder import EventDecoder
from corlld.events.pseudonyms import Pseudonyms
from corlld.loop.attempts import AttemptJournal
from corlld.loop.batching import Batcher
from corlld.loop.intake import Intake
from corlld.loop.jobs import Jobs
from corlld.loop.offsets import LowWatermarks
from corlld.loop.poison import Poison
from corlld.observer import Observer
from corlld.records import DeadLetter, EditEvent
from corlld.settings.sections import KafkaSettings, Settings
from corlld.sources.kafka.source import KafkaSource

RECORDS = 20_000
USERS = 500
POLL_SECONDS = 0.25
PATIENCE_SECONDS = 60.0


class _NoDeadLetters:
    """Takes no dead letters: every record of the topic is an event."""

    problem = None

    def send(self, letter: DeadLetter) -> Future[None]:
        raise FatalError("a record of the bench is not a valid event")

    def close(self, timeout_seconds: float) -> None: ...


class _NoAttempts:
    """Nothing is tried here: there are no steps."""

    def load_attempts(self, partition: str) -> Attempts | None: ...

    def save_attempts(self, partition: str, attempts: Attempts) -> None: ...


def decode_shares(
    bootstrap: str, events: Sequence[EditEvent], repeats: int, advance: Callable[[int], None], records: int = RECORDS
) -> tuple[float, list[float]]:
    """Return the median rate of corlld's way over that of the bare loop, and the share of each round.

    Makes a topic of its own, and removes it. Raises UnavailableError if the broker can't be reached,
    ConfigurationError for an address that is not host:port.
    """
    settings = _settings(bootstrap)
    try:
        with KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=10_000) as admin:
            admin.create_topics({settings.kafka.topic: {"num_partitions": 1, "replication_factor": 1}})
            try:
                _produce(settings.kafka, events, records)
                bare, own = [], []
                for number in range(1 + repeats):
                    rates = _bare_rate(settings.kafka, records), _own_rate(settings, records)
                    if number:
                        bare.append(rates[0])
                        own.append(rates[1])
                    advance(1)
            finally:
                admin.delete_topics([settings.kafka.topic])
    except KafkaError as error:
        raise UnavailableError(f"--kafka: {bootstrap}: {type(error).__name__}") from None
    shares = [mine / theirs for mine, theirs in zip(own, bare, strict=True)]
    return statistics.median(own) / statistics.median(bare), shares


def _settings(bootstrap: str) -> Settings:
    try:
        kafka = KafkaSettings(bootstrap_servers=(bootstrap,), topic=f"corlld-bench-{uuid.uuid4().hex[:12]}")
    except ValueError:
        raise ConfigurationError(f"--kafka: must be host:port, not {bootstrap!r}") from None
    return Settings(kafka=kafka)


def _produce(settings: KafkaSettings, events: Sequence[EditEvent], records: int) -> None:
    with KafkaProducer(bootstrap_servers=list(settings.bootstrap_servers), linger_ms=20) as producer:
        sent = []
        for number in range(records):
            user = f"user-{number % USERS}"
            line = event_line(events[number % len(events)], str(number), user)
            sent.append(producer.send(settings.topic, line, key=user.encode(), partition=0))
        for record in sent:
            record.get(timeout=PATIENCE_SECONDS)


class _Rate:
    """Records per second after the first poll that brought records. Before it the consumer connects and joins."""

    def __init__(self, records: int) -> None:
        self._records = records
        self._seen = self._first = 0
        self._begun = 0.0
        self._deadline = time.monotonic() + PATIENCE_SECONDS

    def unfinished(self, records: int) -> bool:
        """Count the records of a poll, and return whether more must come. Raises UnavailableError if they are late."""
        self._seen += records
        if records and not self._first:
            self._first, self._begun = self._seen, time.monotonic()
        if time.monotonic() > self._deadline:
            raise UnavailableError(f"--kafka: {self._seen} of {self._records} records came in {PATIENCE_SECONDS:.0f} s")
        return self._seen < self._records

    @property
    def value(self) -> float:
        return (self._seen - self._first) / (time.monotonic() - self._begun)


def _bare_rate(settings: KafkaSettings, records: int) -> float:
    consumer = KafkaConsumer(
        bootstrap_servers=list(settings.bootstrap_servers),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=settings.max_poll_records,
        max_partition_fetch_bytes=settings.max_partition_fetch_bytes,
    )
    try:
        consumer.assign([TopicPartition(settings.topic, 0)])
        rate, brought = _Rate(records), 0
        while rate.unfinished(brought):
            brought = sum(map(len, consumer.poll(timeout_ms=round(POLL_SECONDS * 1000)).values()))
        return rate.value
    finally:
        consumer.close()


def _own_rate(settings: Settings, records: int) -> float:
    """Return the rate of the loop's own way from the poll to micro-batches, which are then dropped."""
    group = settings.kafka.model_copy(update={"group_id": f"{settings.kafka.topic}-{uuid.uuid4().hex[:8]}"})
    source = KafkaSource(group)
    batcher, watermarks, observer = Batcher(settings.batching), LowWatermarks(), Observer()
    jobs = Jobs(settings.operations.retry_max_seconds, time.monotonic, observer)
    decoder = EventDecoder(settings.events, supports_messages=False, key_required=True)
    journal = AttemptJournal(_NoAttempts(), jobs, ThreadPoolExecutor(1), settings.learning.max_crashes)
    poison = Poison(settings.dead_letters, decoder, None, jobs, ThreadPoolExecutor(1), journal)
    names = Pseudonyms(secrets.token_hex(32))
    intake = Intake(decoder, names, _NoDeadLetters(), watermarks, journal, poison, observer, jobs)
    source.start(PATIENCE_SECONDS)
    try:
        rate, brought = _Rate(records), 0
        while rate.unfinished(brought):
            polled = source.poll(POLL_SECONDS)
            for tenure in polled.begun:
                watermarks.begin(tenure)
                poison.begin(tenure, paused=False)
            now = time.monotonic()
            for record in polled.records:
                watermarks.start(record, now)
                if (arrival := intake.admit(record, now)) is not None:
                    batcher.add(arrival)
            for uid in list(batcher.ready(now)):
                batch = batcher.take(uid, settings.batching.max_events)
                for arrival in batch.arrivals:
                    watermarks.finish(arrival.record)
                batcher.release(batch.arrivals)
            brought = len(polled.records)
        return rate.value
    finally:
        source.close({}, PATIENCE_SECONDS)
