"""The oracle and the summary of storms: each fault that they are to report is made by hand."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from safetensors.numpy import save

from tests.crash import summary
from tests.support import oracle
from tests.support.oracle import Case, Wanted

UID, OTHER = "a" * 32, "b" * 32
USER_ID, ERASED_EVENT = "ann@example.org", "event-7"
NEWEST: dict[str, Any] = {
    "version": 5,
    "erased_through": 3,
    "erased": False,
    "release": {"version": 5},
    "applied": {"topic/0": 9},
}
TOMBSTONE = NEWEST | {"version": 3, "erased": True, "release": None}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    folders = {name: tmp_path / name for name in ("state", "adapters")}
    for folder in folders.values():
        folder.mkdir()
    return Case("bootstrap", "topic", "group", "letters", str(folders["state"]), str(folders["adapters"]), "", {}, 0)


def put(folder: str, name: str, data: bytes = b"x") -> None:
    file = Path(folder, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def state_file(state: dict[str, Any], more: str = "") -> bytes:
    return save({"weights": numpy.zeros(2)}, {oracle.STATE_KEY: json.dumps(state | {"more": more})})


def problems_in_files(case: Case, newest: dict[str, Any] = NEWEST) -> list[str]:
    wanted = Wanted(USER_ID)
    wanted.gone.add(ERASED_EVENT)
    problems: list[str] = []
    oracle.judge_files(case, {UID: newest}, {UID: wanted}, problems)
    oracle.judge_versions(case, {UID: newest}, problems)
    return problems


def test_a_whole_store_has_no_problems(case: Case) -> None:
    put(case.state_folder, f"users/{UID}/000000000004.safetensors", state_file(NEWEST | {"version": 4, "applied": {}}))
    put(case.state_folder, f"users/{UID}/000000000005.safetensors", state_file(NEWEST))
    put(case.adapters_folder, f"{UID}/v000005/manifest.json")
    put(case.adapters_folder, ".probe-0123")
    assert problems_in_files(case) == []


@pytest.mark.parametrize("name", [f"users/{UID}/000000000005.safetensors", "attempts/0.json", f"temporary/{UID}-0"])
@pytest.mark.parametrize("secret", [USER_ID, ERASED_EVENT])
def test_what_was_erased_and_raw_user_ids_are_found_in_any_file(case: Case, name: str, secret: str) -> None:
    put(case.state_folder, name, state_file(NEWEST, more=secret))
    assert len(problems_in_files(case)) == 1
    assert problems_in_files(case)[0].startswith(f"{name} has ")
    assert bool(problems_in_files(replace(case, stops=1))) != name.startswith("temporary/")


@pytest.mark.parametrize("change", [{"version": 6}, {"applied": {"topic/0": 10}}, {"erased_through": 4}])
def test_a_generation_before_that_is_ahead_of_the_newest_is_found(case: Case, change: dict[str, Any]) -> None:
    put(case.state_folder, f"users/{UID}/previous.safetensors", state_file(NEWEST | change))
    assert problems_in_files(case) == [f"users/{UID}/previous.safetensors is ahead of the user's newest state"]


def test_a_generation_before_an_erasure_is_found(case: Case) -> None:
    before = TOMBSTONE | {"erased": False, "erased_through": 0}
    put(case.state_folder, f"users/{UID}/previous.safetensors", state_file(before))
    assert problems_in_files(case, TOMBSTONE) == [f"users/{UID}/previous.safetensors is there, and its user is erased"]


def test_a_part_of_an_erased_version_is_found(case: Case) -> None:
    put(case.adapters_folder, f"{UID}/v000003/adapter_model.safetensors")
    assert "['v000003/adapter_model.safetensors'] are left" in problems_in_files(case)[0]


def test_versions_of_an_unknown_user_are_found(case: Case) -> None:
    put(case.adapters_folder, f"{OTHER}/v000001/adapter_config.json")
    assert problems_in_files(case) == [f"{OTHER} has versions, and no state"]


Judge = Callable[[Sequence[tuple[int, str] | None]], list[str]]


@pytest.fixture
def announced(case: Case, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Judge a topic with these versions and digests of a user, or records without a value; a daemon was stopped."""

    def judge(words: Sequence[tuple[int, str] | None]) -> list[str]:
        values = [word and json.dumps({"version": word[0], "digest": word[1]}).encode() for word in words]
        records = [SimpleNamespace(key=UID.encode(), value=value) for value in values]
        monkeypatch.setattr(oracle, "read_topic", lambda *_: iter(records))
        problems: list[str] = []
        oracle.judge_announcements(replace(case, announce_topic="adapters", stops=1), {UID: NEWEST}, problems)
        return problems

    return judge


def test_announcements_may_come_twice_and_once_late(announced: Judge) -> None:
    assert announced([(3, "c"), (4, "d"), (4, "d"), None, (5, "e"), (4, "d"), (5, "e")]) == []


def test_versions_that_go_back_more_often_than_daemons_were_stopped_are_found(announced: Judge) -> None:
    (problem,) = announced([(4, "d"), (3, "c"), None, (3, "c"), (5, "e")])
    assert problem.startswith("versions went back")


def test_a_version_with_two_digests_is_found(announced: Judge) -> None:
    assert announced([(5, "e"), (5, "f")]) == [f"user {UID}: version 5 was announced with two digests"]


def test_an_announced_version_that_no_state_has_is_found(announced: Judge) -> None:
    assert announced([(6, "f"), (5, "e")]) == [f"versions were announced that no state has: {{'{UID}': 6}}"]


@pytest.mark.parametrize("last", [(4, "d"), None])
def test_a_last_word_that_is_not_the_newest_version_is_found(announced: Judge, last: tuple[int, str] | None) -> None:
    assert any(problem.startswith("last announced versions") for problem in announced([(4, "d"), (5, "e"), last]))


NOTE = f"outbox/{'c' * 32}.json"


@pytest.mark.parametrize(
    ("uids", "problem"),
    [
        ([UID], "its users were announced"),
        ([UID, OTHER], f"and ['{OTHER}'] were not announced"),
        (["d" * 32], f"and ['{'d' * 32}'] were not announced"),
    ],
)
def test_a_note_that_is_left_in_the_outbox_is_found(
    case: Case, monkeypatch: pytest.MonkeyPatch, uids: list[str], problem: str
) -> None:
    """The note was written in second 10; of two users, one was announced before, and one after."""
    words = [
        SimpleNamespace(key=key.encode(), timestamp=when) for key, when in ((UID, 9), (OTHER, 9_999), (UID, 10_000))
    ]
    monkeypatch.setattr(oracle, "read_topic", lambda *_: iter(words))
    case = replace(case, announce_topic="adapters")
    put(case.state_folder, f"temporary/note-{'c' * 32}", b"torn by a kill")
    assert problems_of_notes(case) == []
    put(case.state_folder, NOTE, json.dumps({"since": 10.0004, "uids": uids}).encode())
    assert problems_of_notes(case) == [f"{NOTE} is left, {problem}"]


def problems_of_notes(case: Case) -> list[str]:
    problems: list[str] = []
    oracle.judge_notes(case, problems)
    return problems


def letter_for(offset: int) -> SimpleNamespace:
    values = zip(oracle.COPY_HEADERS, (b"topic", b"0", str(offset).encode()), strict=True)
    return SimpleNamespace(key=f"x/known/0/{offset}".encode(), headers=[*values, ("corlld.reason", b"not_json")])


@pytest.mark.parametrize(
    ("letters", "kills", "problem"),
    [
        ([1, 1], False, None),
        ([2, 1], False, "dead letters sent more than 1 times: {'0/0': 2}"),
        ([20] + [1] * 9, True, None),
        ([21] + [1] * 9, True, "dead letters sent more than 20 times: {'0/0': 21}"),
        ([6, 5], True, "11 dead letters were sent for 2 records"),
    ],
)
def test_copies_of_dead_letters_are_bounded(
    case: Case, monkeypatch: pytest.MonkeyPatch, letters: list[int], kills: bool, problem: str | None
) -> None:
    sent = [letter_for(offset) for offset, count in enumerate(letters) for _ in range(count)]
    monkeypatch.setattr(oracle, "read_topic", lambda *_: iter(sent))
    problems: list[str] = []
    bad = {f"0/{offset}": "not_json" for offset in range(len(letters))}
    oracle.judge_dead_letters(replace(case, bad=bad, known_as="known", copies_allowed=kills), problems)
    assert problems == ([problem] if problem else [])


def test_versions_are_counted_since_the_last_erasure(case: Case) -> None:
    assert "1 versions for 2 updates" in versions_problem(case, NEWEST | {"version": 4}, updates=2)
    assert "versions for" not in versions_problem(case, NEWEST, updates=2)


def versions_problem(case: Case, state: dict[str, Any], updates: int) -> str:
    figures = {"pairs_applied": 0, "acceptances": 0, "no_difference": 0, "rejected": {}, "events": 0, "drafts": {}}
    whole = state | {"uid": UID, "statistics": figures | {"updates": updates}, "recent_event_ids": []}
    problems: list[str] = []
    oracle.judge_state(case, UID, whole | {"optimizer_step": 0}, {}, Wanted(USER_ID, erased=True), problems)
    return "\n".join(problems)


def verdict(**marks: int) -> dict[str, Any]:
    storm = dict.fromkeys(summary.SIGNALS, 2) | {"last_marks": marks}
    return {"storm": storm, "figures": dict.fromkeys(summary.FIGURES, 3), "problems": []}


def test_a_summary_counts_lives_and_falls_at_work() -> None:
    whole = summary.summary_of({"folder-1": verdict(none=4, saved=3), "minio-2": verdict(none=1, polled=1)})
    assert (whole["lives"], whole["falls_at_work"], whole["taken_over"], whole["records"]) == (9, 4, 4, 6)


@pytest.mark.parametrize("missing", ["minio", "versitygw"])
def test_a_summary_without_storms_on_an_s3_server_is_not_written(
    missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in {"folder", "minio", "versitygw"} - {missing}:
        put(str(tmp_path / "storms"), f"{kind}-1.json", json.dumps(verdict(none=1)).encode())
    put(str(tmp_path / "evidence"), "summary.json", b"of a whole run")
    summary.main(str(tmp_path / "storms"), str(tmp_path / "evidence"))
    assert (tmp_path / "evidence/summary.json").read_text() == "of a whole run"
    assert f"no storm ran on {missing}" in capsys.readouterr().out
    put(str(tmp_path / "storms"), f"{missing}-1.json", json.dumps(verdict(none=1)).encode())
    summary.main(str(tmp_path / "storms"), str(tmp_path / "evidence"))
    assert json.loads((tmp_path / "evidence/summary.json").read_text())["storms"] == 3
