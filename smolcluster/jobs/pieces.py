"""What a node's growing files have got since somebody asked last: how its logs and metrics reach the controller while a
run goes on, a piece with each poll.

A file is known by its place on the disk besides its name: metrics.jsonl is now and then replaced by a shorter one,
which is brought from its beginning then, and takes the other's place here when all of it has come. collect.yml brings
the whole files in the end, of which all of this is the beginning.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smolcluster.files import move_over
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
    """Bytes of a file from a place on. `identity` tells which file it is, `size` is all of it; `data` is packed."""

    name: str
    identity: str
    offset: int
    size: int
    data: str

    def bytes(self) -> bytes:
        """What it holds. ValueError: it came damaged."""
        unpacking = zlib.decompressobj()
        try:
            # A piece is never larger, whatever it says of itself.
            return unpacking.decompress(b64decode(self.data, validate=True), MOST_BYTES)
        except zlib.error as error:
            raise ValueError(str(error)) from error


@dataclass
class Place:
    """How far a file has come."""

    identity: str
    offset: int
    # It is to replace the one that is here, when all of it has come.
    fresh: bool = False


def parse_have(texts: Sequence[str]) -> dict[str, Place]:
    """What a poll says that is there already: `NAME:IDENTITY:OFFSET` of each file. ValueError."""
    have = {}
    for text in texts:
        name, identity, offset = text.rsplit(":", 2)
        have[name] = Place(identity, int(offset))
    return have


def read_pieces(folder: Path, have: dict[str, Place], most: int = MOST_BYTES) -> tuple[Piece, ...]:
    """What the files of a node's folder have beyond that, `most` bytes of all together. What cannot be read waits."""
    files = sorted(path for pattern in _PATTERNS for path in folder.glob(pattern))
    pieces = []
    for number, path in enumerate(files):
        name = path.relative_to(folder).as_posix()
        try:
            with path.open("rb") as file:
                stat = path.stat()
                identity, known = f"{stat.st_ino:x}", have.get(name)
                same = known is not None and known.identity == identity and known.offset <= stat.st_size
                offset = known.offset if known is not None and same else 0
                file.seek(offset)
                # What one file does not need is for those after it.
                data = file.read(min(stat.st_size - offset, max(0, most // (len(files) - number))))
        except OSError:
            continue
        if data or not same:
            most -= len(data)
            packed = b64encode(zlib.compress(data)).decode()
            pieces.append(Piece(name=name, identity=identity, offset=offset, size=stat.st_size, data=packed))
    return tuple(pieces)


class Brought:
    """The copies of one node's files here, which grow with each answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, Place] = {}

    @property
    def have(self) -> list[str]:
        """What is to be said with the next question."""
        return [f"{name}:{place.identity}:{place.offset}" for name, place in sorted(self._places.items())]

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
            if place is None or place.identity != piece.identity or piece.size < place.offset:
                if piece.offset:
                    continue
                place = self._begin(piece)
            skipped = place.offset - piece.offset
            if skipped < 0 or (skipped >= len(data) and data):
                continue
            self._add(piece, place, data[skipped:])

    def _begin(self, piece: Piece) -> Place:
        path = self._folder / piece.name
        path.parent.mkdir(parents=True, exist_ok=True)
        place = Place(piece.identity, 0, fresh=path.exists())
        _fresh(path).unlink(missing_ok=True)
        self._places[piece.name] = place
        return place

    def _add(self, piece: Piece, place: Place, data: bytes) -> None:
        path = self._folder / piece.name
        with (_fresh(path) if place.fresh else path).open("ab") as file:
            file.write(data)
        place.offset += len(data)
        if place.fresh and place.offset >= piece.size:
            move_over(_fresh(path), path)
            place.fresh = False


def _fresh(path: Path) -> Path:
    return path.with_name(f".{path.name}.fresh")
