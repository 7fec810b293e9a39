"""Checks everything that `corlld run` needs, and prints what it found.

It makes no topic, file, store or adapter. It does test that an existing store can be written, and it converts a GGUF
model into the cache, as a run would.
"""

import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from corlld.adapters.peft_config import published_name
from corlld.assembly import (
    build_announcements,
    build_input,
    build_store,
    build_target,
    no_store_yet,
    pseudonyms,
    refuse_store_of_others,
    store_identity,
)
from corlld.commands.experiment_check import described, left_out
from corlld.commands.memory_check import check_memory
from corlld.commands.sample import Sample, sample_table
from corlld.commands.shared import REACH_SECONDS
from corlld.durable import ModelInfo
from corlld.errors import (
    ConfigurationError,
    ExitCode,
    FatalError,
    MissingRightError,
    MissingTopicError,
    RetriableError,
    UnavailableError,
)
from corlld.events.decoder import EventDecoder
from corlld.experiment.arms import Arms
from corlld.learning.model.files import check_model_name
from corlld.learning.model.unsupported import refusing
from corlld.learning.passages import check_passages
from corlld.learning.start_config import check_start
from corlld.protocols import Source
from corlld.records import EditEvent
from corlld.settings.load import check_for_run
from corlld.settings.sections import LearningSettings, Settings
from corlld.settings.unused import unused
from corlld.system.durable_files import check_permission
from corlld.system.plurals import counted
from corlld.system.progress import shown

if TYPE_CHECKING:
    from corlld.assembly import AnyStore
    from corlld.learning.memory_plan import MemoryPlan

SKIPPED = "skipped: "
BROKER_AWAY = "it is looked for at the input's broker, which could not be reached"
CLOSE_SECONDS = 5.0
SAMPLE_SECONDS = 30.0  # at most, to read and decode the sample


class Check:
    """Looks at one part after the other. Keeps the parts that were found, and the exit code of the first problem."""

    def __init__(self, settings: Settings, console: Console, progress: Console, sample: int | None) -> None:
        self._settings = settings
        self._input = build_input(settings, REACH_SECONDS)
        self._sample_limit = sample
        self._console = console
        self._progress = progress
        self._startup_seconds = settings.operations.startup_timeout_seconds
        self._store: AnyStore | None = None  # set once it is built
        self._opened: Source | None = None
        self._source: Source | None = None  # set once it is reached
        self._away: frozenset[str] = frozenset()  # the servers of an input that was not reached
        self._model: ModelInfo | None = None
        self._start_digest: str | None = None
        self._has_users = False  # set once the store is known to belong to the settings
        self._is_renderable: Callable[[EditEvent], bool] | None = None
        self._plan: MemoryPlan | None = None
        self._example: str | None = None  # path of a module as it is published
        self._sample: Sample | None = None
        self.exit_code = ExitCode.OK

    def run(self) -> int:
        """Look at every part, also after a problem. Return the exit code of the first problem."""
        if self._look("settings", self._check_settings):
            self._look("input", self._check_source, "reaching the input")
            self._look("dead letters", self._check_dead_letters, "reaching the dead letters")
            if self._settings.publishing.announce_topic is not None:
                self._look("announcements", self._check_announcements, "reaching the announcements")
            self._look("model", self._check_model, f"loading {self._settings.model.name}")
            self._look("memory", self._check_memory)
            self._look("state store", self._check_store, "looking at the state store")
            self._look("adapters", self._check_adapters)
            self._look("experiment", self._check_experiment)
            if self._sample_limit is not None:
                self._look("sample", self._check_sample, f"reading the newest {counted(self._sample_limit, 'record')}")
        if self._opened is not None:
            self._opened.close({}, CLOSE_SECONDS)
        if self._sample is not None and self._sample.records:
            self._console.print(sample_table(self._sample, has_keys=self._input.has_keys))
        return self.exit_code

    def _look(self, name: str, check: Callable[[], str], doing: str | None = None) -> bool:
        """Check a part, print what was found, and return whether all is well. doing: shown meanwhile, if not None."""
        try:
            with nullcontext() if doing is None else shown(self._progress, doing):
                found, mark = check(), "ok"
            if found.startswith(SKIPPED):
                found, mark = found.removeprefix(SKIPPED), "skipped"
        except (FatalError, RetriableError) as error:  # retriable: a store that can't be listed, say
            found, mark = str(error), "problem"
            self.exit_code = self.exit_code or error.exit_code
        first, *more = found.splitlines()
        self._console.print(f"{mark:8} {name:14} {first}", markup=False)
        for line in more:
            self._console.print(f"{'':23} {line}", markup=False)
        return mark == "ok"

    def _check_settings(self) -> str:
        if problems := check_for_run(self._settings, self._input.problems()):
            raise ConfigurationError("\n".join(problems))
        check_passages(self._settings.learning)  # all three are reported before the wait for input and model
        check_model_name(self._settings.model)
        check_start(self._settings.adapter)
        fingerprint = pseudonyms(self._settings).fingerprint
        found = f"complete; users' pseudonyms are made with the secret of fingerprint {fingerprint}"
        kind, is_topic = self._input.kind, self._input.can_be_sent_to
        return "\n".join([found, *unused(self._settings, kind=kind, is_topic=is_topic)])

    def _check_source(self) -> str:
        source = self._opened = self._input.source(self._built_store())
        try:
            source.start(self._startup_seconds if self._input.servers else min(REACH_SECONDS, self._startup_seconds))
        except (MissingTopicError, MissingRightError):  # its broker answers
            raise
        except (UnavailableError, ConfigurationError):
            self._away = frozenset(self._input.servers)
            raise
        self._source = source
        return self._input.describe(source)

    def _check_dead_letters(self) -> str:
        if self._away:
            return SKIPPED + BROKER_AWAY
        return self._input.check_dead_letters(self._startup_seconds)

    def _check_announcements(self) -> str:
        if not self._away.isdisjoint(self._settings.kafka.bootstrap_servers):
            return SKIPPED + BROKER_AWAY
        if (announcements := build_announcements(self._settings, self._startup_seconds, REACH_SECONDS)) is None:
            return "off, as publishing.enabled is"
        try:
            return announcements.describe()
        finally:
            announcements.close(CLOSE_SECONDS)

    def _check_model(self) -> str:
        from corlld.learning.learner import row_tokens
        from corlld.learning.memory_plan import plan_memory
        from corlld.learning.model.chat_template import find_control_tokens, is_renderable
        from corlld.learning.model.loading import load_resident_model, slow_dtype
        from corlld.learning.model.template_syntax import refuse_unread
        from corlld.learning.rehearsal import rehearsals
        from corlld.learning.start_adapter import load_start

        settings = self._settings
        resident = load_resident_model(settings.model, settings.adapter, settings.publishing)
        arguments = settings.model.chat_template_kwargs
        refuse_unread(resident.tokenizer.chat_template, arguments)
        control = find_control_tokens(resident.tokenizer, arguments)
        self._is_renderable = partial(is_renderable, resident.tokenizer, control, arguments)
        with refusing(f"model.name: {settings.model.name} can't be trained"):
            self._plan = plan_memory(
                resident,
                row_tokens(settings.learning, resident.device, resident.model.dtype),
                settings.batching.max_users_per_step,
                settings.state.host_memory_bytes,
                has_start=settings.adapter.start_path is not None,
            )
            rehearsed = rehearsals(self._rehearsing_rule(), resident)  # refuses passages that can't be used
        info = self._model = resident.info
        start = load_start(settings.adapter.start_path, resident.layout, info)
        self._example = published_name(resident.layout.modules[0].name, info.module_names)
        templates = "with" if info.supports_messages else "without"
        found = (
            f"{info.name}, revision {info.revision[:12]}, {templates} a chat template, on {resident.device}; an "
            f"adapter has {resident.layout.size:,} numbers, in {counted(len(resident.layout.modules), 'module')}; "
            f"passages rehearsed: {len(rehearsed)}"
        )
        if start is not None:
            self._start_digest = start.digest
            found += f"\nnew users begin from {settings.adapter.start_path}, digest {start.digest[:12]}"
        if slow := slow_dtype(resident.model.dtype, resident.device):
            found += f"\nslow, model.dtype = bfloat16: {slow}"
        return "\n".join([found, *resident.adapted.sentences(), *map(str, resident.served_positions)])

    def _arms(self) -> Arms:
        return Arms(self._settings.experiment, self._settings.learning, self._settings.guard)

    def _rehearsing_rule(self) -> LearningSettings:
        """Return a rule that rehearses, if any arm has one: all arms share their passages."""
        rules = [self._settings.learning, *self._arms().rules.values()]
        return next((rule for rule in rules if rule.rehearsal_weight), rules[0])

    def _check_memory(self) -> str:
        if self._plan is None:
            return SKIPPED + "it depends on the model, which was not found"
        return check_memory(self._plan, self._settings.adapter.device_slots)

    def _built_store(self) -> "AnyStore":
        if self._store is None:
            self._store = build_store(self._settings)
        return self._store

    def _check_store(self) -> str:
        place, source, model = self._settings.state.url or self._settings.state.path, self._source, self._model
        store, names = self._built_store(), pseudonyms(self._settings)
        exists, must_exist = store.secret_fingerprint() is not None, source is not None and source.has_commits()
        # Whatever else is missing: a store of another secret must be known before anything is started with it.
        refuse_store_of_others(self._settings, store, names, self._input, source)
        if not exists and not must_exist and self._settings.state.url is None:
            check_permission(self._settings.state.path)
        if source is None or model is None:
            secret = f"{place} belongs to this identity.secret; " if exists else ""
            return f"{SKIPPED}{secret}it is compared with input and model, which were not both found"
        if not exists and not must_exist:
            return no_store_yet(self._settings)
        store.open(store_identity(names, self._input, source, model, self._start_digest), must_exist=must_exist)
        users = sum(1 for _ in store.uids())
        self._has_users = users > 0
        found = f"{place} belongs to these settings; it holds {counted(users, 'user')}"
        return "\n".join(filter(None, [found, store.out_of_reach()]))

    def _check_adapters(self) -> str:
        if not self._settings.publishing.enabled:
            return "not published, as publishing.enabled is off"
        found = f"published to {build_target(self._settings).check()}"
        if self._example is not None:
            found += f"; the first tensor's name: base_model.model.{self._example}.lora_A.weight"
        return found

    def _check_experiment(self) -> str:
        arms, drafts = self._arms(), self._settings.experiment.drafts
        changed = left_out(arms, self._built_store(), drafts, self._start_digest) if self._has_users else ()
        return "\n".join([*described(arms), *changed])

    def _check_sample(self) -> str:
        if self._source is None:
            return SKIPPED + "it is read from the input, which was not found"
        supports_messages = self._model is None or self._model.supports_messages
        decoder = EventDecoder(
            self._settings.events,
            supports_messages=supports_messages,
            key_required=self._input.has_keys,
        )
        sample = self._sample = Sample(decoder, self._is_renderable)
        deadline = time.monotonic() + SAMPLE_SECONDS
        with closing(self._input.newest_records(self._sample_limit or 0, SAMPLE_SECONDS)) as records:
            for record in records:
                sample.add(record)
                if time.monotonic() > deadline:
                    break
        late = time.monotonic() > deadline
        if sample.records == 0:
            if late:
                raise UnavailableError(f"no record could be read within {SAMPLE_SECONDS:g} s")
            return "there is no record yet"
        newest = counted(sample.records, "record is a valid event", "records are valid events")
        found = f"{sample.valid:,} of the newest {newest}"
        if late:
            found += f" (stopped after {SAMPLE_SECONDS:g} s)"
        if sample.valid == 0 or sample.invalid_share > self._settings.dead_letters.max_share:
            raise FatalError(
                f"{found}; reading stops if more than {self._settings.dead_letters.max_share:.0%} "
                "(dead_letters.max_share) are not valid",
                ExitCode.DATA,
            )
        return found


def check(settings: Settings, console: Console, progress: Console, *, sample: int | None = None) -> int:
    """Look at every part, print a line for each, and return the exit code of the first problem.

    Args:
        settings: those that `corlld run` would use.
        console: takes the lines.
        progress: shows what is looked at.
        sample: how many of the newest records to read and to describe; None for no sample.
    """
    return Check(settings, console, progress, sample).run()
