"""Asks a broker for features, not for its version: what corlld needs of Kafka's protocol, and since when Kafka has it.

Other services speak Kafka's protocol too. They have version numbers of their own, and some of the features.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import kafka
from kafka.protocol.consumer import FetchRequest, JoinGroupRequest, ListOffsetsRequest
from kafka.protocol.metadata import MetadataRequest
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest

from corlld.errors import ConfigurationError

# What kafka-python raises if an answer lacks a field, or has another shape than it expects.
MISREADINGS = (AttributeError, LookupError, TypeError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class Feature:
    """A kind of request, from some version of it on.

    request: kafka-python's class of the request.
    purpose: what corlld needs it for, in words.
    since: the first version of Apache Kafka that has it.
    """

    request: Any
    version: int
    purpose: str
    since: str


READING = (
    Feature(MetadataRequest, 4, "to ask for a topic without making it", "0.11"),
    Feature(ListOffsetsRequest, 2, "to skip records of unfinished transactions", "0.11"),
    Feature(FetchRequest, 4, "to read records with headers", "0.11"),
)
IDEMPOTENCE = (Feature(InitProducerIdRequest, 0, "to send each record once, in order", "0.11"),)
# The request came with the brokers that ask no more replicas to acknowledge than a partition has. Nothing needs it.
REPLICAS_CAPPED = Feature(ProduceRequest, 10, "to be acknowledged by the replicas that there are", "3.7")
STATIC_MEMBERS = (Feature(JoinGroupRequest, 5, "for kafka.group_instance_id", "2.3"),)


def has(versions: Mapping[int, tuple[int, int]], feature: Feature) -> bool:
    """Return whether a broker has a feature. versions: as for `refuse_lacking`."""
    return bool(versions.get(feature.request.API_KEY, (0, -1))[1] >= feature.version)


def refuse_lacking(versions: Mapping[int, tuple[int, int]], needs: Sequence[Feature], servers: str) -> None:
    """Refuse a broker that lacks a feature.

    Args:
        versions: the lowest and the highest version of each kind of request that the broker understands.
        needs: the features that are needed.
        servers: names the broker in messages.

    Raises:
        ConfigurationError: names the feature, and what to do.
    """
    for need in needs:
        if not has(versions, need):
            raise ConfigurationError(
                f"{servers}: the broker is too old. It lacks {need.request.name} {need.version}, which corlld needs "
                f"{need.purpose}; Kafka has it since {need.since}. Upgrade the broker to 2.8 or newer"
            )
        lowest, _ = versions[need.request.API_KEY]
        if lowest > need.request.max_version:
            raise ConfigurationError(
                f"{servers}: the broker is too new. It understands {need.request.name} from {lowest} on, and "
                f"kafka-python {kafka.__version__} up to {need.request.max_version}. Upgrade corlld"
            )


@contextmanager
def answers_understood(servers: str) -> Iterator[None]:
    """Report an answer that kafka-python can't read in a sentence. The block asks the broker, and nothing else.

    Raises ConfigurationError: asking again would bring the same answer.
    """
    try:
        yield
    except MISREADINGS as error:
        raise ConfigurationError(
            f"{servers}: the broker's answer is not as kafka-python {kafka.__version__} expects it "
            f"({type(error).__name__}: {error}). corlld is tested with Kafka 2.8 to 4.3"
        ) from error
