"""Every setting, declared once: its type, default, limits and meaning.

The settings are a frozen tree. `load` fills it from a TOML file, the environment and credential files. A section
refuses combinations of its values that can never work; `load.check_for_run` checks what only `corlld run` needs.
The sections [learning] and [experiment] are declared in `learning_rule`, [kafka] in `kafka_cluster`, [model] and
[adapter] in `base_model`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from corlld.settings.base_model import AdapterSettings as AdapterSettings  # every section is found here
from corlld.settings.base_model import ModelSettings as ModelSettings
from corlld.settings.between_sections import problems_between_sections
from corlld.settings.fields import (
    MAX_PORT,
    Address,
    ModulePath,
    NonEmpty,
    Positive,
    PositiveSeconds,
    Section,
    TopicName,
    is_to_blame,
)
from corlld.settings.kafka_cluster import KafkaSettings as KafkaSettings
from corlld.settings.learning_rule import ExperimentSettings as ExperimentSettings
from corlld.settings.learning_rule import LearningSettings as LearningSettings
from corlld.settings.paths import SettingPath


class SourceSettings(Section):
    """The source of edit events."""

    kind: Literal["kafka", "jsonl"] = Field("kafka", description="`kafka`, or `jsonl` for a file of JSON lines.")
    path: SettingPath | None = Field(None, description="jsonl: the file to read.")
    follow: bool = Field(
        False,
        description="jsonl: wait for the file to grow, and go on with the file that takes its name (rotation by rename "
        "and create), instead of stopping at its end.",
    )


class EventSettings(Section):
    """Limits and types of valid events."""

    max_record_bytes: Positive = Field(1_000_000, description="A larger record becomes a dead letter (`too_large`).")
    max_text_chars: Positive = Field(
        20_000,
        description="Longest text: proposed, edited, and the context (the prompt, or messages, tools and arguments).",
    )
    tombstones_erase: bool = Field(
        False, description="A record with a user's key, no value and no CloudEvents headers erases that user."
    )
    cloudevents_edit_types: tuple[NonEmpty, ...] = Field(
        ("*.edit",), description="Shell-style patterns of the CloudEvents `type` of edits."
    )
    cloudevents_erase_types: tuple[NonEmpty, ...] = Field(
        ("*.erase",), description="Shell-style patterns of the CloudEvents `type` of erasures, tried first."
    )


class DeadLetterSettings(Section):
    """Dead letters: records that can't be applied and are set aside."""

    topic: TopicName = Field("edits.dead-letters", description="kafka: the dead-letter topic. corlld never creates it.")
    path: SettingPath | None = Field(
        None, description="jsonl: the dead-letter file. Default: `dead-letters.jsonl` in `state.path`."
    )
    payload: bool = Field(True, description="Include the record's key and value. Off: headers and position only.")
    max_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="If a larger share of a partition's recent records is invalid, its reading pauses until its newest "
        "records are good again. A file that is not followed stops the daemon.",
    )
    share_window: Positive = Field(
        1000, description="Number of a partition's recent records for `max_share`, judged from 100 records on."
    )


class IdentitySettings(Section):
    """Pseudonyms: uid = HMAC-SHA256(secret, user_id), 32 hex digits."""

    secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Never change it: every state is named by it. Make it with `openssl rand -hex 32`.",
        json_schema_extra={"credential": "uid_secret"},
    )


class BatchingSettings(Section):
    """Micro-batches: edits gathered per user and trained together."""

    max_events: Positive = Field(8, description="A user's micro-batch is ready when it has this many events ...")
    flush_after_seconds: float = Field(10.0, ge=0, description="... or when its oldest event has waited for this time.")
    max_buffered_events: Positive = Field(10_000, description="Back-pressure: reading pauses at this many events ...")
    max_buffered_chars: Positive = Field(50_000_000, description="... or at this many characters of text.")
    max_users_per_step: Positive = Field(8, description="Largest number of users per call of the learner.")
    max_finished_ahead: Positive = Field(
        50_000,
        description="A partition's reading pauses while so many finished records wait behind its oldest unfinished "
        "one: none of them can be committed.",
    )

    def problems(self) -> Iterator[str]:
        if self.max_events > self.max_buffered_events:
            least, most = self.max_events, self.max_buffered_events
            yield (
                f"max_events: found {least}, allowed: at most batching.max_buffered_events = {most}"
                if is_to_blame(self, "max_events", "max_buffered_events")
                else f"max_buffered_events: found {most}, allowed: at least batching.max_events = {least}"
            )


class GuardSettings(Section):
    """Limits beyond which a step is undone or an edit is rejected."""

    # no-harm (drift 0.1): a smaller limit stops honest users at least as early as hostile users. language-world (grid):
    # it makes no difference.
    max_drift_nats: float = Field(
        1.0, gt=0, description="Largest drift of a step: mean |change of log pi| per tail token of its own pairs."
    )
    every_steps: Positive = Field(1, description="Measure the drift once in so many steps of a user.")
    # real-edits (largest_repetition_rise 0.38: no edit of the archive is rejected), no-harm (pasting_defaults_refused).
    max_repetition_rise: float = Field(
        0.4,
        gt=0,
        le=1,
        description="An edit of ten words or more is rejected as `repetitive` if its share of repeated words (in "
        "windows of 20 words) exceeds the draft's share by more than this. 1: never.",
    )


class StateSettings(Section):
    """Durable states, one per user."""

    path: SettingPath = Field(Path("/var/lib/corlld/state"), description="Folder of the states, on a local filesystem.")
    url: str | None = Field(
        None,
        pattern=r"^s3://[^/]+(/.*)?$",
        json_schema_extra={"allowed": "`s3://bucket/prefix`"},
        description="Object store that replaces the folder, for daemons on several machines (needs the extra `s3`). "
        "Credentials, region and endpoint are read from AWS's environment variables.",
    )
    host_memory_bytes: Positive = Field(
        2_000_000_000, description="Memory for states, stored or not. The least recently used leave it first."
    )
    max_unreadable_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="If the states of a larger share of users can't be read, the daemon stops before it sets one more "
        "aside. Judged over the first 100 users of the store, or as many as can be read in 5 seconds. Fewer than 3 "
        "users never stop it, unless the store has only 2 users, and neither can be read. 1: never.",
    )
    set_aside_after_seconds: float = Field(
        600.0,
        ge=0,
        description="If a single user's state or version can't be read or written for this time, while those of others "
        "can, the user is set aside: the records become dead letters. 0: never; then the user's partition pauses in "
        "the end (`batching.max_finished_ahead`).",
    )
    recent_event_ids: Positive = Field(
        1024, description="Number of event ids remembered per user as they are, to find duplicates."
    )
    older_event_ids: int = Field(
        100_000,
        ge=0,
        description="Number of event ids before those remembered per user, as keyed hashes of 8 bytes. They outlast an "
        "erasure: an edit that was erased is not learnt again, whatever is delivered once more.",
    )


class SnapshotSettings(Section):
    """Snapshots: when and how a user's state is stored. Offsets wait for it: after a crash, later updates are trained
    again.
    """

    every_updates: Positive = Field(
        1, description="A user's state is stored, as the next version, after this many trained micro-batches ..."
    )
    every_seconds: PositiveSeconds = Field(
        30.0, description="... or this long after the first of them; earlier at an erasure, a stop or lack of memory."
    )
    moments: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number format of Adam's moments in a stored state. `bfloat16` makes the state a third smaller, "
        "but a restart continues from rounded moments. States in either format can be read.",
    )

    def problems(self) -> Iterator[str]:
        if "every_updates" not in self.model_fields_set and self.is_changed("every_seconds"):  # who writes both knows
            yield (
                f"every_seconds: found {self.every_seconds:g}, allowed: only with snapshot.every_updates, which is "
                f"{self.every_updates} by default: each update is stored at once"
            )


class PublishingSettings(Section):
    """Publication of adapter versions, in PEFT format."""

    enabled: bool = Field(True, description="Publish adapters. Off: learn without publishing.")
    path: SettingPath = Field(
        Path("/var/lib/corlld/adapters"), description="Folder in which `<uid>/v<NNNNNN>/` are made."
    )
    keep_versions: Positive = Field(3, description="Number of newest versions kept per user.")
    keep_seconds: float = Field(
        3600.0,
        ge=0,
        description="A version stays for at least this long after the next one was published, also if it is no more "
        "among the newest: an engine may still ask for it.",
    )
    announce_topic: TopicName | None = Field(
        None, description="Compacted Kafka topic for announcements of new versions. Default: no announcements."
    )
    module_prefix: ModulePath | None = Field(
        None,
        description="Path of the decoder in the model that engines serve, such as `model.language_model`: published "
        "names of modules begin with it. Default: as in the class that config.json names in `architectures`. A "
        "change holds for the next versions: a version that is out keeps its names.",
    )
    threads: Positive = Field(2, description="Number of threads that write states and adapters.")


class OperationsSettings(Section):
    """Monitoring, logging and time limits of the daemon."""

    http_address: Address | Literal[""] = Field(
        "127.0.0.1:9108",
        description="Address of /metrics, /livez, /readyz and a landing page. They have no password: keep the address "
        "on loopback, or behind a proxy that asks for a password. Port 0: any free port, reported in the log. An "
        "empty text turns the server off (only in the file: an empty environment variable counts as not set).",
    )
    stall_after_seconds: PositiveSeconds = Field(
        300.0,
        description="/livez and /readyz fail, and the watchdog gets no more pings, once for this time the loop has not "
        "turned, or training has made no progress, or a call of the state store or the publisher has not returned.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto`: console if the log goes to a terminal, else json."
    )
    startup_timeout_seconds: PositiveSeconds = Field(
        60.0,
        description="At the start: longest wait for input, dead letters and announcements, all together. Other "
        "commands wait for each of them as long, but for at most 7 s if it is known what is in the way. A bucket "
        "(state.url) has retries of its own.",
    )
    model_load_timeout_seconds: PositiveSeconds = Field(
        1800.0,
        description="Under systemd: longest time to download and load the model. Afterwards the unit's own start "
        "timeout applies.",
    )
    shutdown_timeout_seconds: PositiveSeconds = Field(
        60.0,
        description="Longest time that a stop may take. A process that hangs, and has not ended 12 seconds later, "
        "ends itself with exit code 70.",
    )
    retry_max_seconds: PositiveSeconds = Field(30.0, description="Longest pause before a failed job is tried again.")

    def problems(self) -> Iterator[str]:
        port = self.http_address.rpartition(":")[2]
        if port and int(port) > MAX_PORT:
            yield f"http_address: found port {port}, allowed: at most {MAX_PORT}"


class Settings(Section):
    """All settings, by section."""

    source: SourceSettings = SourceSettings()
    kafka: KafkaSettings = KafkaSettings()
    events: EventSettings = EventSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    identity: IdentitySettings = IdentitySettings()
    batching: BatchingSettings = BatchingSettings()
    model: ModelSettings = ModelSettings()
    adapter: AdapterSettings = AdapterSettings()
    learning: LearningSettings = LearningSettings()
    experiment: ExperimentSettings = ExperimentSettings()
    guard: GuardSettings = GuardSettings()
    state: StateSettings = StateSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    publishing: PublishingSettings = PublishingSettings()
    operations: OperationsSettings = OperationsSettings()

    def problems(self) -> Iterator[str]:
        return problems_between_sections(self)
