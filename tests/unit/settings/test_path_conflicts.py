"""Paths of the settings that would harm each other are refused. Others may lie as people like."""

from pathlib import Path

import pytest

from corlld.durable import StoreIdentity
from corlld.settings.path_conflicts import NAMES_OF_THE_STORE
from corlld.state.attempts_file import FOLDER as ATTEMPTS_FOLDER
from corlld.state.store import LocalFolderStore
from tests.support.settings_files import load, problems

UID = "0123456789abcdef" * 2
STORE = "which is the state store's alone, allowed: another place; in corlld.toml"
VERSIONS = "where a user's old versions are removed, allowed: another place; in corlld.toml"


def written(folder: Path, **paths: str) -> str:
    """Return settings: paths below the folder, by section and key, which are joined by two underscores."""
    lines = []
    for name, path in paths.items():
        section, _, key = name.partition("__")
        kind = 'kind = "jsonl"\n' if section == "source" else ""
        lines.append(f'[{section}]\n{kind}{key} = "{folder / path}"')
    return "\n".join(lines)


@pytest.mark.parametrize("part", sorted(NAMES_OF_THE_STORE))
@pytest.mark.parametrize(
    "name",
    ["publishing__path", "dead_letters__path", "source__path", "learning__rehearsal_path", "adapter__start_path"],
)
def test_nothing_may_lie_in_what_the_state_store_removes_from_and_lists(tmp_path: Path, name: str, part: str) -> None:
    toml = written(tmp_path, state__path="state", **{name: f"state/{part}/x"})
    said = f"{name.replace('__', '.')}: found a place in state/{part}, {STORE}"
    assert problems(tmp_path, toml) == [said]


def test_the_names_of_the_store_are_those_that_it_makes(tmp_path: Path) -> None:
    identity = StoreIdentity("secret", "cluster", "group", "model", "revision", "adapter")
    LocalFolderStore(tmp_path).open(identity, must_exist=False)
    assert {path.name for path in tmp_path.iterdir()} | {ATTEMPTS_FOLDER} == NAMES_OF_THE_STORE


@pytest.mark.parametrize(
    "name", ["state__path", "dead_letters__path", "source__path", "adapter__start_path", "model__name"]
)
def test_nothing_may_lie_among_the_versions_of_a_user(tmp_path: Path, name: str) -> None:
    toml = written(tmp_path, publishing__path="adapters", **{name: f"adapters/{UID}/v000001"})
    assert problems(tmp_path, toml) == [f"{name.replace('__', '.')}: found a place in adapters/{UID}, {VERSIONS}"]


def test_the_same_place_is_found_through_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to("state")
    for path, said in (
        ("link", "found the path of state.path, allowed: another folder; in corlld.toml"),
        ("link/users", f"found a place in state/users, {STORE}"),
        ("state/../state/outbox", f"found a place in state/outbox, {STORE}"),
    ):
        toml = written(tmp_path, state__path="state", publishing__path=path)
        assert problems(tmp_path, toml) == [f"publishing.path: {said}"]


@pytest.mark.parametrize("name", ["source__path", "learning__rehearsal_path", "model__name"])
def test_dead_letters_are_not_appended_to_what_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("file")
    setting = name.replace("__", ".")
    toml = written(tmp_path, dead_letters__path="link", **{name: "file"})
    assert problems(tmp_path, toml) == [
        f"dead_letters.path: found the path of {setting}, allowed: another file; in corlld.toml"
    ]
    toml = written(tmp_path, state__path="state", **{"source__path": "events", name: "state/dead-letters.jsonl"})
    assert problems(tmp_path, toml) == [
        f"{setting}: found the file of dead letters (dead_letters.path), allowed: another file; in corlld.toml"
    ]


@pytest.mark.parametrize(
    "paths",
    [
        {"state__path": "all", "publishing__path": "all/adapters", "dead_letters__path": "all/letters"},
        {"state__path": "all/state", "publishing__path": "all", "dead_letters__path": "all/letters"},
        {"state__path": "state", "publishing__path": "adapters", "source__path": "events.jsonl"},
    ],
)
def test_paths_of_the_settings_that_do_not_harm_each_other_are_accepted(tmp_path: Path, paths: dict[str, str]) -> None:
    assert load(tmp_path, written(tmp_path, **paths)).state.path == tmp_path / paths["state__path"]


def test_what_is_not_used_is_in_nobody_s_way(tmp_path: Path) -> None:
    toml = written(tmp_path, state__path="state", publishing__path="state/users")
    assert load(tmp_path, toml, CORLLD_PUBLISHING__ENABLED="false").state.url is None
    assert load(tmp_path, toml, CORLLD_STATE__URL="s3://bucket/states").publishing.enabled
