"""The newest generation is read whole although other owners add and remove generations meanwhile."""

from pathlib import Path

import pytest

from corlld.state.generations import READ_ATTEMPTS, Generations
from corlld.system.durable_files import remove_all


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
