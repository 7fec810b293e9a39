"""A broker with access rules: users of SASL may do what `allow` allows, and whoever comes without SASL may do all."""

from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from corlld.settings.sections import KafkaSettings
from tests.support.kafka.broker import KafkaBroker, free_ports
from tests.support.kafka.topics import kafka_settings
from tests.support.waiting import wait_until

USER, PASSWORD = "corlld", "pass-0f-the-tests"
SASL = {  # settings of `kafka`
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "PLAIN",
    "sasl_plain_username": USER,
    "sasl_plain_password": PASSWORD,
}
ZOOKEEPERS_AUTHORIZER = "kafka.security.authorizer.AclAuthorizer"
AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


class GuardedBroker(KafkaBroker):
    """See the module. `sasl_bootstrap` is the listener of SASL_PLAINTEXT, with `USER` and `PASSWORD`."""

    def __init__(self, folder: Path, version: str | None = None) -> None:
        super().__init__(folder, version=version)
        self.sasl_bootstrap = f"127.0.0.1:{free_ports(1)[0]}"

    def _settings(self) -> dict[str, object]:
        settings = super()._settings()
        for name in ("listeners", "advertised.listeners"):
            settings[name] = f"{settings[name]},SASL_PLAINTEXT://{self.sasl_bootstrap}"
        protocols = f"{settings['listener.security.protocol.map']},SASL_PLAINTEXT:SASL_PLAINTEXT"
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        return settings | {
            "listener.security.protocol.map": protocols,
            "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{login} user_{USER}="{PASSWORD}";',
            "authorizer.class.name": ZOOKEEPERS_AUTHORIZER if self._has_zookeeper else AUTHORIZER,
            "super.users": "User:ANONYMOUS",
        }

    def user_settings(self, topic: str, **more: Any) -> KafkaSettings:
        """The settings by which `USER` reads the topic."""
        return kafka_settings(self.sasl_bootstrap, topic, **(SASL | more))

    def allow(self, kind: str, name: str, *operations: str) -> None:
        """Let `USER` do these operations ("READ") on a resource of a kind ("TOPIC"). Returns once the broker knows."""
        pattern = ResourcePattern(ResourceType[kind], name, ACLResourcePatternType.LITERAL)
        rules = [
            ACL(f"User:{USER}", "*", ACLOperation[operation], ACLPermissionType.ALLOW, pattern)
            for operation in operations
        ]
        with self.admin() as admin:
            assert not admin.create_acls(rules)["failed"]
            wait_until(lambda: set(operations) <= self._allowed(admin, kind, name), "the rules are known")

    def forbid(self, kind: str, name: str, *operations: str) -> None:
        """Take back what `allow` allowed. Returns once the broker knows."""
        with self.admin() as admin:
            admin.delete_acls([_filter(kind, name, ACLOperation[operation]) for operation in operations])
            wait_until(lambda: not set(operations) & self._allowed(admin, kind, name), "the rules are gone")

    def _allowed(self, admin: KafkaAdminClient, kind: str, name: str) -> set[str]:
        rules, _ = admin.describe_acls(_filter(kind, name, ACLOperation.ANY))
        return {ACLOperation(rule.operation).name for rule in rules}


def _filter(kind: str, name: str, operation: ACLOperation) -> ACLFilter:
    pattern = ResourcePatternFilter(ResourceType[kind], name, ACLResourcePatternType.LITERAL)
    return ACLFilter(f"User:{USER}", "*", operation, ACLPermissionType.ANY, pattern)
