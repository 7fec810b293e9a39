"""A section refuses combinations of values that can never work, and takes all that can."""

from pathlib import Path

import pytest

from corlld.settings.learning_rule import RULE_OF_AN_ARM, SHARED_BY_ARMS
from corlld.settings.sections import LearningSettings
from tests.support.settings_files import load, problems


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        (
            "[kafka]\nheartbeat_interval_seconds = 16",
            "kafka.heartbeat_interval_seconds: found 16, allowed: at most a third of kafka.session_timeout_seconds = 45"
            "; in corlld.toml",
        ),
        (
            '[kafka]\nsecurity_protocol = "SASL_SSL"',
            "kafka.sasl_mechanism: not set, needed for kafka.security_protocol SASL_SSL",
        ),
        (
            '[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "PLAIN"\nsasl_plain_username = "u"',
            "kafka.sasl_plain_password: not set, needed for kafka.sasl_mechanism PLAIN",
        ),
        (
            '[kafka]\nsasl_mechanism = "GSSAPI"',
            "kafka.sasl_mechanism: set, allowed: only with kafka.security_protocol SASL_PLAINTEXT or SASL_SSL"
            "; in corlld.toml",
        ),
        (
            '[kafka]\nsecurity_protocol = "SASL_PLAINTEXT"\nsasl_mechanism = "AWS_MSK_IAM"',
            "kafka.sasl_mechanism: found AWS_MSK_IAM, allowed: only with kafka.security_protocol SASL_SSL"
            "; in corlld.toml",
        ),
        (
            '[kafka]\nssl_cafile = "/ca.pem"',
            "kafka.ssl_cafile: set, allowed: only with kafka.security_protocol SSL or SASL_SSL; in corlld.toml",
        ),
        (
            '[kafka]\nsecurity_protocol = "SSL"\nssl_keyfile = "/key.pem"',
            "kafka.ssl_keyfile: set, allowed: only together with kafka.ssl_certfile; in corlld.toml",
        ),
        (
            '[operations]\nhttp_address = "127.0.0.1:65536"',
            "operations.http_address: found port 65536, allowed: at most 65535; in corlld.toml",
        ),
        (
            '[kafka]\nbootstrap_servers = ["broker:9092", "broker:99999"]',
            "kafka.bootstrap_servers: found 'broker:99999', allowed: a port of 1 to 65535; in corlld.toml",
        ),
        (
            '[kafka]\nbootstrap_servers = ["broker:0"]',
            "kafka.bootstrap_servers: found 'broker:0', allowed: a port of 1 to 65535; in corlld.toml",
        ),
        (
            "[batching]\nmax_events = 9\nmax_buffered_events = 8",
            "batching.max_events: found 9, allowed: at most batching.max_buffered_events = 8; in corlld.toml",
        ),
        (
            '[learning]\nrehearsal_weight = 0\nrehearsal_path = "/passages.txt"',
            "learning.rehearsal_path: set, allowed: only with learning.rehearsal_weight > 0; in corlld.toml",
        ),
    ],
)
def test_an_impossible_combination_is_one_line(tmp_path: Path, toml: str, line: str) -> None:
    assert problems(tmp_path, toml) == [line]


@pytest.mark.parametrize("address", ["", "127.0.0.1:0", "localhost:9108", "0.0.0.0:65535", "[::1]:9108"])
def test_http_addresses_that_work_are_accepted(tmp_path: Path, address: str) -> None:
    assert load(tmp_path, f'[operations]\nhttp_address = "{address}"').operations.http_address == address


def test_several_impossible_combinations_are_a_line_each(tmp_path: Path) -> None:
    toml = '[kafka]\nsecurity_protocol = "SASL_PLAINTEXT"\nsasl_mechanism = "SCRAM-SHA-512"\nssl_ciphers = "x"'
    keys = [line.partition(":")[0] for line in problems(tmp_path, toml)]
    assert keys == ["kafka.ssl_ciphers", "kafka.sasl_plain_username", "kafka.sasl_plain_password"]


def test_every_way_to_authenticate_that_works_is_accepted(tmp_path: Path) -> None:
    for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "AWS_MSK_IAM"):
        toml = f'[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "{mechanism}"\n'
        environ = {}
        if mechanism not in ("GSSAPI", "AWS_MSK_IAM"):
            toml += 'sasl_plain_username = "u"'
            environ = {"CORLLD_KAFKA__SASL_PLAIN_PASSWORD": "p"}
        assert load(tmp_path, toml, **environ).kafka.sasl_mechanism == mechanism


HOLDOUT = '[[experiment.arms]]\nname = "off"\nshare = 0.05\nholdout = true\n'
IMITATING = '[[experiment.arms]]\nname = "imitating"\nshare = 0.5\nlearning = { imitation_weight = 0.1 }\n'


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
        (IMITATING * 2, "experiment.arms: found 'imitating' more than once, allowed: a name per arm"),
        (
            IMITATING.replace("imitating", "default"),
            "experiment.arms: found the name 'default', allowed: other names, since corlld uses this one itself",
        ),
        (
            IMITATING + IMITATING.replace("imitating", "other").replace("0.5", "0.51"),
            "experiment.arms: found shares that sum to 1.01, allowed: at most 1",
        ),
        (
            HOLDOUT + "learning = { lr = 1e-4 }",
            "experiment.arms: off: found `learning` beside `holdout`, allowed: one of them",
        ),
        (
            IMITATING.replace("imitation_weight", "max_context_tokens"),
            f"experiment.arms: imitating: found learning.max_context_tokens, allowed: {', '.join(RULE_OF_AN_ARM)}",
        ),
        (
            IMITATING.replace("0.1", "-1"),
            "experiment.arms: imitating: learning.imitation_weight can't be -1: see [learning] for what is allowed",
        ),
        (
            "".join(IMITATING.replace("imitating", f"a{n}").replace("0.5", "0.1") for n in range(8)),
            "experiment.arms: found 8, allowed: at most 7",
        ),
    ],
)
def test_arms_that_can_t_work_are_one_line(tmp_path: Path, toml: str, line: str) -> None:
    assert problems(tmp_path, toml) == [f"{line}; in corlld.toml"]


@pytest.mark.parametrize(
    "toml", [HOLDOUT.replace("0.05", "0"), HOLDOUT.replace("off", "Off!"), HOLDOUT.replace("holdout", "hold")]
)
def test_an_arm_of_another_form_is_refused(tmp_path: Path, toml: str) -> None:
    (line,) = problems(tmp_path, toml)
    assert line.startswith("experiment.arms: found [{")
    assert "allowed: a list of tables: `name`" in line


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
