"""Asks a broker which of the needed rights its access rules give, and names those that are missing.

The rights on a topic come with its metadata (since Kafka 2.3). Kafka has no such answer for a group that has no member
yet, and none for idempotent producers. So those two rights are tried, by requests that change nothing.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    for_code,
)
from kafka.protocol.consumer import HeartbeatRequest
from kafka.protocol.producer import InitProducerIdRequest

from corlld.errors import MissingRightError
from corlld.settings.sections import KafkaSettings

NO_GENERATION, NO_MEMBER, NO_PRODUCER = -1, "", -1
READING_REFUSED = (TopicAuthorizationFailedError, GroupAuthorizationFailedError)
_ERRORS = {  # what a broker answers to a request that the access rules forbid
    "topic": TopicAuthorizationFailedError,
    "group": GroupAuthorizationFailedError,
    "cluster": ClusterAuthorizationFailedError,
}


@dataclass(frozen=True, slots=True)
class Right:
    """An operation on a resource, as Kafka's access rules name them.

    operation: `Read`, `Write`, `IdempotentWrite`. Read and Write include Describe.
    kind: `topic`, `group`, `cluster`.
    name: of the topic or group. A cluster has none.
    """

    operation: str
    kind: str
    name: str = ""

    @property
    def is_told(self) -> bool:
        """Return whether it comes with a topic's metadata. The others are tried."""
        return self.kind == "topic"

    def __str__(self) -> str:
        return f"{self.operation} on {' '.join(filter(None, (self.kind, self.name)))}"


@dataclass(frozen=True, slots=True)
class Granted:
    """The answer of a broker about the rights that a client needs.

    missing: those that the access rules refuse.
    untold: those that the broker does not tell.
    hidden: the rules do not even let the client see the topic, so that it may also not exist.
    """

    missing: tuple[Right, ...] = ()
    untold: tuple[Right, ...] = ()
    hidden: bool = False


def reading(topic: str, group: str | None) -> tuple[Right, ...]:
    """Return the rights that it takes to read a topic. Without a group nothing is committed."""
    return (Right("Read", "topic", topic), *([Right("Read", "group", group)] if group else []))


def writing(topic: str, *, idempotent: bool) -> tuple[Right, ...]:
    """Return the rights that it takes to write to a topic. Since Kafka 2.8 Write includes IdempotentWrite."""
    return (Right("Write", "topic", topic), *([Right("IdempotentWrite", "cluster")] if idempotent else []))


def ask_rights(admin: KafkaAdminClient, topic: Mapping[str, Any], needed: Sequence[Right]) -> Granted:
    """Ask which of the rights the user has. `topic`: its metadata, in which kafka-python put names of operations.

    Raises KafkaError if there was no answer.
    """
    hidden = topic["error_code"] == TopicAuthorizationFailedError.errno
    told = topic.get("authorized_operations")
    missing: list[Right] = []
    untold: list[Right] = []
    for right in needed:
        if right.kind == "topic":
            if hidden or (told and right.operation.upper() not in told):
                missing.append(right)
            elif not told:  # None, or the empty set of a service that tells nothing: whoever sees it may describe it
                untold.append(right)
        elif right.kind == "group":
            if _is_refused(_heartbeat(admin, right.name), right):
                missing.append(right)
        elif not missing and _is_refused(_producer_id(admin), right):  # without Write, newer brokers refuse it too
            missing.append(right)
    return Granted(tuple(missing), tuple(untold), hidden)


def _is_refused(error: type[Exception], right: Right) -> bool:
    return issubclass(error, _ERRORS[right.kind])


def _heartbeat(admin: KafkaAdminClient, group: str) -> type[Exception]:
    """Return the answer to a heartbeat of nobody: it needs Read, and changes nothing. Raises KafkaError."""
    try:
        coordinator = admin._manager.run(admin._find_coordinator_id, group)
    except GroupAuthorizationFailedError as error:
        return type(error)
    request = HeartbeatRequest(group_id=group, generation_id=NO_GENERATION, member_id=NO_MEMBER)
    answer: type[Exception] = for_code(admin._manager.run(admin._manager.send, request, coordinator).error_code)
    return answer


def _producer_id(admin: KafkaAdminClient) -> type[Exception]:
    """Return the answer to a request for a producer's id, as each idempotent producer asks. Raises KafkaError."""
    request = InitProducerIdRequest(
        transactional_id=None, transaction_timeout_ms=1000, producer_id=NO_PRODUCER, producer_epoch=NO_PRODUCER
    )
    answer: type[Exception] = for_code(admin._manager.run(admin._manager.send, request).error_code)
    return answer


def refuse_missing(granted: Granted, settings: KafkaSettings) -> None:
    """Raise MissingRightError, with the sentence of `missing_rights`, if a right is missing."""
    if granted.missing:
        raise MissingRightError(missing_rights(granted.missing, settings, hidden=granted.hidden))


def unknown_rights(granted: Granted) -> str | None:
    """Return the sentence for rights that could not be asked; None if the broker told all."""
    if not granted.untold:
        return None
    return (
        f"{' and '.join(map(str, granted.untold))} could not be asked: the broker does not say what a user may do "
        "(Kafka does since 2.3)"
    )


def refused_rights(error: AuthorizationError, needed: Iterable[Right]) -> tuple[Right, ...]:
    """Return those of the needed rights that a broker's refusal is about."""
    return tuple(right for right in needed if isinstance(error, _ERRORS[right.kind]))


def missing_rights(missing: Sequence[Right], settings: KafkaSettings, *, hidden: bool = False) -> str:
    """Return the sentence that names missing rights, whose they would be, and the command that gives them.

    missing: at least one. All have the same operation, as those of one reader or of one producer have.
    hidden: see `Granted`.
    """
    servers = ", ".join(settings.bootstrap_servers)
    named = " and ".join(map(str, missing))
    perhaps = ", or the topic does not exist (the broker does not say which)" if hidden else ""
    who, principal = _principal(settings)
    if settings.sasl_mechanism == "AWS_MSK_IAM":
        return f"{servers}: {who} lacks {named}{perhaps}: its policy must allow it"
    return (
        f"{servers}: {who} lacks {named}{perhaps}. To allow it: "
        f"`kafka-acls.sh --bootstrap-server {settings.bootstrap_servers[0]} --add "
        f"--allow-principal {shlex.quote(principal)} --operation {missing[0].operation} "
        f"{' '.join(filter(None, (part for right in missing for part in _option(right))))}`"
    )


def _option(right: Right) -> tuple[str, str]:
    return f"--{right.kind}", shlex.quote(right.name) if right.name else ""


def _principal(settings: KafkaSettings) -> tuple[str, str]:
    """Return who the broker takes this client for: in words, and as an access rule names it."""
    if settings.sasl_plain_username is not None:
        return (name := f"User:{settings.sasl_plain_username}"), name
    if settings.sasl_mechanism == "AWS_MSK_IAM":
        return "the IAM identity of AWS's environment variables", ""
    if settings.sasl_mechanism is not None:
        return "the Kerberos principal", "User:NAME"
    if settings.ssl_certfile is not None:
        return "the subject of kafka.ssl_certfile", "User:SUBJECT"
    return "User:ANONYMOUS", "User:ANONYMOUS"
