"""An archive of edits: what counts in it, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from corlld.errors import FatalError
from corlld.simulation.studies.real_edits.archive import CONTEXT_CHARS, MAX_CHARS, Sizes, read_edits, split
from tests.support.archives import archived, write_archive


def test_an_archive_that_is_not_there_or_not_valid_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"none\.jsonl: No such file"):
        read_edits(tmp_path / "none.jsonl")
    broken = archived("ann", 1, "a", "b")
    del broken["proposed"]
    file = write_archive(tmp_path, archived("ann", 0, "a", "b"), broken)
    with pytest.raises(FatalError, match="line 2: missing_field: proposed"):
        read_edits(file)
    file = write_archive(tmp_path, archived("ann", 0, "a", "b", commit=None))
    with pytest.raises(FatalError, match="line 1 has no `commit`"):
        read_edits(file)


def test_of_a_commit_three_edits_count_and_acceptances_and_long_texts_do_not(tmp_path: Path) -> None:
    file = write_archive(
        tmp_path,
        *(archived("ann", number, "a", "b", commit="one") for number in range(5)),
        archived("ann", 5, "a", "a", commit="two"),
        archived("ann", 6, "a", "b" * (MAX_CHARS + 1), commit="two"),
        archived("bob", 7, "a", "b", commit="one"),  # another one's commit, whatever it is called
    )
    found = read_edits(file)
    assert [each.event.event_id for each in found["ann"]] == ["ann-0", "ann-1", "ann-2"]
    assert [each.event.event_id for each in found["bob"]] == ["bob-7"]


def test_of_a_prompt_the_last_characters_are_kept(tmp_path: Path) -> None:
    prompt = "x" * 50 + "y" * CONTEXT_CHARS
    (edit,) = read_edits(write_archive(tmp_path, archived("ann", 0, "a", "b", prompt=prompt)))["ann"]
    assert edit.event.prompt == "y" * CONTEXT_CHARS


def test_reported_and_validation_editors_are_others_with_made_up_names(tmp_path: Path) -> None:
    counts = {"ann": 9, "bob": 7, "carl": 5, "dora": 3, "emil": 1}
    file = write_archive(
        tmp_path, *(archived(user, number, "a", "b") for user, count in counts.items() for number in range(count))
    )
    sizes = Sizes(editors=2, validation_editors=2, least=3, most=6)
    chosen = split(read_edits(file), sizes)
    assert [(editor.name, len(editor.edits)) for editor in chosen.reported] == [("editor 1", 6), ("editor 2", 6)]
    assert [(editor.name, len(editor.edits)) for editor in chosen.validation] == [
        ("validation editor 1", 5),
        ("validation editor 2", 3),
    ]
    users = [{each.event.user_id for each in editor.edits} for editor in (*chosen.reported, *chosen.validation)]
    assert users == [{"ann"}, {"bob"}, {"carl"}, {"dora"}]
    with pytest.raises(FatalError, match=r"4 editors with 4 edits .* and it has 3;"):
        split(read_edits(file), replace(sizes, least=4))
