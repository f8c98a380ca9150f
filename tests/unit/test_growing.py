"""A file of lines that grows: what is given of it, when, and when it is another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.files import write_atomic
from smolcluster.runtime.growing import Growing, Grown

NOTHING = Grown([], False)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_a_line_comes_once_and_when_it_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    growing = Growing(path)
    assert growing.read() == NOTHING
    append(path, b'{"a": 1}\n{"b"')
    assert growing.read() == Grown([b'{"a": 1}'], False)
    assert growing.read() == NOTHING
    append(path, b": 2}\n\n\xff\x00\n")
    assert growing.read() == Grown([b'{"b": 2}', b"", b"\xff\x00"], False)
    path.unlink()
    assert growing.read() == NOTHING
    # It has come back, longer.
    path.write_bytes(b'{"a": 1}\n{"b": 2}\n\n\xff\x00\nlast\n')
    assert growing.read() == Grown([b"last"], False)


@pytest.mark.parametrize(
    "other",
    [b"A\nb\nc\nd\ne\n", b"a\n", b"", b"no end"],
    ids=["longer", "shorter", "empty", "half a line"],
)
def test_another_file_of_that_name_is_read_from_its_beginning(tmp_path: Path, other: bytes) -> None:
    path = tmp_path / "lines"
    growing = Growing(path)
    path.write_bytes(b"a\nb\nc\n")
    assert growing.read() == Grown([b"a", b"b", b"c"], False)
    path.write_bytes(other)  # the same inode
    assert growing.read() == Grown(other.split(b"\n")[:-1], True)
    append(path, b"\nnew\n")
    # What had no end has got one.
    assert growing.read() == Grown([*(other + b"\nnew\n").split(b"\n")[other.count(b"\n") : -1]], False)


def test_a_copy_that_takes_its_place_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    growing = Growing(path)
    lines = [f"line {number}" for number in range(1000)]
    write_atomic(path, "\n".join(lines[:900]) + "\n")
    assert growing.read().lines == [line.encode() for line in lines[:900]]
    write_atomic(path, "\n".join(lines) + "\n")
    assert growing.read() == Grown([line.encode() for line in lines[900:]], False)
    # Thinned, and grown again to where it was: the lines before that place are others.
    thinned = lines[1::2] + ["later"] * 2000
    write_atomic(path, "\n".join(thinned) + "\n")
    assert growing.read() == Grown([line.encode() for line in thinned], True)


def test_of_what_is_long_at_first_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    growing = Growing(path, end_bytes=20)
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(10)))
    assert growing.read() == Grown([b"line 8", b"line 9"], False)
    append(path, b"".join(b"more %d\n" % number for number in range(10)))
    assert growing.read() == Grown([b"more %d" % number for number in range(10)], False)
    path.write_bytes(b"".join(b"then %d\n" % number for number in range(10)))
    assert growing.read() == Grown([b"then 8", b"then 9"], True)
    # One line that is longer than that has its end, and no beginning.
    path.write_bytes(b"x" * 50 + b"\n")
    assert growing.read() == Grown([], True)
    append(path, b"next\n")
    assert growing.read() == Grown([b"next"], False)


def test_a_large_file_comes_in_pieces_and_a_long_line_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    growing = Growing(path)
    lines = [b"x" * 7, b"y" * 100, b"", b"z" * 3]
    path.write_bytes(b"\n".join(lines) + b"\nhalf")
    found, pieces = [], 0
    while grown := growing.read(10).lines:
        found += grown
        pieces += 1
    assert (found, pieces > 1) == (lines, True)
    append(path, b" more\n")
    assert growing.read(10).lines == [b"half more"]
