"""TLS and SASL against a real broker; what is refused is said in one sentence, at once and without a secret."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from corlld.errors import ConfigurationError
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.source import KafkaSource
from tests.support.kafka.broker import KafkaBroker, Security
from tests.support.kafka.topics import Reader, kafka_settings, produce, unique

USER, PASSWORD, WRONG_PASSWORD = "corlld", "pass-0f-the-tests", "n0t-the-password"
PATIENCE_SECONDS = 60.0  # a refusal has to come long before


@dataclass(frozen=True)
class SecureBroker:
    broker: KafkaBroker
    topic: str
    ca: Path
    certificate: Path
    key: Path

    def settings(self, protocol: str, **more: Any) -> KafkaSettings:
        address = self.broker.ssl_bootstrap if protocol == "SSL" else self.broker.sasl_bootstrap
        group = {"group_id": unique("group"), "security_protocol": protocol, "ssl_cafile": self.ca}
        return kafka_settings(address, self.topic, **(group | more))

    def sasl(self, mechanism: str, password: str = PASSWORD, **more: Any) -> KafkaSettings:
        credentials = {"sasl_mechanism": mechanism, "sasl_plain_username": USER, "sasl_plain_password": password}
        return self.settings("SASL_SSL", **(credentials | more))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    folder = tmp_path_factory.mktemp("secure")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    write_keystore(authority.issue_cert("localhost", "127.0.0.1"), folder / "broker.pem")
    client = authority.issue_cert("corlld.example")
    client.private_key_pem.write_to_path(folder / "client.key")
    client.cert_chain_pems[0].write_to_path(folder / "client.pem")
    security = Security(folder / "broker.pem", folder / "ca.pem", {USER: PASSWORD})
    broker = KafkaBroker(folder / "kafka", security)
    broker.start()
    topic = unique("edits")
    broker.create_topic(topic, 1)
    produce(broker.bootstrap, topic, {0: [b"hello"]})
    yield SecureBroker(broker, topic, folder / "ca.pem", folder / "client.pem", folder / "client.key")
    broker.stop()


def write_keystore(certificate: trustme.LeafCert, path: Path) -> None:
    """Kafka reads PKCS#8 keys alone."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + b"".join(blob.bytes() for blob in certificate.cert_chain_pems))


def read_one(settings: KafkaSettings) -> bytes | None:
    source = KafkaSource(settings)
    source.start(PATIENCE_SECONDS)
    try:
        return Reader(source).read(1)[0].value
    finally:
        source.close({}, 10)


def refusal(settings: KafkaSettings) -> str:
    source = KafkaSource(settings)
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as refused:
        source.start(PATIENCE_SECONDS)
    source.close({}, 10)
    assert time.monotonic() - began < PATIENCE_SECONDS / 2
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert PASSWORD not in sentence
    assert WRONG_PASSWORD not in sentence
    return sentence


def test_reads_over_tls_with_a_client_certificate(secure: SecureBroker) -> None:
    settings = secure.settings("SSL", ssl_certfile=secure.certificate, ssl_keyfile=secure.key)
    assert read_one(settings) == b"hello"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_reads_over_tls_with_a_password(secure: SecureBroker, mechanism: str) -> None:
    assert read_one(secure.sasl(mechanism)) == b"hello"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_wrong_password_is_refused(secure: SecureBroker, mechanism: str) -> None:
    assert "refused the user name or the password" in refusal(secure.sasl(mechanism, WRONG_PASSWORD))


def test_a_mechanism_that_the_broker_does_not_offer_is_refused(secure: SecureBroker) -> None:
    assert "does not offer kafka.sasl_mechanism" in refusal(secure.sasl("SCRAM-SHA-256"))


def test_a_broker_of_another_ca_is_not_trusted(secure: SecureBroker, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    assert "certificate is not trusted" in refusal(secure.sasl("PLAIN", ssl_cafile=tmp_path / "other.pem"))


def test_a_missing_client_certificate_is_refused(secure: SecureBroker) -> None:
    assert "TLS failed" in refusal(secure.settings("SSL"))


def test_a_client_certificate_of_another_ca_is_refused(secure: SecureBroker, tmp_path: Path) -> None:
    other = trustme.CA().issue_cert("corlld.example")
    other.private_key_and_cert_chain_pem.write_to_path(tmp_path / "other.pem")
    assert "TLS failed" in refusal(secure.settings("SSL", ssl_certfile=tmp_path / "other.pem"))
