"""Settings that another setting makes useless are named: nothing that was asked is silently left undone."""

from pathlib import Path

import pytest

from corlld.settings.unused import unused
from tests.support.settings_files import load

FILE = {"kind": "jsonl", "is_topic": False}
TOPIC = {"kind": "kafka", "is_topic": True}


@pytest.mark.parametrize(
    ("toml", "how", "line"),
    [
        ("[kafka]\ntopic = 'other'", FILE, "kafka.topic (source.kind is jsonl: only `corlld send` reads this)"),
        (
            "[kafka]\nbootstrap_servers = ['b:1']",
            FILE,
            "kafka.bootstrap_servers (source.kind is jsonl: only `corlld send` reads this)",
        ),
        (
            "[kafka]\ngroup_id = 'g'\nstart_at = 'latest'",
            FILE,
            "kafka.group_id, kafka.start_at (source.kind is jsonl)",
        ),
        ("[dead_letters]\ntopic = 'd'", FILE, "dead_letters.topic (source.kind is jsonl)"),
        ("[events]\ntombstones_erase = true", FILE, "events.tombstones_erase (source.kind is jsonl)"),
        (
            "[source]\npath = 'e'\nfollow = true\n[dead_letters]\npath = 'd'",
            TOPIC,
            "source.path, source.follow, dead_letters.path (source.kind is kafka)",
        ),
        ("[state]\npath = 's'\nurl = 's3://b/p'", TOPIC, "state.path (state.url replaces it)"),
        (
            "[publishing]\nenabled = false\nkeep_versions = 9",
            TOPIC,
            "publishing.keep_versions (publishing.enabled is off)",
        ),
        (
            "[learning]\nimitation_weight = 0\nimitation_tokens = 'changed'",
            TOPIC,
            "learning.imitation_tokens (learning.imitation_weight is 0)",
        ),
    ],
)
def test_what_is_set_and_not_used_is_named_with_the_reason(
    tmp_path: Path, toml: str, how: dict[str, object], line: str
) -> None:
    kind, is_topic = str(how["kind"]), bool(how["is_topic"])
    assert unused(load(tmp_path, toml), kind=kind, is_topic=is_topic) == [f"not used: {line}"]


def test_defaults_are_not_named_also_if_they_are_written(tmp_path: Path) -> None:
    toml = "[kafka]\ntopic = 'edits'\n[source]\nfollow = false\n[state]\npath = '/var/lib/corlld/state'"
    settings = load(tmp_path, toml, CORLLD_STATE__URL="s3://b/p", CORLLD_PUBLISHING__ENABLED="false")
    assert unused(settings, kind="jsonl", is_topic=False) == unused(settings, kind="kafka", is_topic=True) == []


def test_what_is_used_is_not_named(tmp_path: Path) -> None:
    """Announcements connect to the brokers, beside a file too. An arm may imitate what [learning] does not."""
    toml = """
        [kafka]
        bootstrap_servers = ["b:1"]
        [publishing]
        announce_topic = "versions"
        [learning]
        imitation_weight = 0
        imitation_tokens = "changed"
        [[experiment.arms]]
        name = "imitating"
        share = 0.1
        learning = { imitation_weight = 0.1 }
    """
    assert unused(load(tmp_path, toml), kind="jsonl", is_topic=False) == []
