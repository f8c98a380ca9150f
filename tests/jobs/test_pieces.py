"""What a node's logs and metrics got since: brought in pieces, resumed by place, replaced as a whole."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import pytest

from smolcluster.jobs.pieces import Brought, Had, Piece, parse_have, read_pieces
from smolcluster.runtime.growing import KNOWN_BY


def have(here: Brought) -> tuple[str, ...]:
    return tuple(here.have)


def brought(there: Path, here: Brought, most: int = 100, rounds: int = 50) -> int:
    """Ask until nothing is new; how often something was."""
    for number in range(rounds):
        pieces = read_pieces(there, parse_have(here.have), most)
        if not pieces:
            return number
        before = have(here)
        assert sum(len(piece.bytes()) for piece in pieces) <= most + KNOWN_BY * len(pieces)
        here.take(pieces)
        assert have(here) != before, "what comes is new"
    raise AssertionError("it never ends")


def test_all_of_it_comes_and_grows(tmp_path: Path) -> None:
    there, home = tmp_path / "there", tmp_path / "home"
    (there / "rank-0").mkdir(parents=True)
    files = {"supervisor.txt": b"s" * 130, "rank-0/log.txt": os.urandom(270), "rank-0/metrics.jsonl": b"{}\n" * 50}
    for name, content in files.items():
        (there / name).write_bytes(content)
    (there / "control.json").write_text("secret")
    (there / "rank-0" / "links_used").write_text("secret")
    here = Brought(home)
    assert brought(there, here) > 3
    assert {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()} == files
    with (there / "rank-0" / "log.txt").open("ab") as log:
        log.write(b"more")
    assert brought(there, here) == 1
    assert (home / "rank-0" / "log.txt").read_bytes() == files["rank-0/log.txt"] + b"more"


def test_what_is_replaced_comes_whole(tmp_path: Path) -> None:
    there, home = tmp_path / "there", tmp_path / "home"
    (there / "rank-0").mkdir(parents=True)
    path, copy = there / "rank-0" / "metrics.jsonl", home / "rank-0" / "metrics.jsonl"
    path.write_bytes(b"a" * 250)
    here = Brought(home)
    brought(there, here)
    (there / "new").write_bytes(b"b" * 150)
    (there / "new").replace(path)
    here.take(read_pieces(there, parse_have(here.have), 100))
    assert copy.read_bytes() == b"a" * 250, "half of the new one is none"
    brought(there, here)
    assert copy.read_bytes() == b"b" * 150
    # A follower that begins anew knows nothing of what is there.
    brought(there, Brought(home))
    assert copy.read_bytes() == b"b" * 150
    path.write_bytes(b"")
    brought(there, here)
    assert copy.read_bytes() == b""


def test_what_is_replaced_without_another_inode_or_size_comes_whole(tmp_path: Path) -> None:
    """An inode may be given again, and a file that was cut may have grown to where it was."""
    there, home = tmp_path / "there", tmp_path / "home"
    there.mkdir()
    path, copy = there / "hardware.jsonl", home / "hardware.jsonl"
    here = Brought(home)
    lines = [b'{"time": %d}\n' % number for number in range(100)]
    path.write_bytes(b"".join(lines))
    brought(there, here)
    again = [*lines[:60], *(line.replace(b"time", b"TIME") for line in lines[60:])]
    for other in (b"".join(again), b"".join(lines[:60]), b"".join(lines)):
        asked = parse_have(here.have)
        path.write_bytes(other)
        here.take(read_pieces(there, asked, 5000))
        if other != b"".join(lines):
            assert copy.read_bytes() == other
    # What it had been cut to was its beginning: the rest of it comes, and nothing twice.
    assert copy.read_bytes() == b"".join(lines)
    assert not list(home.glob(".*"))


def test_answers_to_questions_from_before_another_file_came(tmp_path: Path) -> None:
    there, home = tmp_path / "there", tmp_path / "home"
    there.mkdir()
    path, copy = there / "supervisor.txt", home / "supervisor.txt"
    here = Brought(home)
    path.write_bytes(b"a" * 1000)
    first = read_pieces(there, parse_have(here.have))
    here.take(first)
    with path.open("ab") as file:
        file.write(b"A" * 1000)
    late = read_pieces(there, parse_have(here.have))
    path.write_bytes(b"b" * 1200)
    asked = parse_have(here.have)
    new = [read_pieces(there, asked, 1000) for _ in range(2)]
    here.take(new[0])
    # Of the old file; and what the other question brought once more.
    for pieces in (first, late, new[1]):
        here.take(pieces)
    assert copy.read_bytes() == b"a" * 1000
    here.take(read_pieces(there, parse_have(here.have), 1000))
    assert copy.read_bytes() == b"b" * 1200


def test_answers_that_come_twice_or_damaged(tmp_path: Path) -> None:
    there, home = tmp_path / "there", tmp_path / "home"
    there.mkdir()
    log, copy = there / "supervisor.txt", home / "supervisor.txt"
    log.write_bytes(b"one ")
    here = Brought(home)
    first = read_pieces(there, parse_have(here.have))
    log.write_bytes(b"one two ")
    second = read_pieces(there, parse_have(here.have))
    for pieces in (first, first, second):  # the second question left before the first one's answer came
        here.take(pieces)
    assert copy.read_bytes() == b"one two "
    [piece] = second
    gap = piece.model_copy(update={"offset": 100, "size": 200})
    elsewhere = [piece.model_copy(update={"name": name}) for name in ("../x", "rank-1/../../x", "rank-0/secret", "a")]
    junk = [piece.model_copy(update={"data": data}) for data in ("%%%", b64encode(b"no zlib").decode())]
    here.take([gap, *elsewhere, *junk])
    assert copy.read_bytes() == b"one two "
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and there not in path.parents] == [copy.name]


def test_what_a_question_says_is_there() -> None:
    assert parse_have(["rank-0/log.txt:1f:120"]) == {"rank-0/log.txt": Had("1f", 120)}
    for text in ("rank-0/log.txt", "a:b", "a:b:c", "a:b:-1"):
        with pytest.raises(ValueError):
            parse_have([text])
    assert read_pieces(Path("/nowhere"), {}) == ()
    with pytest.raises(ValueError):
        Piece(name="a", offset=0, size=1, data="%").bytes()
