"""Arms that can't work are refused with a line that says what to do. All settings of [learning] are named here."""

from pathlib import Path

import pytest

from corlld.settings.learning_rule import RULE_OF_AN_ARM, SHARED_BY_ARMS
from corlld.settings.sections import LearningSettings
from tests.support.settings_files import load, problems

HOLDOUT = '[[experiment.arms]]\nname = "off"\nshare = 0.05\nholdout = true\n'
IMITATING = '[[experiment.arms]]\nname = "imitating"\nshare = 0.5\nlearning = { imitation_weight = 0.1 }\n'
SHARES = (
    "numbers > 0 that sum to less than 1 over all arms: the other users are the arm `default`, which each arm is "
    "compared with"
)


def test_arms_are_read_from_the_file_and_as_json_from_the_environment(tmp_path: Path) -> None:
    from_file = load(tmp_path, HOLDOUT + IMITATING).experiment
    assert [(arm.name, arm.share, arm.holdout) for arm in from_file.arms] == [
        ("off", 0.05, True),
        ("imitating", 0.5, False),
    ]
    assert from_file.arms[1].learning == {"imitation_weight": 0.1}
    arms = '[{"name": "off", "share": 0.05, "holdout": true}]'
    assert load(tmp_path, CORLLD_EXPERIMENT__ARMS=arms).experiment.arms == from_file.arms[:1]


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        (HOLDOUT + HOLDOUT.replace("off", "too"), "experiment.arms: found 2 holdouts (off, too), allowed: at most one"),
        (
            IMITATING.replace("0.5", "0.4") * 2,
            "experiment.arms: found 'imitating' more than once, allowed: a name per arm",
        ),
        (
            IMITATING.replace("imitating", "default"),
            "experiment.arms: found the name 'default', allowed: other names, since corlld uses this one itself",
        ),
        (
            IMITATING + IMITATING.replace("imitating", "other").replace("0.5", "0.51"),
            f"experiment.arms: found shares that sum to 1.01, allowed: {SHARES}",
        ),
        (
            "".join(IMITATING.replace("imitating", name).replace("0.5", str(1 / 3)) for name in "abc"),
            f"experiment.arms: found shares that sum to 1, allowed: {SHARES}",
        ),
        (
            HOLDOUT + "learning = { lr = 1e-4 }",
            "experiment.arms: off: found `learning` beside `holdout`, allowed: one of them",
        ),
        *(
            (
                HOLDOUT.replace("holdout = true", third),
                "experiment.arms: off: found neither `learning` nor `holdout = true`, allowed: one of them. An arm "
                "that shall learn as `default` does (an A/A test) overrides a setting with the value that it has",
            )
            for third in ("", "holdout = false", "learning = {}")
        ),
        (
            IMITATING.replace("imitation_weight", "max_context_tokens"),
            "experiment.arms: imitating: found learning.max_context_tokens, allowed: only in [learning], since all "
            "arms share it",
        ),
        (
            IMITATING.replace("imitation_weight", "imitation_wieght"),
            "experiment.arms: imitating: learning.imitation_wieght: unknown (did you mean learning.imitation_weight?)",
        ),
        (
            IMITATING.replace("imitation_weight", "zzz"),
            f"experiment.arms: imitating: learning.zzz: unknown, allowed: {', '.join(RULE_OF_AN_ARM)}",
        ),
        (
            HOLDOUT.replace("share", "shar"),
            "experiment.arms: off: shar: unknown (did you mean share?)",
        ),
        (
            HOLDOUT.replace("holdout =", "hold_out =") + IMITATING.replace("learning =", "zzz ="),
            "experiment.arms: off: hold_out: unknown (did you mean holdout?)\n"
            "experiment.arms: imitating: zzz: unknown, allowed: name, share, holdout, learning",
        ),
        (
            HOLDOUT.replace("name =", "nmae ="),
            "experiment.arms: table 1: nmae: unknown (did you mean name?)",
        ),
        (
            IMITATING.replace("0.1", "-1"),
            "experiment.arms: imitating: learning.imitation_weight: found -1, allowed: a number >= 0",
        ),
        (
            IMITATING.replace("imitation_weight = 0.1", "margin = 'all'"),
            'experiment.arms: imitating: learning.margin: found \'all\', allowed: "tail", "changed"',
        ),
        (
            "".join(IMITATING.replace("imitating", f"a{n}").replace("0.5", "0.1") for n in range(8)),
            "experiment.arms: found 8, allowed: at most 7",
        ),
    ],
)
def test_arms_that_can_t_work_are_one_line(tmp_path: Path, toml: str, line: str) -> None:
    assert problems(tmp_path, toml) == [f"{each}; in corlld.toml" for each in line.splitlines()]


NAMES = "a text of at most 32 letters a-z, digits, - and _, which begins with a letter or digit"


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        *(
            (HOLDOUT.replace("0.05", share), f"off: share: found {found}, allowed: {SHARES}")
            for share, found in {"0": "0", "1": "1", "5": "5", "'5%'": "'5%'", "nan": "NaN", "'0.5'": "'0.5'"}.items()
        ),
        (IMITATING.replace("0.5", "1.0"), f"imitating: share: found 1.0, allowed: {SHARES}"),
        (HOLDOUT.replace("share = 0.05", ""), f"off: share: not set, needed: {SHARES}"),
        (HOLDOUT.replace("off", "Off!"), f"Off!: name: found 'Off!', allowed: {NAMES}"),
        (HOLDOUT.replace('name = "off"', ""), f"table 1: name: not set, needed: {NAMES}"),
        (HOLDOUT + IMITATING.replace('"imitating"', "5"), f"table 2: name: found 5, allowed: {NAMES}"),
        (HOLDOUT.replace("true", "1"), "off: holdout: found 1, allowed: true or false"),
        (IMITATING.replace("{ imitation_weight = 0.1 }", "5"), "imitating: learning: found 5, allowed: a table"),
        (
            IMITATING.replace("0.1", "2026-01-01"),
            'imitating: learning.imitation_weight: found "2026-01-01", allowed: a number >= 0',
        ),
        (IMITATING.replace("0.1", "nan"), "imitating: learning.imitation_weight: found NaN, allowed: a number >= 0"),
        (
            IMITATING.replace("imitation_weight = 0.1", "margin = { of = 2026-01-01 }"),
            'imitating: learning.margin: found {"of": "2026-01-01"}, allowed: "tail", "changed"',
        ),
        (
            IMITATING.replace("imitation_weight = 0.1", "epsilom = nan, lr = 1e-3"),
            "imitating: learning.epsilom: unknown (did you mean learning.epsilon?)",
        ),
    ],
)
def test_a_wrong_field_of_an_arm_is_named_with_what_is_allowed(tmp_path: Path, toml: str, line: str) -> None:
    (found,) = problems(tmp_path, toml)
    of_a_table = " of settings of [learning]" if line.endswith("a table") else ""
    assert found == f"experiment.arms: {line}{of_a_table}; in corlld.toml"


def test_an_unknown_key_of_an_arm_hides_no_other_mistake_but_the_missing_key(tmp_path: Path) -> None:
    toml = HOLDOUT.replace("share", "shar") + IMITATING.replace("0.5", "5")
    assert problems(tmp_path, toml) == [
        "experiment.arms: off: shar: unknown (did you mean share?); in corlld.toml",
        f"experiment.arms: imitating: share: found 5, allowed: {SHARES}; in corlld.toml",
    ]


@pytest.mark.parametrize(("arms", "found"), [("5", "5"), ("[5]", "[5]"), ("{ name = 'off' }", "a single table")])
def test_arms_that_are_no_tables_are_refused(tmp_path: Path, arms: str, found: str) -> None:
    (line,) = problems(tmp_path, f"[experiment]\narms = {arms}")
    assert line.startswith(f"experiment.arms: found {found}, allowed: a list of tables, each `[[experiment.arms]]`: ")


def test_each_setting_of_learning_is_shared_by_arms_or_part_of_an_arms_rule() -> None:
    """A new setting has to be named here. One that does not change what is learnt must not part users of an arm."""
    shared = {"rehearsal_path", "max_crashes", "max_response_tokens", "max_context_tokens", "prompt_special_tokens"}
    shared |= {"max_row_tokens"}
    rule = {"beta", "epsilon", "reference", "margin", "anchor", "imitation_weight", "imitation_tokens"}
    rule |= {"acceptance_weight", "rehearsal_weight", "lr", "beta1", "beta2", "adam_eps", "max_gradient_norm"}
    rule |= {"pairs_per_step", "steps_per_batch", "replay_pairs"}
    assert set(LearningSettings.model_fields) == shared | rule
    assert set(SHARED_BY_ARMS) == shared
    assert set(RULE_OF_AN_ARM) == rule
