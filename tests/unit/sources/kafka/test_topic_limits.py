"""A topic's own settings, judged by what is written to it."""

import pytest

from corlld.errors import ConfigurationError
from corlld.settings.sections import EventSettings
from corlld.sources.kafka.topic_limits import acknowledged_by_newer, letters_cut, refuse_unacknowledged, unknown_limits

KAFKAS_DEFAULTS = {"min.insync.replicas": "1", "max.message.bytes": "1048588"}


def test_kafkas_defaults_take_the_letters_of_corllds_defaults() -> None:
    refuse_unacknowledged("dead", 1, KAFKAS_DEFAULTS, capped=False)
    assert acknowledged_by_newer("dead", 1, KAFKAS_DEFAULTS) is None
    assert letters_cut("dead", EventSettings().max_record_bytes, KAFKAS_DEFAULTS) is None
    assert unknown_limits("dead", KAFKAS_DEFAULTS, refused=False) is None


@pytest.mark.parametrize(("replicas", "refused"), [(1, True), (2, False), (0, False)])  # 0: not known
def test_a_topic_with_fewer_replicas_than_must_acknowledge_is_refused(replicas: int, refused: bool) -> None:
    limits = {"min.insync.replicas": "2"}
    if not refused:
        refuse_unacknowledged("dead", replicas, limits, capped=False)
        assert acknowledged_by_newer("dead", replicas, limits) is None
        return
    with pytest.raises(ConfigurationError, match="topic dead never acknowledges a record: it has 1 replica, and its"):
        refuse_unacknowledged("dead", replicas, limits, capped=False)


def test_a_topic_with_fewer_replicas_is_a_remark_where_the_broker_asks_no_others() -> None:
    limits = {"min.insync.replicas": "2"}
    refuse_unacknowledged("dead", 1, limits, capped=True)
    assert acknowledged_by_newer("dead", 1, limits) == (
        "Brokers before Kafka 3.7 never acknowledge a record of topic dead: it has 1 replica, and its "
        "min.insync.replicas is 2. Give it more replicas, or set min.insync.replicas to 1 at most"
    )


def test_a_topic_that_takes_no_letter_at_all_is_refused() -> None:
    refuse_unacknowledged("dead", 1, {"max.message.bytes": "2048"}, capped=True)
    with pytest.raises(ConfigurationError, match=r"its max.message.bytes is 2,047. Set it to 2,048 at least"):
        refuse_unacknowledged("dead", 1, {"max.message.bytes": "2047"}, capped=True)


def test_a_topic_that_takes_no_large_letters_is_said_with_what_to_set() -> None:
    assert letters_cut("dead", 1000, {"max.message.bytes": "17384"}) is None
    assert (letters_cut("dead", 1000, {"max.message.bytes": "17383"}) or "").endswith(
        "max.message.bytes of topic dead is 17,383, and events.max_record_bytes allows values of 1,000. Set "
        "max.message.bytes to 17,384"
    )
    assert letters_cut("dead", 1000, {}) is None


def test_limits_that_could_not_be_asked_are_named() -> None:
    known = {"min.insync.replicas": "1"}
    assert unknown_limits("dead", known, refused=True) == (
        "max.message.bytes could not be asked: that needs DescribeConfigs on topic dead"
    )
    assert unknown_limits("dead", known, refused=False) == "The broker does not report max.message.bytes of topic dead"


def test_limits_that_are_no_numbers_are_not_known() -> None:
    odd = {"min.insync.replicas": "all", "max.message.bytes": "1 MiB"}
    refuse_unacknowledged("dead", 1, odd, capped=False)
    assert letters_cut("dead", 1000, odd) is None
    assert unknown_limits("dead", odd, refused=False) == (
        "The broker does not report min.insync.replicas and max.message.bytes of topic dead"
    )
