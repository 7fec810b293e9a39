"""Settings as kafka-python's options: units, secrets, certificates, and that every setting arrives."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from corlld.errors import ConfigurationError
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.options import admin_options, client_options, consumer_options, producer_options


def settings(**values: Any) -> KafkaSettings:
    return KafkaSettings.model_validate({"bootstrap_servers": ("a:1", "b:2")} | values)


def test_seconds_become_milliseconds() -> None:
    options = consumer_options(
        settings(
            session_timeout_seconds=1.5,
            heartbeat_interval_seconds=0.25,
            max_poll_interval_seconds=7,
            request_timeout_seconds=11,
            metadata_max_age_seconds=13,
        )
    )
    assert options["session_timeout_ms"] == 1500
    assert options["heartbeat_interval_ms"] == 250
    assert options["max_poll_interval_ms"] == 7000
    assert options["request_timeout_ms"] == 11000
    assert options["metadata_max_age_ms"] == 13000


def test_the_consumer_never_commits_guesses_or_creates_by_itself() -> None:
    options = consumer_options(settings())
    assert options["enable_auto_commit"] is False
    assert options["auto_offset_reset"] == "none"
    assert options["allow_auto_create_topics"] is False
    assert options["isolation_level"] == "read_committed"


def test_the_producer_waits_for_all_replicas_and_creates_nothing() -> None:
    options = producer_options(settings())
    assert options["acks"] == "all"
    assert options["allow_auto_create_topics"] is False


@pytest.mark.parametrize(
    ("make", "client"),
    [(consumer_options, KafkaConsumer), (producer_options, KafkaProducer), (admin_options, KafkaAdminClient)],
)
def test_kafka_python_knows_every_option(make: Any, client: Any) -> None:
    secure = settings(
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username="u",
        sasl_plain_password="p",
    )
    assert set(make(secure)) <= set(client.DEFAULT_CONFIG)


@pytest.mark.parametrize("request_timeout_seconds", [0.6, 30, 539])
def test_kafka_python_accepts_the_order_of_its_timeouts(request_timeout_seconds: float) -> None:
    options = consumer_options(settings(request_timeout_seconds=request_timeout_seconds))
    assert options["fetch_max_wait_ms"] < options["request_timeout_ms"] < options["connections_max_idle_ms"]


@pytest.mark.parametrize("assignor", ["cooperative-sticky", "range", "roundrobin", "sticky"])
def test_every_assignor_is_kafka_pythons_of_that_name(assignor: str) -> None:
    (chosen,) = consumer_options(settings(assignor=assignor))["partition_assignment_strategy"]
    assert chosen.name == assignor


def test_a_plain_connection_has_neither_certificates_nor_credentials() -> None:
    options = client_options(settings())
    assert not any(name.startswith(("ssl_", "sasl_")) for name in options)


def test_credentials_are_unwrapped() -> None:
    options = client_options(
        settings(
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_plain_username="u",
            sasl_plain_password="p",
        )
    )
    assert (options["sasl_mechanism"], options["sasl_plain_username"]) == ("PLAIN", "u")
    assert options["sasl_plain_password"] == "p"


def test_a_mechanism_whose_package_is_missing_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corlld.sources.kafka.options.find_spec", lambda name: None)
    for mechanism, package in (("GSSAPI", "gssapi"), ("AWS_MSK_IAM", "botocore")):
        with pytest.raises(ConfigurationError, match=f"{mechanism} needs the Python package {package}"):
            client_options(settings(security_protocol="SASL_SSL", sasl_mechanism=mechanism))


def test_tls_checks_the_broker_unless_told_otherwise() -> None:
    context = client_options(settings(security_protocol="SSL"))["ssl_context"]
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert not client_options(settings(security_protocol="SSL", ssl_check_hostname=False))["ssl_context"].check_hostname


def test_ciphers_are_set() -> None:
    name = "ECDHE-ECDSA-AES256-GCM-SHA384"
    context = client_options(settings(security_protocol="SSL", ssl_ciphers=name))["ssl_context"]
    assert [c["name"] for c in context.get_ciphers() if c["protocol"] == "TLSv1.2"] == [name]


@pytest.mark.parametrize("name", ["ssl_cafile", "ssl_certfile", "ssl_crlfile"])
def test_a_file_that_is_missing_or_wrong_is_said_in_a_sentence(name: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("not a certificate")
    for path in (tmp_path / "missing.pem", wrong):
        with pytest.raises(ConfigurationError, match=f"^kafka.{name} = .*can't be used: .") as refused:
            client_options(settings(security_protocol="SSL", **{name: path}))
        assert "\n" not in str(refused.value)


def test_unknown_ciphers_are_said_in_a_sentence() -> None:
    with pytest.raises(ConfigurationError, match="ssl_ciphers = nonsense"):
        client_options(settings(security_protocol="SSL", ssl_ciphers="nonsense"))


@pytest.fixture
def client_certificate(tmp_path: Path) -> dict[str, Path]:
    """Return a certificate whose key is encrypted with the password `open sesame`."""
    certificate = trustme.CA().issue_cert("corlld.example")
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame"))
    (tmp_path / "client.key").write_bytes(encrypted)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    return {"ssl_certfile": tmp_path / "client.pem", "ssl_keyfile": tmp_path / "client.key"}


def test_the_password_opens_the_clients_key(client_certificate: dict[str, Path]) -> None:
    client_options(settings(security_protocol="SSL", ssl_password="open sesame", **client_certificate))


@pytest.mark.parametrize("password", [None, "wr0ng"])
def test_a_wrong_password_or_none_is_refused_without_asking_and_without_quoting_it(
    client_certificate: dict[str, Path], password: str | None
) -> None:
    with pytest.raises(ConfigurationError, match="ssl_password") as refused:
        client_options(settings(security_protocol="SSL", ssl_password=password, **client_certificate))
    assert "wr0ng" not in str(refused.value)
