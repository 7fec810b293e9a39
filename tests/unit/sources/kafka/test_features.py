"""What corlld needs of a broker: asked by feature, and refused in a sentence."""

import pytest
from kafka.protocol.broker_version_data import BrokerVersionData
from kafka.protocol.consumer import FetchRequest

from corlld.errors import ConfigurationError
from corlld.sources.kafka.features import (
    IDEMPOTENCE,
    READING,
    STATIC_MEMBERS,
    Feature,
    answers_understood,
    refuse_lacking,
)


def versions(*kafka: int) -> dict[int, tuple[int, int]]:
    """What a broker of this version of Kafka understands, as kafka-python has recorded it."""
    recorded: dict[int, tuple[int, int]] = BrokerVersionData(kafka).api_versions
    return recorded


@pytest.mark.parametrize("kafka", [(2, 3), (2, 8), (3, 3), (3, 9), (4, 3)])
def test_brokers_with_all_features_are_taken(kafka: tuple[int, ...]) -> None:
    refuse_lacking(versions(*kafka), (*READING, *IDEMPOTENCE, *STATIC_MEMBERS), "kafka:9092")


@pytest.mark.parametrize(
    ("kafka", "needs", "lacks"),
    [
        ((0, 10, 2), READING, "Metadata.* 4.* without making it; Kafka has it since 0.11"),
        ((0, 10, 2), IDEMPOTENCE, "InitProducerId.* 0.* once, in order; Kafka has it since 0.11"),
        ((2, 2), STATIC_MEMBERS, "JoinGroup.* 5.* kafka.group_instance_id; Kafka has it since 2.3"),
    ],
)
def test_an_older_broker_is_refused_with_what_it_lacks(
    kafka: tuple[int, ...], needs: tuple[Feature, ...], lacks: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"kafka:9092: the broker is too old\. It lacks {lacks}"):
        refuse_lacking(versions(*kafka), needs, "kafka:9092")


def test_a_broker_that_dropped_what_the_client_speaks_is_refused_as_too_new() -> None:
    newer = versions(4, 3) | {FetchRequest.API_KEY: (99, 101)}
    with pytest.raises(ConfigurationError, match=r"too new\. It understands Fetch.* from 99 on.*up to \d+"):
        refuse_lacking(newer, READING, "kafka:9092")


@pytest.mark.parametrize("misreading", [KeyError("endpoint_type"), TypeError("None"), ValueError("not a UUID")])
def test_an_answer_that_is_not_understood_is_a_sentence(misreading: Exception) -> None:
    with (
        pytest.raises(ConfigurationError, match=rf"kafka:9092: .*not as kafka-python .*{type(misreading).__name__}"),
        answers_understood("kafka:9092"),
    ):
        raise misreading
