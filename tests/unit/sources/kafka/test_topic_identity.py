"""The name by which states know a topic: its id, or a stand-in that stays when ids appear."""

import pytest

from corlld.errors import ConfigurationError, RetriableError
from corlld.sources.kafka.topic_identity import TopicIdentity
from tests.support.fakes import MemoryPositions

ONE, OTHER = "1" * 32, "2" * 32


def loaded(positions: MemoryPositions, topic_id: str | None, *, has_commits: bool = False) -> TopicIdentity:
    identity = TopicIdentity("edits", positions)
    identity.load(topic_id, has_commits=has_commits)
    return identity


def after_a_run_without_ids() -> MemoryPositions:
    positions = MemoryPositions()
    loaded(positions, None).save()
    return positions


def test_an_id_is_the_name_and_nothing_is_stored() -> None:
    positions = MemoryPositions()
    identity = loaded(positions, ONE, has_commits=True)
    identity.save()
    assert identity.name == ONE
    assert positions.saved == {}


def test_topics_without_an_id_have_different_names() -> None:
    names = set()
    for topic in ("edits", "other"):
        identity = TopicIdentity(topic, MemoryPositions())
        identity.load(None, has_commits=False)
        names.add(identity.name)
    assert names == {"name:edits", "name:other"}


def test_nothing_is_stored_before_it_is_asked_for() -> None:
    positions = MemoryPositions()
    assert loaded(positions, None).name == "name:edits"
    assert positions.saved == {}


def test_the_stand_in_stays_when_the_cluster_is_upgraded_between_two_runs() -> None:
    positions = after_a_run_without_ids()
    upgraded = loaded(positions, ONE, has_commits=True)
    upgraded.save()
    assert (upgraded.name, upgraded.topic_id) == ("name:edits", ONE)
    later = loaded(positions, ONE, has_commits=True)
    assert (later.name, later.topic_id) == ("name:edits", ONE)


def test_the_stand_in_stays_when_the_cluster_is_upgraded_under_a_running_daemon() -> None:
    positions = after_a_run_without_ids()
    running = loaded(positions, None, has_commits=True)
    assert running.note(ONE)
    running.save()
    assert not running.note(OTHER)
    assert running.name == "name:edits"
    assert loaded(positions, ONE, has_commits=True).topic_id == ONE


def test_an_answer_without_an_id_says_nothing_of_a_topic_that_has_one() -> None:
    identity = loaded(MemoryPositions(), ONE)
    assert identity.note(None)
    assert identity.note(ONE)
    assert not identity.note(OTHER)


def test_a_broker_that_gives_no_id_yet_after_another_one_did_changes_no_name() -> None:
    positions = after_a_run_without_ids()
    loaded(positions, ONE, has_commits=True).save()
    identity = loaded(positions, None, has_commits=True)
    assert (identity.name, identity.topic_id) == ("name:edits", ONE)


def test_a_topic_that_was_recreated_after_ids_appeared_is_known_by_its_id_from_then_on() -> None:
    positions = after_a_run_without_ids()
    loaded(positions, ONE, has_commits=True).save()
    recreated = loaded(positions, OTHER, has_commits=True)
    recreated.save()
    assert recreated.name == OTHER
    assert loaded(positions, OTHER, has_commits=True).name == OTHER
    assert loaded(positions, None, has_commits=True).name == OTHER


def test_ids_that_are_not_given_any_more_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="does not give the id of topic edits any more"):
        loaded(MemoryPositions(), None, has_commits=True)


def test_a_name_that_could_not_be_stored_is_stored_later() -> None:
    positions = MemoryPositions()
    identity = loaded(positions, None)
    positions.fails = True
    with pytest.raises(RetriableError):
        identity.save()
    positions.fails = False
    identity.save()
    assert loaded(positions, ONE, has_commits=True).name == "name:edits"


def test_a_reader_that_keeps_no_states_needs_no_place_for_names() -> None:
    identity = TopicIdentity("edits", None)
    identity.load(None, has_commits=True)
    identity.save()
    assert identity.name == "name:edits"
