"""Reads a topic as a member of a consumer group. Commits offsets when it is asked to, per tenure."""

import math
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import AuthorizationError, KafkaError, LogTruncationError, OffsetOutOfRangeError
from kafka.structs import MemberState

from corlld.errors import ConfigurationError, FatalError, MissingRightError, RetriableError, UnavailableError
from corlld.protocols import PositionStore
from corlld.records import Polled, Tenure
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.client import TopicLookup, TopicView
from corlld.sources.kafka.commits import Commits, with_metadata
from corlld.sources.kafka.connecting import connect
from corlld.sources.kafka.features import answers_understood
from corlld.sources.kafka.first_offsets import FirstOffsets
from corlld.sources.kafka.options import consumer_options
from corlld.sources.kafka.questions import Questions
from corlld.sources.kafka.refusals import ends_before, fatal_error, recreated, without_ids
from corlld.sources.kafka.rights import (
    READING_REFUSED,
    missing_rights,
    reading,
    refuse_missing,
    refused_rights,
    unknown_rights,
)
from corlld.sources.kafka.standing import Standing
from corlld.sources.kafka.tenures import RebalanceListener, Tenures, as_record, keep_joining
from corlld.sources.kafka.topic_identity import TopicIdentity
from corlld.sources.kafka.unpacking import make_consumer

log = structlog.get_logger("corlld.kafka")

CHECK_SECONDS = 5.0  # how often the cluster is asked whether the topic is there, and is still the same
RETRY_SECONDS = 1.0  # ... after a question without an answer
CONSUMER_SECONDS = 5.0  # at least, to connect once more to a cluster that has answered
UNSTABLE_SECONDS = 10.0  # a member that has not been settled in its group for so long is not healthy
CLOSE_SECONDS = (
    10.0  # for the last commit and for leaving: a broker that is away must not hold a stop up; both can be missed
)


class KafkaSource:
    """Implements `corlld.protocols.Source`. Every method is called from one thread.

    A second connection, with a thread of its own, asks about topic and commits: a poll never waits for an answer that
    does not come. A newly assigned partition is parked until such an answer says where it begins.

    Args:
        settings: how to reach the topic, and the group.
        positions: keeps what states call a topic without an id, and where the group began to read; None for a reader
            that keeps no states.
        problem_seconds: how long `start` waits if it is known what is in the way.
    """

    def __init__(
        self, settings: KafkaSettings, positions: PositionStore | None = None, problem_seconds: float = math.inf
    ) -> None:
        self._settings = settings
        self._servers = ", ".join(settings.bootstrap_servers)
        self._lookup = TopicLookup(settings, settings.topic, settings.group_id, problem_seconds=problem_seconds)
        self._questions = Questions(self._lookup.look, min(CHECK_SECONDS, settings.metadata_max_age_seconds))
        self._consumer: KafkaConsumer = None
        self._listener: RebalanceListener
        self._tenures: Tenures
        self._commits: Commits
        self._first_view: TopicView
        self._identity = TopicIdentity(settings.topic, positions)
        self._first_offsets = FirstOffsets(positions)
        self._ends: Mapping[int, int] = {}  # by partition, as last answered
        self._cluster_id = ""
        self._paused: frozenset[Tenure] = frozenset()  # of the live tenures
        self._standing = Standing()
        self._was_allowed = False  # to read and to commit: the broker said so, or it has been done
        self._stable_at = float("inf")  # nothing is expected of the group before the first poll

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def cluster_id(self) -> str:
        return self._cluster_id

    @property
    def topic_has_id(self) -> bool:
        """Return whether its id tells a recreated topic. Without one, only offsets tell. Known after `start`."""
        return self._identity.topic_id is not None

    @property
    def unknown_rights(self) -> str | None:
        """Return the sentence on rights that could not be asked; None if all are there. Known after `start`."""
        return unknown_rights(self._first_view.granted)

    @property
    def exhausted(self) -> bool:
        return False

    @property
    def healthy(self) -> bool:
        return self._standing.good and time.monotonic() - self._stable_at < UNSTABLE_SECONDS

    @property
    def commits_expired(self) -> bool:
        """Return whether the group has read the topic before, and has no commit in it. Known after `start`."""
        return not (self._first_offsets.is_new or self._first_view.committed)

    def has_commits(self) -> bool:
        return bool(self._first_view.committed)

    def positions(self) -> Mapping[Tenure, int]:
        return dict(self._tenures.positions)

    def committed(self) -> Mapping[Tenure, int]:
        return dict(self._tenures.committed)

    def ends(self) -> Mapping[Tenure, int]:
        ends = self._ends
        return {t: ends[p.partition] for p, t in self._tenures.live.items() if p.partition in ends}

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self, timeout_seconds: float) -> None:
        """Reach cluster and topic. The first poll joins the group, not this: loading the model may take minutes.

        Raises MissingRightError if the broker says that reading or committing is not allowed.
        """
        deadline = time.monotonic() + timeout_seconds
        self._first_view = self._lookup.wait_for_topic(timeout_seconds)
        refuse_missing(self._first_view.granted, self._settings)
        self._was_allowed = not self._first_view.granted.untold
        self._cluster_id = self._lookup.cluster_id()
        try:
            self._identity.load(self._first_view.topic_id, has_commits=self.has_commits())
            self._first_offsets.load(self._identity.name, has_commits=self.has_commits())
        except RetriableError as error:
            stored = f"what is stored of topic {self._settings.topic}"
            raise FatalError(f"{stored} can't be loaded: {error}", error.exit_code) from None
        topic, name, start_at = self._settings.topic, self._identity.name, self._settings.start_at
        self._tenures = Tenures(topic, name, start_at, self._first_view, is_new=self._first_offsets.is_new)
        if self.commits_expired:
            log.warning("commits_expired", topic=topic, group=self._settings.group_id)
        left = max(CONSUMER_SECONDS, deadline - time.monotonic())
        self._consumer = connect(make_consumer, consumer_options(self._settings), left)
        self._listener = RebalanceListener(self._consumer)
        self._consumer.subscribe([self._settings.topic], listener=self._listener)
        self._commits = Commits(self._consumer, self._tenures, self._settings.request_timeout_seconds)
        self._standing.reached()

    def close(self, next_offsets: Mapping[Tenure, int], timeout_seconds: float) -> None:
        deadline = time.monotonic() + min(timeout_seconds, CLOSE_SECONDS)
        self._questions.close()
        self._lookup.close()
        if self._consumer is None:
            return
        if offsets := self._tenures.offsets(next_offsets):
            try:
                self._consumer.commit(with_metadata(offsets), timeout_ms=_left_ms(deadline))
            except KafkaError as error:  # the next owner replays, and filters what was applied
                log.warning("last_commit_failed", error=type(error).__name__)
        self._consumer.close(autocommit=False, timeout_ms=_left_ms(deadline))
        self._consumer = None

    # --- reading ------------------------------------------------------------------------------------------------------

    def poll(self, timeout_seconds: float) -> Polled:
        deadline = time.monotonic() + timeout_seconds
        if self._stable_at == float("inf"):
            self._stable_at = time.monotonic()
        batches = self._poll(timeout_seconds)
        self._was_allowed = self._was_allowed or bool(batches)
        if (refusal := self._commits.take_refusal()) is not None:
            self._refuse(refusal)
        ended = self._tenures.apply(self._listener.take_changes())
        if batches is None:
            self._rewind()
        live = dict(self._tenures.live)  # what begins now was not read by this poll
        begun = self._ask(deadline)
        records = tuple(
            as_record(tenure, record)
            for partition, batch in (batches or {}).items()
            if (tenure := live.get(partition)) is not None
            for record in batch
        )
        self._note_positions()
        if self._consumer.group_metadata().state is MemberState.STABLE and not self._tenures.waiting:
            self._stable_at = time.monotonic()
        if not batches and not begun:  # kafka-python comes back at once where it can't reach its coordinator
            _sleep_until(deadline)
        return Polled(records, tuple(ended), tuple(begun))

    def pause_only(self, tenures: Collection[Tenure]) -> None:
        live = self._tenures.live
        wanted = frozenset(tenures).intersection(live.values())
        if wanted != self._paused:
            self._consumer.pause(*(place for place, tenure in live.items() if tenure in wanted - self._paused))
            self._consumer.resume(*(place for place, tenure in live.items() if tenure in self._paused - wanted))
            self._paused = wanted

    def _poll(self, timeout_seconds: float) -> dict[TopicPartition, list[Any]] | None:
        """Poll kafka-python. Return None after an error that will pass; raises FatalError for the others."""
        keep_joining(self._consumer)
        try:
            with answers_understood(self._servers):
                return dict(self._consumer.poll(timeout_ms=round(timeout_seconds * 1000)))
        except KafkaError as error:
            self._away_or_fatal(error)
            return None

    def _note_positions(self) -> None:
        # Noted with each poll: when asked for later, they could be ahead of what was handed over.
        for partition, tenure in self._tenures.live.items():
            try:
                self._tenures.positions[tenure] = self._consumer.position(partition, timeout_ms=0)
            except KafkaError as error:
                self._away_or_fatal(error)

    def _rewind(self) -> None:
        # A poll that failed handed nothing over, but may have moved positions before it failed.
        for partition, tenure in self._tenures.live.items():
            self._consumer.seek(partition, self._tenures.positions[tenure])

    def _away_or_fatal(self, error: KafkaError) -> None:
        if isinstance(error, READING_REFUSED):
            self._refuse(error)
        elif (fatal := fatal_error(error, self._settings)) is not None:
            # A recreated topic shows as lost offsets too. Its id tells which it is, and so what to do.
            if self._is_another_topic():
                raise recreated(self._settings) from None
            if isinstance(error, OffsetOutOfRangeError | LogTruncationError) and not self.topic_has_id:
                raise without_ids(fatal) from None
            raise fatal from None
        else:
            self._away(error)

    def _refuse(self, error: AuthorizationError) -> None:
        """Note that reading or committing is not allowed any more. Raises MissingRightError if it never was.

        error: one of READING_REFUSED.
        """
        needed = reading(self._settings.topic, self._settings.group_id)
        problem = missing_rights(refused_rights(error, needed), self._settings)
        if not self._was_allowed:
            raise MissingRightError(problem) from None
        self._lookup.doubts_rights = True
        self._standing.refused(problem)

    def _is_another_topic(self) -> bool:
        try:
            view = self._questions.ask_now()
        except (KafkaError, UnavailableError, ConfigurationError, TimeoutError):
            return False
        return view is not None and not self._identity.note(view.topic_id)

    def _away(self, error: Exception) -> None:
        self._standing.away(type(error).__name__)
        self._questions.hasten(RETRY_SECONDS)

    def _ask_again(self, error: Exception) -> None:
        self._away(error)
        self._questions.pause(RETRY_SECONDS)

    # --- tenures ------------------------------------------------------------------------------------------------------

    def _ask(self, deadline: float) -> list[Tenure]:
        """Keep asking about topic and commits. Begin the tenures that an answer allows, and return them."""
        begun: list[Tenure] = []
        waiting = self._tenures.waiting
        asked = self._questions.ask_if_due(self._tenures.newest_assignment, waiting=waiting)
        if asked and self._settings.group_instance_id is not None:
            # kafka-python does not report that another member took its place until a commit is refused.
            self.commit(self._tenures.committed)
        # Mostly it waits for milliseconds; without an answer nothing can be read.
        if (answer := self._questions.take_answer(deadline if waiting else None)) is None:
            return begun
        error = answer.exception()
        if isinstance(error, KafkaError | UnavailableError | ConfigurationError):
            self._ask_again(error)
            return begun
        if (view := answer.result()) is None:  # deleted: a topic that comes back is another one
            self._standing.away("the topic does not exist")
            return begun
        if view.granted.missing:
            problem = missing_rights(view.granted.missing, self._settings, hidden=view.granted.hidden)
            self._standing.refused(problem)
            self._questions.pause(CHECK_SECONDS)
            return begun
        self._check_identity(view)
        known, chosen = self._tenures.starts(view, self._questions.serves, self._first_offsets.known)
        try:
            self._identity.save()
            self._first_offsets.note({tp.partition: offset for tp, offset in (known | chosen).items()})
        except RetriableError as error:  # nothing may be applied before
            self._ask_again(error)
            return begun
        self._standing.reached()
        self._ends = {**self._ends, **view.ends}
        return self._begin(known, chosen)

    def _check_identity(self, view: TopicView) -> None:
        """Raise FatalError if the topic is not the one that was read before."""
        if not self._identity.note(view.topic_id):
            raise recreated(self._settings)
        if not self.topic_has_id and any(end < self._ends.get(index, 0) for index, end in view.ends.items()):
            raise ends_before(self._settings)

    def _begin(self, known: dict[TopicPartition, int], chosen: dict[TopicPartition, int]) -> list[Tenure]:
        if chosen:
            try:
                pause = self._commits.commit_starts(chosen)
                self._was_allowed = self._was_allowed or pause is None
            except READING_REFUSED as error:
                self._refuse(error)
                pause = CHECK_SECONDS
            if pause is not None:
                self._questions.pause(pause)
                chosen = {}
        starts = known | chosen
        for partition, offset in starts.items():
            self._consumer.seek(partition, offset)
            self._consumer.resume(partition)
        return self._tenures.begin(starts)

    # --- committing ---------------------------------------------------------------------------------------------------

    def commit(self, next_offsets: Mapping[Tenure, int]) -> bool:
        return self._commits.begin(next_offsets)


def _left_ms(deadline: float) -> int:
    return max(100, round((deadline - time.monotonic()) * 1000))


def _sleep_until(deadline: float) -> None:
    threading.Event().wait(max(0.0, deadline - time.monotonic()))
