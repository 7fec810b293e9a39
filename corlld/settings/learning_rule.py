"""Sections [learning] and [experiment]: the rule that users learn by, and arms of an experiment that override it."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, JsonValue

from corlld.settings.fields import Positive, Section, unknown_key
from corlld.settings.paths import SettingPath
from corlld.settings.value_words import described, shown


class LearningSettings(Section):
    """The CoRLL learning rule. corlld reimplements it from the paper's abstract: the defaults are our choices."""

    # The comment above a default names the studies that chose it. tests/evidence/README.md has their results,
    # tests/evidence/STUDY/summary.json their figures.

    # tastes (cell beta 0.01), language-world (grid): no other value is better.
    beta: float = Field(0.1, gt=0, description="Strength of the KL anchor. loss = -log sigma(beta * margin).")
    # tastes (cell epsilon 0.05), language-world (grid): no gain, even with noise 0.2.
    epsilon: float = Field(0.0, ge=0, lt=0.5, description="Assumed share of edits that are not improvements.")
    # language-world (grid): `previous` is no better, on drafts of the user's own adapter and of the base model.
    reference: Literal["base", "previous"] = Field(
        "base", description="Reference policy. `base`: adapter off. `previous`: the adapter before the micro-batch."
    )
    # weak-edits: alone it learns more than whole tails do. With imitation beside it both are level there, and in
    # real-edits (validation).
    margin: Literal["tail", "changed"] = Field(
        "changed",
        description="Tokens whose log pi the margin sums. `tail`: all from the first difference on. `changed`: those "
        "that an alignment of the two texts does not pair with an equal token.",
    )
    # language-world (grid): 0.03 and 0.1 are worse. real-edits: an anchor alone raises little.
    anchor: float = Field(
        0.0,
        ge=0,
        description="lambda: weight of relu(log pi_ref - log pi - .01 per token) on the edited tail.",
    )
    # real-edits: with it edited texts become likelier for every editor, without it for half of them, and hardly.
    # weak-edits: with lr 2e-3 both terms together learn more than imitation alone, with the default as much; the margin
    # alone fails where edits rewrite a text.
    # language-world: better than the margin alone, but for the weakest edits; no other weight is better (grid).
    imitation_weight: float = Field(
        0.1,
        ge=0,
        description="i: weight of -log pi(edited tail): each edit is imitated too.",
    )
    imitation_tokens: Literal["tail", "changed"] = Field(
        "tail", description="Tokens of an edited text that are imitated, as those of `margin`."
    )
    # theory (plateaus): needed under unscaled noise. tastes (cell acceptance_weight 0): no difference to honest edits.
    acceptance_weight: float = Field(
        0.1,
        ge=0,
        description="c: weight of -log pi(draft) of accepted drafts. It keeps an adapter sound whose drafts are good "
        "already. Set it to 0 if users accept drafts without reading them.",
    )
    # no-harm: without rehearsal, noisy edits ruin plain text. choice.csv there: 0.1 protects no better and learns less.
    rehearsal_weight: float = Field(
        0.03,
        ge=0,
        description="r: weight of relu(log pi_base - log pi) on a passage of plain text, one passage per step. It "
        "keeps an adapter from forgetting such text, whatever the edits are. 0: none.",
    )
    rehearsal_path: SettingPath | None = Field(
        None,
        description="Text file with the passages, separated by empty lines, in the language of the users. Default: "
        "sixteen English passages that come with corlld.",
    )
    # real-edits: twice the rise of 5e-4 on the editors of the choice, a third more on the reported ones. no-harm
    # (faster.csv): harmless after 80 edits, if not after 20, while 2e-3 and more steps on each micro-batch make plain
    # English worse than allowed if half of the edits are noise.
    lr: float = Field(1e-3, gt=0, description="Learning rate of a step with `pairs_per_step` pairs.")
    # language-world (grid): no other value is better.
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's beta1.")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's beta2.")
    adam_eps: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    max_gradient_norm: float = Field(1.0, gt=0, description="Each user's gradient norm is clipped to this value.")
    pairs_per_step: Positive = Field(4, description="Pairs per optimizer step. With fewer, lr is scaled down.")
    # no-harm (faster.csv): 2 and 4 learn more, and do harm if edits are noise. language-world (grid): 2 is no better.
    steps_per_batch: Positive = Field(1, description="Number of passes over a micro-batch.")
    replay_pairs: int = Field(
        0,
        ge=0,
        le=64,
        description="Number of the user's last edits that each step trains again beside the new ones, at their cost. "
        "The user's state keeps their token ids, context included; an erasure erases them.",
    )
    max_crashes: Positive = Field(
        3,
        description="After so many counted steps that ended the process, or never ended, each of their users is tried "
        "alone, then each event. An event that ends the process alone too becomes a dead letter (`crashed`).",
    )
    max_response_tokens: Positive = Field(1024, description="An edit with a longer response is rejected as `too_long`.")
    max_context_tokens: Positive = Field(1024, description="A longer context loses its beginning.")
    prompt_special_tokens: bool = Field(
        True,
        description="A control token (`</s>`, `<|im_end|>`) that is written in a `prompt` is one, as in vLLM and other "
        "engines. Off: its characters are plain, as they always are in `messages`, `proposed` and `edited`.",
    )
    max_row_tokens: Positive | Literal["auto"] = Field(
        "auto",
        description="Tokens per forward and backward pass, over the pairs of several users. `auto`: on a CPU 896 in "
        "float32 and 1792 in bfloat16; on cuda 4096 and 8192 (not measured).",
    )


# All arms share these: the passages, what is done about crashes, the shape of prompts and the memory of a step. The
# rest is the rule of an arm.
SHARED_BY_ARMS = (
    "rehearsal_path",
    "max_crashes",
    "max_response_tokens",
    "max_context_tokens",
    "prompt_special_tokens",
    "max_row_tokens",
)
RULE_OF_AN_ARM = tuple(name for name in LearningSettings.model_fields if name not in SHARED_BY_ARMS)
DEFAULT_ARM = "default"  # users of no other arm: they learn by [learning]
MAX_ARMS = 7  # beside the default: arms are labels of metrics
RETIRED_ARM = "retired"  # label of the users of arms that are not in the settings
_ROUNDING = 1e-9  # of a sum of shares
_SHARES = (
    f"numbers > 0 that sum to less than 1 over all arms: the other users are the arm `{DEFAULT_ARM}`, which each arm "
    "is compared with"
)


class Arm(Section):
    """An arm of the experiment: a share of the users, and how they learn."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$",
        json_schema_extra={
            "allowed": "a text of at most 32 letters a-z, digits, - and _, which begins with a letter or digit"
        },
    )
    share: float = Field(gt=0, lt=1, json_schema_extra={"allowed": _SHARES})
    holdout: bool = False
    learning: dict[str, JsonValue] = Field({}, json_schema_extra={"allowed": "a table of settings of [learning]"})


class ExperimentSettings(Section):
    """A controlled experiment: users are shared out to arms at random, each arm learns by its own rule, and `corlld
    experiment` compares them.
    """

    arms: tuple[Arm, ...] = Field(
        (),
        description="A table `[[experiment.arms]]` per arm, in place of this line: `name`, `share` (of new users), and "
        "either `learning = {...}`, which overrides settings of [learning], or `holdout = true`: nothing is learnt or "
        "published. All other users are in the arm `default`. In the environment: a JSON list. Default: no experiment.",
        json_schema_extra={
            "allowed": "a list of tables, each `[[experiment.arms]]`: `name` (a-z, 0-9, - and _; at most 32), `share` "
            "(> 0, their sum below 1), and `learning` (a table) or `holdout` (true or false)"
        },
    )
    drafts: Positive = Field(
        24,
        description="A user's outcome is the mean edit ratio of this many drafts, after the user's first 8. Do not "
        "change it while an experiment runs: outcomes over another number are not compared.",
    )

    def problems(self) -> Iterator[str]:
        names = [arm.name for arm in self.arms]
        if len(names) > MAX_ARMS:
            yield f"arms: found {len(names)}, allowed: at most {MAX_ARMS}"
        if len(holdouts := [arm.name for arm in self.arms if arm.holdout]) > 1:
            yield f"arms: found {len(holdouts)} holdouts ({', '.join(holdouts)}), allowed: at most one"
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"arms: found {name!r} more than once, allowed: a name per arm"
        for name in sorted({DEFAULT_ARM, RETIRED_ARM}.intersection(names)):
            yield f"arms: found the name {name!r}, allowed: other names, since corlld uses this one itself"
        if (total := sum(arm.share for arm in self.arms)) > 1 - _ROUNDING:
            yield f"arms: found shares that sum to {total:g}, allowed: {_SHARES}"
        for arm in self.arms:
            yield from _problems_of(arm)


def _problems_of(arm: Arm) -> Iterator[str]:
    if arm.holdout and arm.learning:
        yield f"arms: {arm.name}: found `learning` beside `holdout`, allowed: one of them"
    if not arm.holdout and not arm.learning:  # a forgotten line: nothing would be held out, for the whole experiment
        yield (
            f"arms: {arm.name}: found neither `learning` nor `holdout = true`, allowed: one of them. An arm that shall "
            f"learn as `{DEFAULT_ARM}` does (an A/A test) overrides a setting with the value that it has"
        )
    for key, value in arm.learning.items():
        if key in SHARED_BY_ARMS:
            yield f"arms: {arm.name}: found learning.{key}, allowed: only in [learning], since all arms share it"
        elif key not in RULE_OF_AN_ARM:
            yield f"arms: {arm.name}: {unknown_key(key, RULE_OF_AN_ARM, prefix='learning.')}"
        elif not _is_allowed(key, value):
            allowed = described(LearningSettings.model_json_schema()["properties"][key])
            yield f"arms: {arm.name}: learning.{key}: found {shown(value)}, allowed: {allowed}"


def _is_allowed(key: str, value: JsonValue) -> bool:
    try:
        LearningSettings.model_validate({key: value}, strict=True)
    except ValueError:
        return False
    return True
