"""A file of lines that grows, read as it does: what was read is not read again.

It may be replaced as a whole: its writer thins it, a restarted rank cuts off steps that it takes again, a playbook
brings home another machine's. It is the one that was read before if it still has the same bytes just before the place
read to: an inode may be given again, a size be reached, and a copy with more lines is no other file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

# More than a line of metrics.jsonl: of two steps whole lines are never the same.
KNOWN_BY = 512


def known_by(file: BinaryIO, place: int) -> bytes:
    """What tells whether a file is still the one that was read up to `place`: its bytes just before that, fewer where
    it ends earlier.
    """
    begin = max(0, place - KNOWN_BY)
    file.seek(begin)
    return file.read(place - begin)


class Grown(NamedTuple):
    """Whole lines, without their ends. `anew`: it is another file than before, and these are its first lines."""

    lines: list[bytes]
    anew: bool


class Growing:
    """Remembers how far it has read. The file may be missing: what was read of it stays read.

    `end_bytes`: of a file that is longer when it is read first, or is another one, only so much of its end is read.
    """

    def __init__(self, path: Path, end_bytes: int | None = None) -> None:
        self._path = path
        self._end_bytes = end_bytes
        self._offset = 0
        self._before = b""

    def read(self, most_bytes: int = -1) -> Grown:
        """What has come since the last call; of a large file so much at a time, and a longer line whole.

        A line that has no end yet comes when it has one.
        """
        try:
            with self._path.open("rb") as file:
                anew = known_by(file, self._offset) != self._before
                if anew:
                    self._offset, self._before = 0, b""
                if not self._offset and self._end_bytes is not None:
                    self._skip(file, self._end_bytes)
                file.seek(self._offset)
                read = file.read(most_bytes)
                while b"\n" not in read and (more := file.read(most_bytes)):
                    read += more
        except OSError:
            return Grown([], False)
        whole, end, _ = read.rpartition(b"\n")
        if not end:
            return Grown([], anew)
        self._offset += len(whole) + 1
        self._before = (self._before + whole + end)[-KNOWN_BY:]
        return Grown(whole.split(b"\n"), anew)

    def _skip(self, file: BinaryIO, end_bytes: int) -> None:
        """To the first whole line of the file's end."""
        begin = os.fstat(file.fileno()).st_size - end_bytes
        if begin > 0:
            file.seek(begin)
            file.readline()
            self._offset = file.tell()
            self._before = known_by(file, self._offset)
