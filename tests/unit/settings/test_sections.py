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
            "[kafka]\nsession_timeout_seconds = 5",
            "kafka.session_timeout_seconds: found 5, allowed: at least three times kafka.heartbeat_interval_seconds = 3"
            "; in corlld.toml",
        ),
        (
            "[batching]\nmax_buffered_events = 4",
            "batching.max_buffered_events: found 4, allowed: at least batching.max_events = 8; in corlld.toml",
        ),
        *(
            (
                f'[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "{mechanism}"\n{key} = "u"',
                f"kafka.{key}: set, allowed: only with kafka.sasl_mechanism {needed}; in corlld.toml",
            )
            for mechanism, key, needed in (
                ("GSSAPI", "sasl_plain_username", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
                ("AWS_MSK_IAM", "sasl_kerberos_name", "GSSAPI"),
                ("AWS_MSK_IAM", "sasl_kerberos_domain_name", "GSSAPI"),
            )
        ),
        (
            '[kafka]\nsasl_kerberos_name = "u"',
            "kafka.sasl_kerberos_name: set, allowed: only with kafka.security_protocol SASL_PLAINTEXT or SASL_SSL"
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
            "[kafka]\nssl_check_hostname = false",
            "kafka.ssl_check_hostname: found false, allowed: only with kafka.security_protocol SSL or SASL_SSL"
            "; in corlld.toml",
        ),
        (
            '[kafka]\nsasl_kerberos_service_name = "events"',
            "kafka.sasl_kerberos_service_name: set, allowed: only with kafka.security_protocol SASL_PLAINTEXT or "
            "SASL_SSL; in corlld.toml",
        ),
        (
            '[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "AWS_MSK_IAM"\nsasl_kerberos_service_name = "e"',
            "kafka.sasl_kerberos_service_name: set, allowed: only with kafka.sasl_mechanism GSSAPI; in corlld.toml",
        ),
        *(
            (
                '[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "GSSAPI"\nsasl_kerberos_name = "u"\n'
                f'{key} = "x"',
                f"kafka.{key}: set, allowed: only without kafka.sasl_kerberos_name, which replaces it; in corlld.toml",
            )
            for key in ("sasl_kerberos_service_name", "sasl_kerberos_domain_name")
        ),
        (
            "[snapshot]\nevery_seconds = 300",
            "snapshot.every_seconds: found 300, allowed: only with snapshot.every_updates, which is 1 by default: each "
            "update is stored at once; in corlld.toml",
        ),
        ('[model]\nrevision = ""', "model.revision: found '', allowed: a text, not empty; in corlld.toml"),
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
            "learning.rehearsal_path: set, allowed: only with learning.rehearsal_weight > 0, in [learning] or in an arm"
            "; in corlld.toml",
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


def test_a_principal_or_a_service_and_a_domain_are_accepted(tmp_path: Path) -> None:
    gssapi = '[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "GSSAPI"\n'
    service = 'sasl_kerberos_service_name = "events"\nsasl_kerberos_domain_name = "d"'
    assert load(tmp_path, gssapi + service).kafka.sasl_kerberos_service_name == "events"
    principal = 'sasl_kerberos_name = "u"\nsasl_kerberos_service_name = "kafka"'  # the default may be written
    assert load(tmp_path, gssapi + principal).kafka.sasl_kerberos_name == "u"


def test_the_age_of_snapshots_may_stay_while_their_number_is_written(tmp_path: Path) -> None:
    """A variable turns the gathering of updates off for a while. `corlld settings` prints every default."""
    toml = "[snapshot]\nevery_updates = 8\nevery_seconds = 300"
    assert load(tmp_path, toml, CORLLD_SNAPSHOT__EVERY_UPDATES="1").snapshot.every_seconds == 300
    assert load(tmp_path, "[snapshot]\nevery_seconds = 30").snapshot.every_updates == 1


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_passages_are_for_the_rule_or_an_arm_that_rehearses(tmp_path: Path, weight: float) -> None:
    toml = f"""
        [learning]
        rehearsal_weight = 0
        rehearsal_path = "/passages.txt"
        [[experiment.arms]]
        name = "sound"
        share = 0.2
        learning = {{ rehearsal_weight = {weight} }}
    """
    if weight:
        assert load(tmp_path, toml).learning.rehearsal_path == Path("/passages.txt")
    else:
        (line,) = problems(tmp_path, toml)
        assert line.startswith("learning.rehearsal_path: set, allowed: only with learning.rehearsal_weight > 0")


def test_a_file_of_settings_may_keep_what_the_other_kind_of_source_or_another_command_reads(tmp_path: Path) -> None:
    """`corlld send` and announcements read `kafka` beside a file; `corlld settings` prints every default."""
    toml = """
        [source]
        kind = "jsonl"
        path = "edits.jsonl"
        follow = true
        [kafka]
        bootstrap_servers = ["broker:9092"]
        topic = "sent"
        [dead_letters]
        path = "letters.jsonl"
    """
    assert load(tmp_path, toml).source.follow
    assert not load(tmp_path, "[source]\nfollow = false").source.follow


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        (
            '[dead_letters]\ntopic = "edits"',
            "dead_letters.topic: found 'edits', allowed: another topic than kafka.topic",
        ),
        (
            '[kafka]\ntopic = "edits.dead-letters"',
            "kafka.topic: found 'edits.dead-letters', allowed: another topic than dead_letters.topic",
        ),
        (
            '[dead_letters]\ntopic = "x"\n[kafka]\ntopic = "x"',
            "dead_letters.topic: found 'x', allowed: another topic than kafka.topic",
        ),
        (
            '[publishing]\nannounce_topic = "edits"',
            "publishing.announce_topic: found 'edits', allowed: another topic than kafka.topic",
        ),
        (
            '[publishing]\nannounce_topic = "edits.dead-letters"',
            "publishing.announce_topic: found 'edits.dead-letters', allowed: another topic than dead_letters.topic",
        ),
        (
            '[publishing]\npath = "/s"\n[state]\npath = "/s"',
            "publishing.path: found the path of state.path, allowed: another folder",
        ),
        (
            '[publishing]\npath = "/var/lib/corlld/state"',
            "publishing.path: found the path of state.path, allowed: another folder",
        ),
        (
            '[state]\npath = "/var/lib/corlld/adapters"',
            "state.path: found the path of publishing.path, allowed: another folder",
        ),
        (
            '[source]\nkind = "jsonl"\npath = "e"\n[dead_letters]\npath = "e"',
            "dead_letters.path: found the path of source.path, allowed: another file",
        ),
    ],
)
def test_two_sections_that_can_t_go_together_are_one_line_that_names_what_was_written(
    tmp_path: Path, toml: str, line: str
) -> None:
    assert problems(tmp_path, toml) == [f"{line}; in corlld.toml"]


def test_what_is_turned_off_is_in_nobody_s_way(tmp_path: Path) -> None:
    toml = '[publishing]\nenabled = false\nannounce_topic = "edits"\npath = "/s"\n[state]\npath = "/s"'
    assert not load(tmp_path, toml).publishing.enabled
