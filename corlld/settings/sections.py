"""Every setting, declared once: type, default, limits and the sentence that explains it.

A frozen tree; `settings_file` fills it from a TOML file, the environment and credential files. Combinations that can
never work are refused here, section by section; what only `corlld run` needs is `settings_file.check_for_run`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

Positive = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
MAX_PORT = 65_535
NonEmpty = Annotated[str, Field(min_length=1)]
Address = Annotated[
    str, Field(pattern=r"^([^\s/:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$", json_schema_extra={"allowed": "`host:port`"})
]
TopicName = Annotated[
    str,
    Field(
        pattern=r"^[a-zA-Z0-9._-]{1,249}$",
        json_schema_extra={"allowed": "at most 249 letters, digits, dots, underscores and hyphens"},
    ),
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def problems(self) -> Iterator[str]:
        """Combinations of values that can't work, each as `key: what was found, and what is allowed`."""
        yield from ()

    @model_validator(mode="after")
    def _refuse_problems(self) -> Self:
        if problems := list(self.problems()):
            raise ValueError("\n".join(problems))
        return self


class SourceSettings(Section):
    """Where edit events come from."""

    kind: Literal["kafka", "jsonl"] = Field("kafka", description="`kafka`, or `jsonl` for a file of events.")
    path: Path | None = Field(None, description="jsonl: the file to read.")
    follow: bool = Field(False, description="jsonl: wait for the file to grow, instead of stopping at its end.")


class KafkaSettings(Section):
    """The event bus. Names and meanings are kafka-python's where they exist there."""

    bootstrap_servers: tuple[Address, ...] = Field((), description="`host:port` of one or more brokers.")
    topic: TopicName = Field("edits", description="The topic of edit events. Never created by corlld.")
    group_id: NonEmpty = Field("corlld", description="The consumer group. A state store belongs to one group.")
    group_instance_id: TopicName | None = Field(
        None, description="Static membership: a name unique to this daemon, so that a restart moves no partition."
    )
    client_id: NonEmpty = Field("corlld", description="Shown in the broker's logs and quotas.")
    start_at: Literal["earliest", "latest"] = Field(
        "earliest", description="Where a new group starts. Later additions always start at their beginning."
    )
    assignor: Literal["cooperative-sticky", "range", "roundrobin", "sticky"] = Field(
        "cooperative-sticky", description="How the group shares out partitions."
    )
    session_timeout_seconds: PositiveSeconds = Field(45.0, description="A member silent for so long is dropped.")
    heartbeat_interval_seconds: PositiveSeconds = Field(3.0, description="At most a third of the session timeout.")
    max_poll_interval_seconds: PositiveSeconds = Field(300.0, description="A loop that polls less often is dropped.")
    request_timeout_seconds: float = Field(
        30.0, gt=0.5, lt=540, description="An unanswered request fails after so long."
    )
    max_poll_records: Positive = Field(500, description="Records handed over by one poll.")
    max_partition_fetch_bytes: Positive = Field(1_048_576, description="Bytes fetched from a partition at a time.")
    metadata_max_age_seconds: PositiveSeconds = Field(60.0, description="How often topic ids are checked again.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="TLS and authentication."
    )
    ssl_cafile: Path | None = Field(None, description="CA certificates (PEM). None: the system's.")
    ssl_certfile: Path | None = Field(None, description="Client certificate (PEM).")
    ssl_keyfile: Path | None = Field(None, description="Client key (PEM).")
    ssl_crlfile: Path | None = Field(None, description="Revocation list (PEM).")
    ssl_password: SecretStr | None = Field(
        None, description="Password of the client key.", json_schema_extra={"credential": "kafka_ssl_password"}
    )
    ssl_ciphers: str | None = Field(None, description="OpenSSL cipher list.")
    ssl_check_hostname: bool = Field(True, description="Turn off for tests only.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "AWS_MSK_IAM"] | None = Field(
        None,
        description="Needed for SASL_PLAINTEXT and SASL_SSL. GSSAPI needs the package `gssapi`; AWS_MSK_IAM needs "
        "`botocore`, and takes its credentials from AWS's own environment.",
    )
    sasl_plain_username: str | None = Field(None, description="User of PLAIN and SCRAM.")
    sasl_plain_password: SecretStr | None = Field(
        None, description="Password of PLAIN and SCRAM.", json_schema_extra={"credential": "kafka_sasl_password"}
    )
    sasl_kerberos_name: str | None = Field(None, description="GSSAPI: principal, instead of service and domain.")
    sasl_kerberos_service_name: NonEmpty = Field("kafka", description="GSSAPI: service name.")
    sasl_kerberos_domain_name: str | None = Field(None, description="GSSAPI: domain, where it isn't the host.")

    def problems(self) -> Iterator[str]:
        for broker in self.bootstrap_servers:
            if not 0 < int(broker.rpartition(":")[2]) <= MAX_PORT:
                yield f"bootstrap_servers: found {broker!r}, allowed: a port of 1 to {MAX_PORT}"
        if self.heartbeat_interval_seconds > self.session_timeout_seconds / 3:
            yield (
                f"heartbeat_interval_seconds: found {self.heartbeat_interval_seconds:g}, allowed: at most a third of "
                f"kafka.session_timeout_seconds = {self.session_timeout_seconds:g}"
            )
        yield from self._tls_problems()
        yield from self._sasl_problems()

    def _tls_problems(self) -> Iterator[str]:
        tls = self.security_protocol.endswith("SSL")
        for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile", "ssl_password", "ssl_ciphers"):
            if not tls and getattr(self, key) is not None:
                yield f"{key}: set, allowed: only with kafka.security_protocol SSL or SASL_SSL"
        for key in ("ssl_keyfile", "ssl_password"):
            if tls and getattr(self, key) is not None and self.ssl_certfile is None:
                yield f"{key}: set, allowed: only together with kafka.ssl_certfile"

    def _sasl_problems(self) -> Iterator[str]:
        mechanism = self.sasl_mechanism
        credentials = {"sasl_plain_username": self.sasl_plain_username, "sasl_plain_password": self.sasl_plain_password}
        if not self.security_protocol.startswith("SASL"):
            for key, value in {"sasl_mechanism": mechanism, **credentials}.items():
                if value is not None:
                    yield f"{key}: set, allowed: only with kafka.security_protocol SASL_PLAINTEXT or SASL_SSL"
        elif mechanism is None:
            yield f"sasl_mechanism: not set, needed for kafka.security_protocol {self.security_protocol}"
        elif mechanism == "PLAIN" or mechanism.startswith("SCRAM"):
            for key, value in credentials.items():
                if value is None:
                    yield f"{key}: not set, needed for kafka.sasl_mechanism {mechanism}"
        elif mechanism == "AWS_MSK_IAM" and self.security_protocol != "SASL_SSL":
            yield "sasl_mechanism: found AWS_MSK_IAM, allowed: only with kafka.security_protocol SASL_SSL"


class EventSettings(Section):
    """What counts as a valid event."""

    max_record_bytes: Positive = Field(1_000_000, description="A larger record is set aside as `too_large`.")
    max_text_chars: Positive = Field(20_000, description="Limit of each text: prompt or messages, proposed, edited.")
    tombstones_erase: bool = Field(False, description="A record with a user's key and no value erases that user.")
    cloudevents_edit_types: tuple[NonEmpty, ...] = Field(
        ("*.edit",), description="CloudEvents `type` patterns (shell-style) of edits."
    )
    cloudevents_erase_types: tuple[NonEmpty, ...] = Field(
        ("*.erase",), description="CloudEvents `type` patterns (shell-style) of erasures."
    )


class DeadLetterSettings(Section):
    """Where records that can't be applied are set aside."""

    topic: TopicName = Field("edits.dead-letters", description="kafka: the dead-letter topic. Never created by corlld.")
    path: Path | None = Field(None, description="jsonl: the dead-letter file. Default: beside the state store.")
    payload: bool = Field(True, description="Keep the record's own key and value. Off: headers and position only.")
    max_share: float = Field(
        0.5, gt=0, le=1, description="A larger share of dead letters among recent records stops the daemon."
    )
    share_window: Positive = Field(
        1000, description="How many recent records the share is taken over, once there are 100."
    )


class IdentitySettings(Section):
    """Pseudonyms: uid = HMAC-SHA256(secret, user_id), 32 hex digits."""

    secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Never to be changed: it names every state. Make one with `openssl rand -hex 32`.",
        json_schema_extra={"credential": "uid_secret"},
    )


class BatchingSettings(Section):
    """How edits are gathered into per-user micro-batches."""

    max_events: Positive = Field(8, description="A user's micro-batch is ready at so many events.")
    flush_after_seconds: float = Field(10.0, ge=0, description="... or when its oldest event waited so long.")
    max_buffered_events: Positive = Field(10_000, description="Back-pressure: reading pauses at so many events.")
    max_buffered_chars: Positive = Field(50_000_000, description="Back-pressure: or at so many characters of text.")
    max_users_per_step: Positive = Field(8, description="Users handed to the learner in one call.")

    def problems(self) -> Iterator[str]:
        if self.max_events > self.max_buffered_events:
            yield (
                f"max_events: found {self.max_events}, allowed: at most batching.max_buffered_events = "
                f"{self.max_buffered_events}"
            )


class ModelSettings(Section):
    """The one resident base model."""

    name: NonEmpty | None = Field(
        None,
        description="A local folder, a hub id, a .gguf file, or `demo` (gemma3-270m, from the extra `demo`).",
    )
    revision: str | None = Field(None, description="Hub revision: a commit, tag or branch.")
    served_name: NonEmpty | None = Field(
        None, description="`base_model_name_or_path` in published adapters, exactly as served. Default: `name`."
    )
    device: NonEmpty = Field(
        "auto", description="`auto` (cuda where there is one, else cpu), `cpu`, `cuda`, `cuda:1` ..."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="`auto`: bfloat16 on cuda, float32 on the cpu."
    )
    cache_folder: Path | None = Field(
        None, description="Where converted GGUF models are kept. Default: $CACHE_DIRECTORY, else the user's cache."
    )
    threads: int = Field(0, ge=0, description="CPU threads of torch. 0: torch's own choice.")
    activation_checkpointing: bool = Field(
        False, description="Compute layers again in the backward pass: a third more work for a fraction of the memory."
    )


class AdapterSettings(Section):
    """Shape of every user's LoRA adapter. A state store belongs to one shape."""

    r: Positive = Field(8, description="Rank.")
    lora_alpha: Positive = Field(16, description="Scale: the update is multiplied by lora_alpha / r.")
    target_modules: Literal["all-linear"] | Annotated[tuple[NonEmpty, ...], Field(min_length=1)] = Field(
        "all-linear", description="`all-linear` (all but the output head), or names of modules."
    )
    device_slots: Positive = Field(
        32, description="Users whose tensors stay on the device; at most so many are trained together, on a CPU too."
    )


class LearningSettings(Section):
    """The CoRLL rule. corlld is a reimplementation from the paper's abstract: these defaults are our choices."""

    # The studies that chose a default are named above it; their figures are tests/evidence/STUDY/summary.json.
    # tastes (cell beta 0.01), language-world (grid): no other value is better at both effort and soundness.
    beta: float = Field(0.1, gt=0, description="Strength of the KL anchor: loss = -log sigma(beta * margin).")
    # tastes: with .05 gemma3-270m's adapters hardly learn. language-world: no gain under noise of .2.
    epsilon: float = Field(0.0, ge=0, lt=0.5, description="Believed rate of edits that are not improvements.")
    # language-world: `previous` is level on own drafts, and goes far from the base model on others' (7.4 nats).
    reference: Literal["base", "previous"] = Field(
        "base", description="`base`: adapter off. `previous`: the adapter as the micro-batch began."
    )
    # language-world: better on drafts of the base model, worse on own ones.
    anchor: float = Field(0.0, ge=0, description="Lambda: weight of relu(drop of log pi(edited tail)).")
    # language-world (CoRLL + SFT): better on drafts of the base model, level on own ones. tastes (cell): a bit better.
    imitation_weight: float = Field(
        0.0,
        ge=0,
        description="i: weight of -log pi(edited tail): each edit is imitated besides, which suits careful ones.",
    )
    # theory (plateaus under unscaled noise), tastes (cell acceptance_weight 0).
    acceptance_weight: float = Field(
        0.1,
        ge=0,
        description="c: weight of log pi(text) of accepted drafts. It keeps a learner sound whose drafts are good "
        "already; 0 where users accept drafts that they have not read.",
    )
    # no-harm: without it noise ruins plain text; choice.csv there: .1 protects no better, and learns less.
    rehearsal_weight: float = Field(
        0.03,
        ge=0,
        description="r: weight of relu(drop of log pi(a passage of plain text) below the base model's), one passage a "
        "step: keeps an adapter from forgetting such text, whoever it learns from. 0: none.",
    )
    rehearsal_path: Path | None = Field(
        None,
        description="The passages, in the language that users write in: a text file with empty lines between them. "
        "None: sixteen in English that come with corlld.",
    )
    # tastes (tuned: 1e-3), no-harm (choice.csv: 2e-4 is slower), real-edits (1e-4).
    lr: float = Field(5e-4, gt=0, description="Learning rate of a step of `pairs_per_step` pairs.")
    # language-world (grid): no other value is better.
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's beta1.")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's beta2.")
    adam_eps: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    max_gradient_norm: float = Field(1.0, gt=0, description="Gradient norm, clipped per user.")
    pairs_per_step: Positive = Field(4, description="Pairs in one optimizer step; lr scales with fewer.")
    # language-world (grid): two are no better on own drafts, and perhaps far worse on others'.
    steps_per_batch: Positive = Field(1, description="Passes over a micro-batch.")
    max_response_tokens: Positive = Field(1024, description="A longer response is rejected as `too_long`.")
    max_context_tokens: Positive = Field(1024, description="A longer context is cut at its left.")
    max_row_tokens: Positive | Literal["auto"] = Field(
        "auto",
        description="Tokens of the pairs, of several users, that share a forward and a backward pass. `auto`: on a CPU "
        "896 in float32 and 1792 in bfloat16, on cuda 4096 and 8192 (not measured).",
    )

    def problems(self) -> Iterator[str]:
        if self.rehearsal_path is not None and not self.rehearsal_weight:
            yield "rehearsal_path: set, allowed: only with learning.rehearsal_weight > 0"


class GuardSettings(Section):
    """When a step is undone, and which edits are not learnt at all."""

    # language-world (grid), no-harm (drift 0.1): a smaller bound stops honest users no later than hostile ones.
    max_drift_nats: float = Field(
        1.0, gt=0, description="Largest mean |change of log pi| per tail token of a step's own pairs."
    )
    every_steps: Positive = Field(1, description="Measure drift every so many steps of a user.")
    # real-edits (largest_repetition_rise, .38: none of the archive's is refused), no-harm (pasting_defaults_refused).
    max_repetition_rise: float = Field(
        0.4,
        gt=0,
        le=1,
        description="An edit of ten words or more is rejected as `repetitive` where its share of repeated words (in "
        "windows of 20) is above the draft's by more than this. 1: never.",
    )


class StateSettings(Section):
    """Durable per-user states."""

    path: Path = Field(Path("/var/lib/corlld/state"), description="Folder on a local filesystem.")
    url: str | None = Field(
        None,
        pattern=r"^s3://[^/]+(/.*)?$",
        json_schema_extra={"allowed": "`s3://bucket/prefix`"},
        description="`s3://bucket/prefix`: an object store in place of the folder (extra `s3`), for daemons on several "
        "machines. Credentials, region and endpoint come from the environment, under AWS's names.",
    )
    host_memory_bytes: Positive = Field(
        2_000_000_000, description="States kept in host memory, stored or not yet; least recently used out."
    )
    recent_event_ids: Positive = Field(1024, description="Event ids remembered per user, against duplicates.")


class SnapshotSettings(Section):
    """When, and how, a user's state is stored. Offsets wait for it; a crash replays what was trained since."""

    every_updates: Positive = Field(
        1, description="A user's state is stored, and is the next version, after so many trained micro-batches."
    )
    every_seconds: PositiveSeconds = Field(
        30.0, description="... or so long after the first of them. An erasure, a stop or a lack of room come before."
    )
    moments: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="How Adam's moments are stored. `bfloat16` makes a state a third smaller, and a restart goes on "
        "from rounded moments. What was written before is read either way.",
    )


class PublishingSettings(Section):
    """Refreshed adapters, in PEFT format."""

    enabled: bool = Field(True, description="Off: learn without publishing.")
    path: Path = Field(Path("/var/lib/corlld/adapters"), description="`<uid>/v<NNNNNN>/` are made in here.")
    keep_versions: Positive = Field(3, description="Newest versions kept of each user.")
    announce_topic: TopicName | None = Field(
        None, description="kafka: a compacted topic for announcements. Unset: none."
    )
    threads: Positive = Field(2, description="Threads that write states and adapters.")


class OperationsSettings(Section):
    """How the daemon is run and watched."""

    http_address: Address | Literal[""] = Field(
        "127.0.0.1:9108",
        description="Where /metrics, /livez, /readyz and a landing page are served. They have no password: keep it on "
        "loopback, or behind what has one. Port 0: any free one, told in the log. An empty text (in a file; an empty "
        "variable counts as not set): nowhere.",
    )
    stall_after_seconds: PositiveSeconds = Field(
        300.0,
        description="/livez fails, and a watchdog is fed no more, once the loop has not turned or a training step has "
        "made no progress for so long.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level shown.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto`: console where a terminal is attached, else json."
    )
    startup_timeout_seconds: PositiveSeconds = Field(60.0, description="How long the start waits for what is away.")
    model_load_timeout_seconds: PositiveSeconds = Field(
        1800.0,
        description="Under systemd: how long loading the model (and a hub's download) may take, before the unit's own "
        "start timeout counts.",
    )
    shutdown_timeout_seconds: PositiveSeconds = Field(60.0, description="How long a stop may take.")
    retry_max_seconds: PositiveSeconds = Field(30.0, description="Longest pause between tries of what failed.")

    def problems(self) -> Iterator[str]:
        port = self.http_address.rpartition(":")[2]
        if port and int(port) > MAX_PORT:
            yield f"http_address: found port {port}, allowed: at most {MAX_PORT}"


class Settings(Section):
    """corlld's settings."""

    source: SourceSettings = SourceSettings()
    kafka: KafkaSettings = KafkaSettings()
    events: EventSettings = EventSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    identity: IdentitySettings = IdentitySettings()
    batching: BatchingSettings = BatchingSettings()
    model: ModelSettings = ModelSettings()
    adapter: AdapterSettings = AdapterSettings()
    learning: LearningSettings = LearningSettings()
    guard: GuardSettings = GuardSettings()
    state: StateSettings = StateSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    publishing: PublishingSettings = PublishingSettings()
    operations: OperationsSettings = OperationsSettings()
