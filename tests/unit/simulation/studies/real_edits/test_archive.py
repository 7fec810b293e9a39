"""An archive of edits: what counts in it, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from corlld.errors import FatalError
from corlld.simulation.studies.real_edits.archive import MAX_CHARS, Sizes, read_edits, split
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
        archived("ann", 6, "a", "b" * MAX_CHARS, commit="two"),
        archived("bob", 7, "a", "b", commit="one"),  # another one's commit, whatever it is called
    )
    found = read_edits(file)
    assert [each.event.event_id for each in found["ann"]] == ["ann-0", "ann-1", "ann-2"]
    assert [each.event.event_id for each in found["bob"]] == ["bob-7"]


def test_reported_and_validation_editors_are_others_with_equal_numbers_and_made_up_names(tmp_path: Path) -> None:
    counts = {"ann": 9, "bob": 7, "carl": 5, "dora": 3, "emil": 1}
    file = write_archive(
        tmp_path, *(archived(user, number, "a", "b") for user, count in counts.items() for number in range(count))
    )
    sizes = Sizes(editors=2, edits=6, validation_editors=2, validation_edits=3)
    chosen = split(read_edits(file), sizes)
    assert [(editor.name, len(editor.edits)) for editor in chosen.reported] == [("editor 1", 6), ("editor 2", 6)]
    assert [(editor.name, len(editor.edits)) for editor in chosen.validation] == [
        ("validation editor 1", 3),
        ("validation editor 2", 3),
    ]
    users = [{each.event.user_id for each in editor.edits} for editor in (*chosen.reported, *chosen.validation)]
    assert users == [{"ann"}, {"bob"}, {"carl"}, {"dora"}]
    with pytest.raises(FatalError, match=r"2 editors with 8 edits .* and it has 1;"):
        split(read_edits(file), replace(sizes, edits=8))
    with pytest.raises(FatalError, match="3 editors with 3 edits are needed, for validation, and it has 2"):
        split(read_edits(file), replace(sizes, validation_editors=3))
