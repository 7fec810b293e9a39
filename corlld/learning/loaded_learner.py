"""Loads the resident model and builds the learner upon it, as the settings ask: one rule, or one for each arm."""

from collections.abc import Callable

import structlog

from corlld.durable import ModelInfo
from corlld.experiment.arms import Arms
from corlld.learning.arm_learners import ArmLearners
from corlld.learning.learner import CorllLearner
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.resident import ResidentModel
from corlld.learning.model.template_syntax import refuse_unread
from corlld.learning.model.unsupported import refusing
from corlld.learning.start_adapter import load_start
from corlld.settings.learning_rule import DEFAULT_ARM
from corlld.settings.sections import Settings

log = structlog.get_logger("corlld.start")


def load_learner(
    settings: Settings, loaded: Callable[[ModelInfo, str, str], None]
) -> tuple[ResidentModel, CorllLearner | ArmLearners]:
    """Return the resident model and its learner.

    Args:
        settings: model, adapter, publishing, learning, guard and experiment are used.
        loaded: called with the model, its device and its type as soon as it is there.

    Raises FatalError with a sentence on what is wrong with the model or the start adapter.
    """
    resident = load_resident_model(settings.model, settings.adapter, settings.publishing)
    info, device, dtype = resident.info, str(resident.device), str(resident.model.dtype).removeprefix("torch.")
    loaded(info, device, dtype)
    if not resident.collator.shares_prefixes:
        log.warning("texts_are_rows", reason="the model's layers can't share prefixes: twice the work, and padding")
    for reason in resident.adapted.sentences():
        log.warning("not_adapted", reason=reason)
    for demand in resident.served_positions:
        (log.info if demand.by_default else log.warning)("engine_must_agree", reason=str(demand))
    arguments = settings.model.chat_template_kwargs
    refuse_unread(resident.tokenizer.chat_template, arguments)
    slots = settings.adapter.device_slots
    start = load_start(settings.adapter.start_path, resident.layout, info)
    with refusing(f"model.name: {settings.model.name} can't be trained"):
        learner = CorllLearner(
            resident, settings.learning, settings.guard, slots, template_kwargs=arguments, start=start
        )
        others = {
            name: CorllLearner(resident, rule, settings.guard, slots, template_kwargs=arguments, beside=learner)
            for name, rule in Arms(settings.experiment, settings.learning, settings.guard).rules.items()
            if name != DEFAULT_ARM
        }
    log.info("model_loaded", model=info.name, revision=info.revision, device=device, dtype=dtype)
    return resident, ArmLearners({DEFAULT_ARM: learner, **others}) if others else learner
