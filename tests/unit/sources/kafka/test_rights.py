"""Which rights are asked, what brokers of other kinds answer, and the sentences."""

from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import GroupAuthorizationFailedError, NoError, UnknownMemberIdError
from kafka.protocol.consumer import HeartbeatRequest
from kafka.protocol.producer import InitProducerIdRequest

from corlld.sources.kafka.rights import (
    Granted,
    Right,
    ask_rights,
    missing_rights,
    reading,
    refused_rights,
    unknown_rights,
    writing,
)
from tests.support.kafka.topics import kafka_settings

SASL = {"security_protocol": "SASL_SSL", "sasl_plain_password": "p"}
READ_TOPIC, READ_GROUP = reading("edits", "g")
WRITE, IDEMPOTENT = writing("edits", idempotent=True)


class Admin:
    """Answers a heartbeat and a request for a producer's id with error codes, and keeps what was asked."""

    def __init__(self, heartbeat: int = UnknownMemberIdError.errno, producer_id: int = NoError.errno) -> None:
        self._answers = {HeartbeatRequest: heartbeat, InitProducerIdRequest: producer_id}
        self._manager = SimpleNamespace(run=lambda ask, *given: ask(*given), send=self._send)
        self.asked: list[Any] = []

    def _find_coordinator_id(self, group: str) -> int:
        return 1

    def _send(self, request: Any, node: int | None = None) -> Any:
        self.asked.append(request)
        return SimpleNamespace(error_code=self._answers[type(request)])


class HidingAdmin(Admin):
    def _find_coordinator_id(self, group: str) -> int:
        raise GroupAuthorizationFailedError(group)


def topic(*operations: str, error_code: int = 0) -> dict[str, Any]:
    return {"error_code": error_code, "authorized_operations": list(operations)}


@pytest.mark.parametrize(
    ("admin", "answer", "needed", "granted"),
    [
        (Admin(), topic("READ", "DESCRIBE"), (READ_TOPIC, READ_GROUP), Granted()),
        (Admin(), topic("DESCRIBE"), (READ_TOPIC, READ_GROUP), Granted((READ_TOPIC,))),
        (Admin(30), topic("READ"), (READ_TOPIC, READ_GROUP), Granted((READ_GROUP,))),
        (HidingAdmin(), topic("READ"), (READ_TOPIC, READ_GROUP), Granted((READ_GROUP,))),
        (HidingAdmin(), topic(error_code=29), (READ_TOPIC, READ_GROUP), Granted((READ_TOPIC, READ_GROUP), hidden=True)),
        (Admin(), {"error_code": 0}, (READ_TOPIC, READ_GROUP), Granted(untold=(READ_TOPIC,))),  # before Kafka 2.3
        (Admin(), topic(), (WRITE, IDEMPOTENT), Granted(untold=(WRITE,))),  # a service that tells nothing
        (Admin(), topic("WRITE"), (WRITE, IDEMPOTENT), Granted()),
        (Admin(producer_id=31), topic("WRITE"), (WRITE, IDEMPOTENT), Granted((IDEMPOTENT,))),  # before Kafka 2.8
        (Admin(producer_id=31), topic("DESCRIBE"), (WRITE, IDEMPOTENT), Granted((WRITE,))),  # since: Write is enough
        (Admin(producer_id=31), topic("WRITE"), (WRITE,), Granted()),
    ],
)
def test_what_a_broker_answers_says_which_rights_are_missing(
    admin: Admin, answer: dict[str, Any], needed: tuple[Right, ...], granted: Granted
) -> None:
    assert ask_rights(admin, answer, needed) == granted


def test_a_heartbeat_that_asks_for_a_right_is_nobodys() -> None:
    admin = Admin()
    ask_rights(admin, topic("READ"), (READ_TOPIC, READ_GROUP))
    (request,) = admin.asked
    assert (request.group_id, request.member_id, request.generation_id) == ("g", "", -1)


def test_rights_that_could_not_be_asked_are_not_taken_for_given() -> None:
    assert unknown_rights(Granted()) is None
    assert unknown_rights(Granted(untold=(READ_TOPIC,))) == (
        "Read on topic edits could not be asked: the broker does not say what a user may do (Kafka does since 2.3)"
    )


@pytest.mark.parametrize(
    ("settings", "who", "principal"),
    [
        ({}, "User:ANONYMOUS", "User:ANONYMOUS"),
        (SASL | {"sasl_mechanism": "PLAIN", "sasl_plain_username": "o'neil"}, "User:o'neil", "'User:o'\"'\"'neil'"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "GSSAPI"}, "the Kerberos principal", "User:NAME"),
        (
            {"security_protocol": "SSL", "ssl_certfile": "/client.pem"},
            "the subject of kafka.ssl_certfile",
            "User:SUBJECT",
        ),
    ],
)
def test_the_sentence_names_the_user_as_far_as_it_is_known(settings: dict[str, str], who: str, principal: str) -> None:
    kafka = kafka_settings("kafka:9092", "edits", **settings)
    assert missing_rights((READ_TOPIC, READ_GROUP), kafka) == (
        f"kafka:9092: {who} lacks Read on topic edits and Read on group g. To allow it: `kafka-acls.sh "
        f"--bootstrap-server kafka:9092 --add --allow-principal {principal} --operation Read --topic edits --group g`"
    )


def test_the_sentence_for_a_cluster_and_for_aws_have_what_fits_there() -> None:
    assert missing_rights((IDEMPOTENT,), kafka_settings("kafka:9092", "edits")).endswith(
        "--operation IdempotentWrite --cluster`"
    )
    aws = kafka_settings("kafka:9092", "edits", security_protocol="SASL_SSL", sasl_mechanism="AWS_MSK_IAM")
    assert missing_rights((WRITE,), aws).endswith("lacks Write on topic edits: its policy must allow it")


def test_a_refusal_is_about_the_rights_of_its_kind() -> None:
    assert refused_rights(GroupAuthorizationFailedError(), (READ_TOPIC, READ_GROUP)) == (READ_GROUP,)
    assert refused_rights(GroupAuthorizationFailedError(), (WRITE,)) == ()
