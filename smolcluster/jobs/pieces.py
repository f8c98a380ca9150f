"""What a node's growing files have got since somebody asked last: how its logs and metrics reach the controller while a
run goes on, a piece with each poll.

metrics.jsonl is now and then replaced by a shorter one. A file is known as everywhere (runtime/growing.py), by what
stands before the place that was read to: a question says the hash of that, and an answer begins with it. Another file
is brought from its beginning, and takes the other's place here when all of it has come. collect.yml brings the whole
files in the end, of which all of this is the beginning.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from smolcluster.files import move_over
from smolcluster.runtime.growing import KNOWN_BY, known_by
from smolcluster.spec.base import Frozen

# Of all files of a node together, with one poll; packed it is a fraction of that.
MOST_BYTES = 512 << 10
_NAMES = re.compile(r"(?:supervisor\.txt|hardware\.jsonl|rank-\d{1,7}/(?:metrics\.jsonl|log\.txt|requests\.jsonl))\Z")
_PATTERNS = (
    "supervisor.txt",
    "hardware.jsonl",
    "rank-*/metrics.jsonl",
    "rank-*/log.txt",
    "rank-*/requests.jsonl",
)


class Piece(Frozen):
    """Bytes of a file from a place on, what the asker has to know it by before those that are new. `size` is all of
    the file, `data` is packed. `anew`: it is another file than the one that was asked for, from its beginning.
    """

    name: str
    offset: int
    size: int
    data: str
    anew: bool = False

    def bytes(self) -> bytes:
        """What it holds. ValueError: it came damaged."""
        unpacking = zlib.decompressobj()
        try:
            # A piece is never larger, whatever it says of itself.
            return unpacking.decompress(b64decode(self.data, validate=True), MOST_BYTES + KNOWN_BY)
        except zlib.error as error:
            raise ValueError(str(error)) from error


class Had(NamedTuple):
    """How much of a file is there where the question comes from, and the hash of what that ends with."""

    digest: str
    offset: int


@dataclass
class _Place:
    """How far a file has come, and what that ends with."""

    offset: int = 0
    before: bytes = b""
    # It is to replace the one that is here, when all of it has come.
    fresh: bool = False


def parse_have(texts: Sequence[str]) -> dict[str, Had]:
    """What a poll says that is there already: `NAME:DIGEST:OFFSET` of each file. ValueError."""
    have = {}
    for text in texts:
        name, digest, offset = text.rsplit(":", 2)
        if not offset.isdecimal():
            raise ValueError(f"{offset!r} is no place in a file")
        have[name] = Had(digest, int(offset))
    return have


def read_pieces(folder: Path, have: Mapping[str, Had], most: int = MOST_BYTES) -> tuple[Piece, ...]:
    """What the files of a node's folder have beyond that, `most` bytes of all together. What cannot be read waits."""
    files = sorted(path for pattern in _PATTERNS for path in folder.glob(pattern))
    pieces = []
    for number, path in enumerate(files):
        name = path.relative_to(folder).as_posix()
        had = have.get(name)
        offset = had.offset if had is not None else 0
        try:
            with path.open("rb") as file:
                before = known_by(file, offset)
                anew = had is not None and _digest(before) != had.digest
                if anew:
                    offset, before = 0, b""
                file.seek(offset)
                # What one file does not need is for those after it.
                data = file.read(max(0, most // (len(files) - number)))
                size = max(os.fstat(file.fileno()).st_size, offset + len(data))
        except OSError:
            continue
        if data or anew or had is None:
            most -= len(data)
            packed = b64encode(zlib.compress(before + data)).decode()
            pieces.append(Piece(name=name, offset=offset - len(before), size=size, data=packed, anew=anew))
    return tuple(pieces)


class Brought:
    """The copies of one node's files here, which grow with each answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, _Place] = {}

    @property
    def have(self) -> list[str]:
        """What is to be said with the next question."""
        return [f"{name}:{_digest(place.before)}:{place.offset}" for name, place in sorted(self._places.items())]

    def take(self, pieces: Sequence[Piece]) -> None:
        """Add what is new in an answer. What came before, or does not fit, is left out. OSError."""
        for piece in pieces:
            if _NAMES.match(piece.name) is None:
                continue
            try:
                data = piece.bytes()
            except ValueError:
                continue
            place = self._places.get(piece.name)
            if place is None or piece.anew:
                if piece.offset:
                    continue
                place = self._begin(piece.name)
            # Questions are asked before the answers to earlier ones are there: an answer may begin with what they had.
            known = place.offset - piece.offset
            if len(place.before) <= known <= len(data) and data[:known].endswith(place.before):
                self._add(piece, place, data[known:])

    def _begin(self, name: str) -> _Place:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        place = _Place(fresh=path.exists())
        _fresh(path).unlink(missing_ok=True)
        self._places[name] = place
        return place

    def _add(self, piece: Piece, place: _Place, data: bytes) -> None:
        path = self._folder / piece.name
        with (_fresh(path) if place.fresh else path).open("ab") as file:
            file.write(data)
        place.offset += len(data)
        place.before = (place.before + data)[-KNOWN_BY:]
        if place.fresh and place.offset >= piece.size:
            move_over(_fresh(path), path)
            place.fresh = False


def _fresh(path: Path) -> Path:
    return path.with_name(f".{path.name}.fresh")


def _digest(before: bytes) -> str:
    return hashlib.sha256(before).hexdigest()[:16]
