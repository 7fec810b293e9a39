"""The newest generation is read whole although other owners add and remove generations meanwhile."""

import errno
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from corlld.state.generations import READ_ATTEMPTS, Generations
from corlld.system.durable_files import remove_all
from tests.support.bad_disk import refuse


@pytest.fixture
def generations(tmp_path: Path) -> Generations:
    return Generations(tmp_path / "user")


def write(generations: Generations, *numbers: int) -> None:
    generations.folder.mkdir(exist_ok=True)
    for number in numbers:
        generations.file(number).write_bytes(str(number).encode())


def test_without_a_folder_or_a_generation_there_is_no_newest_one(generations: Generations) -> None:
    assert (generations.newest(), generations.read_newest(Path.read_bytes)) == (None, None)
    write(generations)
    assert (generations.newest(), generations.read_newest(Path.read_bytes)) == (None, None)


def test_the_highest_number_is_the_newest_and_other_files_are_none(generations: Generations) -> None:
    write(generations, 9, 10, 11)
    (generations.folder / "99.safetensors").write_bytes(b"too few digits")
    (generations.folder / f"{99:012d}.safetensors.moved").write_bytes(b"set aside")
    assert generations.read_newest(Path.read_bytes) == (11, b"11")
    assert generations.before(11) == [generations.file(9), generations.file(10)]
    remove_all(generations.before(11))
    assert not generations.file(9).exists()
    assert not generations.file(10).exists()
    assert generations.newest() == 11
    assert len(list(generations.folder.iterdir())) == 3


def test_a_generation_that_goes_before_it_is_read_is_passed_over_for_the_newer_one(generations: Generations) -> None:
    write(generations, 1)

    def read(path: Path) -> bytes:
        if path == generations.file(1):
            write(generations, 2, 3)
            remove_all(generations.before(2))
        return path.read_bytes()

    assert generations.read_newest(read) == (3, b"3")


def test_states_that_always_change_before_they_are_read_are_given_up(generations: Generations) -> None:
    write(generations, 1)
    tried: list[Path] = []

    def read(path: Path) -> bytes:
        tried.append(path)
        raise FileNotFoundError

    with pytest.raises(OSError, match="change faster than they can be read"):
        generations.read_newest(read)
    assert len(tried) == READ_ATTEMPTS


def test_what_was_erased_is_no_generation_before_though_its_file_stays(generations: Generations) -> None:
    write(generations, 2, 3)
    assert generations.read_before_newest(Path.read_bytes) == (3, b"2")
    generations.mark_erased(3)
    assert generations.read_before_newest(Path.read_bytes) == (3, None)
    assert generations.newest() == 3
    assert generations.before(3) == [generations.file(2)], "it is still to be removed"
    write(generations, 4)
    assert generations.read_before_newest(Path.read_bytes) == (4, b"3")


def test_the_generation_before_is_looked_for_again_if_another_owner_has_removed_it_meanwhile(
    generations: Generations,
) -> None:
    write(generations, 1, 2)

    def read(path: Path) -> bytes:
        if path == generations.file(1):
            write(generations, 3)
            remove_all(generations.before(2))
        return path.read_bytes()

    assert generations.read_before_newest(read) == (3, b"2")
    remove_all([generations.file(2)])
    assert generations.read_before_newest(read) == (3, None)


def warnings_of_removals(generations: Generations, numbers: range) -> list[tuple[object, ...]]:
    """Store these generations one after the other, each of which has all but the one before removed."""
    with capture_logs() as lines:
        for number in numbers:
            write(generations, number)
            generations.try_to_remove(range(number - 1))
    return [(line["event"], line["uid"], line.get("files"), line["problem"]) for line in lines]


def test_generations_that_stay_are_logged_each_time_their_number_has_doubled(
    generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, [generations.file(number) for number in range(20)], ["unlink"], problem=errno.EPERM)
    assert warnings_of_removals(generations, range(1, 13)) == [
        ("generations_left", "user", files, "Operation not permitted") for files in (1, 2, 4, 8)
    ]


def test_a_single_generation_that_stays_is_logged_once(
    generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, [generations.file(4)], ["unlink"])
    assert warnings_of_removals(generations, range(1, 13)) == [("generations_left", "user", 1, "Input/output error")]
    assert generations.before(12) == [generations.file(4), generations.file(11)]


def test_a_folder_that_can_not_be_listed_fails_no_save_that_is_durable(
    generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(generations, 1, 2, 3)
    refuse(monkeypatch, [generations.folder], ["iterdir"])
    with capture_logs() as lines:
        generations.try_to_remove([1])
    assert [(line["event"], line["problem"]) for line in lines] == [("generations_left", "Input/output error")]
