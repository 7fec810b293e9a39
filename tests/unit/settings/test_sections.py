"""A section refuses combinations of values that can never work, and takes all that can."""

from pathlib import Path

import pytest

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
