"""Puts the parts together. Only this module knows which implementation stands behind which protocol."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from corlld.durable import ModelInfo, StoreIdentity
from corlld.errors import ConfigurationError
from corlld.events.decoder import EventDecoder
from corlld.events.pseudonyms import Pseudonyms
from corlld.learning.model.files import check_model_name
from corlld.learning.passages import check_passages
from corlld.learning.start_config import check_start
from corlld.loop.daemon import Daemon
from corlld.loop.poison import NewestRecords
from corlld.observer import Observer
from corlld.protocols import (
    Announcements,
    AttemptStore,
    DeadLetters,
    Input,
    PositionStore,
    Publisher,
    Source,
)
from corlld.publishing.folder import FolderTarget
from corlld.publishing.target import Target
from corlld.records import Record, Stage
from corlld.settings.load import check_for_run
from corlld.settings.sections import Settings
from corlld.sources.jsonl.file_input import JsonlInput
from corlld.sources.kafka.topic_input import KafkaInput
from corlld.state.folder_attempts import FolderAttempts
from corlld.state.store import LocalFolderStore
from corlld.state.store_identity import refuse_differing

if TYPE_CHECKING:
    from corlld.learning.model.resident import ResidentModel
    from corlld.sources.kafka.producers import TopicProducer
    from corlld.state.object_store import ObjectStore

    AnyStore = LocalFolderStore | ObjectStore

log = structlog.get_logger("corlld.start")

CLOSE_SECONDS = 5.0  # per part, after a failed start
PROBE_SECONDS = 5.0  # to look at a partition's newest records while its reading is paused

INPUTS: Mapping[str, Callable[[Settings, float], Input]] = {  # by `source.kind`
    KafkaInput.kind: KafkaInput,
    JsonlInput.kind: JsonlInput,
}


def pseudonyms(settings: Settings) -> Pseudonyms:
    """Return what makes uids of user ids, under the secret of the settings.

    Raises ConfigurationError if there is no secret.
    """
    if settings.identity.secret is None:
        raise ConfigurationError(
            "identity.secret is not set: put at least 32 characters into the credential file `uid_secret` or into "
            "CORLLD_IDENTITY__SECRET; `openssl rand -hex 32` makes one"
        )
    return Pseudonyms(settings.identity.secret.get_secret_value())


def build_folder_store(settings: Settings, path: Path) -> LocalFolderStore:
    """Return a state store in another folder than the settings name, not opened yet."""
    return LocalFolderStore(path, settings.snapshot.moments)


def build_store(settings: Settings) -> "AnyStore":
    """Return the state store that the settings name, not opened yet.

    Raises ConfigurationError if its package is not installed, or its URL can't be used.
    """
    if settings.state.url is None:
        return LocalFolderStore(settings.state.path, settings.snapshot.moments)
    try:
        from corlld.state.object_store import ObjectStore
    except ImportError:
        raise ConfigurationError("state.url needs the extra `s3`: pip install 'corlld[s3]'") from None
    return ObjectStore(settings.state.url, moments=settings.snapshot.moments)


def build_attempts(settings: Settings) -> AttemptStore:
    """Return where attempts are kept: beside the states. To be called once the state store is opened."""
    if settings.state.url is None:
        return FolderAttempts(settings.state.path)
    from corlld.state.object_attempts import ObjectAttempts

    return ObjectAttempts(settings.state.url)


def build_target(settings: Settings) -> Target:
    """Build the publishing target that the settings name. It is not opened yet."""
    return FolderTarget(settings.publishing.path)


def no_store_yet(settings: Settings) -> str:
    """Return the sentence for a store that no run has made yet."""
    return f"none yet in {settings.state.url or settings.state.path}; `corlld run` makes it"


def build_input(settings: Settings, problem_seconds: float = math.inf) -> Input:
    """Return the input that the settings name. Nothing is reached yet.

    problem_seconds: how long it waits for a broker if it is known what is in the way.
    """
    return INPUTS[settings.source.kind](settings, problem_seconds)


def build_announcements(
    settings: Settings, timeout_seconds: float, problem_seconds: float = math.inf
) -> Announcements | None:
    """Return the topic of newest versions, reached; None if nothing is to be announced.

    problem_seconds: see `build_input`.

    Raises UnavailableError after `timeout_seconds`, ConfigurationError if waiting can't help.
    """
    if settings.publishing.announce_topic is None or not settings.publishing.enabled:
        return None
    from corlld.sources.kafka.producers import KafkaAnnouncements

    announcements = KafkaAnnouncements(settings.kafka, settings.publishing.announce_topic, problem_seconds)
    announcements.start(timeout_seconds)
    return announcements


def build_event_producer(
    settings: Settings, timeout_seconds: float, problem_seconds: float = math.inf
) -> "TopicProducer":
    """Return a producer for the topic of edit events, reached. `corlld send` needs no settings but those of `kafka`.

    problem_seconds: see `build_input`.

    Raises UnavailableError after `timeout_seconds`, ConfigurationError if waiting can't help.
    """
    from corlld.sources.kafka.producers import TopicProducer

    if not settings.kafka.bootstrap_servers:
        raise ConfigurationError("kafka.bootstrap_servers: not set, needed: `host:port` of one or more brokers")
    kafka = settings.kafka
    # Idempotent, so that retries keep a user's order.
    producer = TopicProducer(kafka, kafka.topic, idempotent=True, problem_seconds=problem_seconds)
    producer.start(timeout_seconds)
    try:
        producer.refuse_problem()
    except ConfigurationError:
        producer.close(0)
        raise
    return producer


def store_identity(
    names: Pseudonyms, the_input: Input, source: Source, model: ModelInfo, start_digest: str | None
) -> StoreIdentity:
    """Return what `store.json` must say so that a daemon of these parts may use the store. `source` was started.

    start_digest: of the adapter that new users begin from, if any.
    """
    return StoreIdentity(
        secret_fingerprint=names.fingerprint,
        cluster_id=source.cluster_id,
        group=the_input.group,
        base_model=model.name,
        base_revision=model.revision,
        adapter_fingerprint=model.fingerprint,
        start_adapter=start_digest,
    )


def refuse_wrong_settings(settings: Settings) -> None:
    """Refuse what is known to be wrong before anything is reached, opened or served.

    Raises ConfigurationError for settings that lack something or do not fit, and for files, certificates and packages
    that they name and that can't be used.
    """
    the_input = build_input(settings)
    if problems := check_for_run(settings, the_input.problems()):
        raise ConfigurationError("\n".join(problems))
    check_passages(settings.learning)
    check_model_name(settings.model)
    check_start(settings.adapter)
    the_input.source(build_store(settings))  # both are only built: that needs certificates and packages


def build_daemon(settings: Settings, observer: Observer | None = None) -> Daemon:
    """Build a daemon that is ready to run: input reached, model resident, store opened.

    Each stage is reported to `observer`. If a step fails, everything that was opened before it is closed.

    Raises FatalError with a sentence on what is wrong, before any record is read or any state is written.
    """
    refuse_wrong_settings(settings)
    with ExitStack() as opened:  # closed again if a later step fails
        daemon = _build(settings, build_input(settings), observer or Observer(), opened)
        opened.pop_all()
    return daemon


def _build(settings: Settings, the_input: Input, observer: Observer, opened: ExitStack) -> Daemon:
    deadline = time.monotonic() + settings.operations.startup_timeout_seconds
    observer.starting(Stage.INPUT)
    names = pseudonyms(settings)
    store = build_store(settings)
    source, dead_letters, announcements = _reach(settings, the_input, store, deadline, opened)
    refuse_store_of_others(settings, store, names, the_input, source)
    observer.starting(Stage.MODEL)
    # Imported here, as torch and transformers take seconds: what can be wrong without them has been found by now.
    from corlld.learning.loaded_learner import load_learner

    resident, learner = load_learner(settings, observer.model_loaded)
    observer.new_users_begin_from(learner.start_digest)
    observer.starting(Stage.STATE)
    identity = store_identity(names, the_input, source, resident.info, learner.start_digest)
    store.open(identity, must_exist=source.has_commits())
    return Daemon(
        settings,
        source=source,
        decoder=EventDecoder(
            settings.events,
            supports_messages=resident.info.supports_messages,
            key_required=the_input.has_keys,
        ),
        dead_letters=dead_letters,
        pseudonyms=names,
        learner=learner,
        store=store,
        attempts=build_attempts(settings),
        publisher=_open_publisher(settings, resident, store, announcements),
        newest_records=_newest_records(the_input) if the_input.grows else None,
        observer=observer,
    )


def refuse_store_of_others(
    settings: Settings, store: "AnyStore", names: Pseudonyms, the_input: Input, source: Source | None
) -> None:
    """Compare the store with what is known before the model is loaded, which may take minutes. `open` compares all.

    source: None if it was not reached. Then its cluster is not compared.

    Raises ConfigurationError if the store belongs to another secret, cluster or group.
    """
    if store.secret_fingerprint() is None or (owner := store.identity()) is None:
        return
    known = {"secret_fingerprint": names.fingerprint, "group": the_input.group}
    if source is not None:
        known["cluster_id"] = source.cluster_id
    refuse_differing(asdict(owner), known, where=settings.state.url or str(settings.state.path))


def _newest_records(the_input: Input) -> NewestRecords:
    def newest(partition: int, limit: int) -> list[Record]:
        return list(the_input.newest_records(limit, PROBE_SECONDS, partition))

    return newest


def _reach(
    settings: Settings, the_input: Input, positions: PositionStore, deadline: float, opened: ExitStack
) -> tuple[Source, DeadLetters, Announcements | None]:
    """Reach input, dead letters and announcements, all before `deadline` (monotonic). `opened` closes them."""

    def left() -> float:
        return max(0.1, deadline - time.monotonic())

    source = the_input.source(positions)
    opened.callback(source.close, {}, CLOSE_SECONDS)
    source.start(left())
    dead_letters = the_input.dead_letters(left())
    opened.callback(dead_letters.close, CLOSE_SECONDS)
    announcements = build_announcements(settings, left())
    if announcements is not None:
        opened.callback(announcements.close, CLOSE_SECONDS)
    for part in (dead_letters, announcements):
        if part is not None and part.problem is not None:  # it may be given later
            log.warning("right_missing", problem=part.problem)
    log.info("input_reached", kind=the_input.kind)
    return source, dead_letters, announcements


def _open_publisher(
    settings: Settings,
    resident: "ResidentModel",
    store: "LocalFolderStore | ObjectStore",
    announcements: Announcements | None,
) -> Publisher:
    from corlld.publishing.announcer import Announcer
    from corlld.publishing.publisher import AdapterPublisher

    target = build_target(settings)
    if settings.publishing.enabled:
        target.open()
    announcer = None
    if announcements is not None:
        announcer = Announcer(announcements, store.head, target, store.outbox, settings.operations.retry_max_seconds)
    return AdapterPublisher(
        target,
        resident.layout,
        resident.info,
        settings.publishing.keep_versions,
        settings.publishing.keep_seconds,
        announcer,
        head=store.head,
    )
