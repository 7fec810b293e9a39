"""The section [kafka]: where the cluster is, what is read from it, and how a client identifies itself."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, SecretStr

from corlld.settings.fields import (
    MAX_PORT,
    Address,
    NonEmpty,
    Positive,
    PositiveSeconds,
    Section,
    TopicName,
    is_to_blame,
)
from corlld.settings.paths import SettingPath


class KafkaSettings(Section):
    """The Kafka client. Settings that exist in kafka-python have its names and meanings."""

    bootstrap_servers: tuple[Address, ...] = Field((), description="`host:port` of one or more brokers.")
    topic: TopicName = Field("edits", description="Topic of the edit events. corlld never creates it.")
    group_id: NonEmpty = Field("corlld", description="Consumer group. A state store belongs to a single group.")
    group_instance_id: TopicName | None = Field(
        None, description="Unique name of this daemon (static membership): a restart then moves no partition."
    )
    client_id: NonEmpty = Field("corlld", description="Name of this client in the broker's logs and quotas.")
    start_at: Literal["earliest", "latest"] = Field(
        "earliest",
        description="Where a new group starts. Partitions added later are read from their beginning. A group whose "
        "commits have expired is not new: it starts where it began, and passes over what the states have.",
    )
    assignor: Literal["cooperative-sticky", "range", "roundrobin", "sticky"] = Field(
        "cooperative-sticky", description="How the group distributes partitions."
    )
    session_timeout_seconds: PositiveSeconds = Field(45.0, description="A member silent for this time is dropped.")
    heartbeat_interval_seconds: PositiveSeconds = Field(3.0, description="At most a third of the session timeout.")
    max_poll_interval_seconds: PositiveSeconds = Field(300.0, description="A member must poll within this time.")
    request_timeout_seconds: float = Field(
        30.0, gt=0.5, lt=540, description="A request without an answer fails after this time."
    )
    max_poll_records: Positive = Field(500, description="Largest number of records per poll.")
    max_partition_fetch_bytes: Positive = Field(1_048_576, description="Largest fetch from a partition.")
    metadata_max_age_seconds: PositiveSeconds = Field(60.0, description="Topic ids are checked again after this time.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Protocol to the brokers. SSL: with TLS. SASL: with authentication."
    )
    ssl_cafile: SettingPath | None = Field(None, description="CA certificates (PEM). Default: the system's.")
    ssl_certfile: SettingPath | None = Field(None, description="Client certificate (PEM).")
    ssl_keyfile: SettingPath | None = Field(None, description="Client key (PEM).")
    ssl_crlfile: SettingPath | None = Field(None, description="Certificate revocation list (PEM).")
    ssl_password: SecretStr | None = Field(
        None, description="Password of the client key.", json_schema_extra={"credential": "kafka_ssl_password"}
    )
    ssl_ciphers: str | None = Field(None, description="OpenSSL cipher list. Default: OpenSSL's own.")
    ssl_check_hostname: bool = Field(True, description="Check the broker's name. Turn it off in tests only.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "AWS_MSK_IAM"] | None = Field(
        None,
        description="Way to authenticate. Needed for SASL_PLAINTEXT and SASL_SSL. GSSAPI needs the package `gssapi`. "
        "AWS_MSK_IAM needs the package `botocore`, and reads its credentials from AWS's environment variables.",
    )
    sasl_plain_username: str | None = Field(None, description="User name for PLAIN and SCRAM.")
    sasl_plain_password: SecretStr | None = Field(
        None, description="Password for PLAIN and SCRAM.", json_schema_extra={"credential": "kafka_sasl_password"}
    )
    sasl_kerberos_name: str | None = Field(None, description="GSSAPI: principal, instead of service and domain.")
    sasl_kerberos_service_name: NonEmpty = Field("kafka", description="GSSAPI: service name.")
    sasl_kerberos_domain_name: str | None = Field(None, description="GSSAPI: domain name. Default: the broker's host.")

    def problems(self) -> Iterator[str]:
        for broker in self.bootstrap_servers:
            if not 0 < int(broker.rpartition(":")[2]) <= MAX_PORT:
                yield f"bootstrap_servers: found {broker!r}, allowed: a port of 1 to {MAX_PORT}"
        heartbeat, session = self.heartbeat_interval_seconds, self.session_timeout_seconds
        if heartbeat > session / 3:
            yield (
                f"heartbeat_interval_seconds: found {heartbeat:g}, allowed: at most a third of "
                f"kafka.session_timeout_seconds = {session:g}"
                if is_to_blame(self, "heartbeat_interval_seconds", "session_timeout_seconds")
                else f"session_timeout_seconds: found {session:g}, allowed: at least three times "
                f"kafka.heartbeat_interval_seconds = {heartbeat:g}"
            )
        yield from self._tls_problems()
        yield from self._sasl_problems()

    def _tls_problems(self) -> Iterator[str]:
        tls = self.security_protocol.endswith("SSL")
        for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile", "ssl_password", "ssl_ciphers"):
            if not tls and getattr(self, key) is not None:
                yield f"{key}: set, allowed: only with kafka.security_protocol SSL or SASL_SSL"
        if not tls and not self.ssl_check_hostname:
            yield "ssl_check_hostname: found false, allowed: only with kafka.security_protocol SSL or SASL_SSL"
        for key in ("ssl_keyfile", "ssl_password"):
            if tls and getattr(self, key) is not None and self.ssl_certfile is None:
                yield f"{key}: set, allowed: only together with kafka.ssl_certfile"

    def _sasl_problems(self) -> Iterator[str]:
        mechanism = self.sasl_mechanism
        credentials = {"sasl_plain_username": self.sasl_plain_username, "sasl_plain_password": self.sasl_plain_password}
        service = self.sasl_kerberos_service_name if self.is_changed("sasl_kerberos_service_name") else None
        host_based = {
            "sasl_kerberos_service_name": service,
            "sasl_kerberos_domain_name": self.sasl_kerberos_domain_name,
        }
        kerberos = {"sasl_kerberos_name": self.sasl_kerberos_name, **host_based}
        if not self.security_protocol.startswith("SASL"):
            for key, value in {"sasl_mechanism": mechanism, **credentials, **kerberos}.items():
                if value is not None:
                    yield f"{key}: set, allowed: only with kafka.security_protocol SASL_PLAINTEXT or SASL_SSL"
            return
        if mechanism is None:
            yield f"sasl_mechanism: not set, needed for kafka.security_protocol {self.security_protocol}"
            return
        has_password = mechanism == "PLAIN" or mechanism.startswith("SCRAM")
        for key, value in credentials.items():
            if has_password and value is None:
                yield f"{key}: not set, needed for kafka.sasl_mechanism {mechanism}"
            if not has_password and value is not None:
                yield f"{key}: set, allowed: only with kafka.sasl_mechanism PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
        for key, value in kerberos.items():
            if mechanism != "GSSAPI" and value is not None:
                yield f"{key}: set, allowed: only with kafka.sasl_mechanism GSSAPI"
        if mechanism == "GSSAPI" and self.sasl_kerberos_name is not None:
            for key in (key for key, value in host_based.items() if value is not None):
                yield f"{key}: set, allowed: only without kafka.sasl_kerberos_name, which replaces it"
        if mechanism == "AWS_MSK_IAM" and self.security_protocol != "SASL_SSL":
            yield "sasl_mechanism: found AWS_MSK_IAM, allowed: only with kafka.security_protocol SASL_SSL"
