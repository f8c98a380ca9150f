"""A file of lines that grows, each line once: what was read is not read again."""

from __future__ import annotations

import os
from pathlib import Path


class Growing:
    """Remembers how far it has read. The file may be missing, and may be replaced by another: that is read whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._read = 0

    def lines(self) -> list[bytes]:
        """The whole lines that have come since the last call. One that has no end yet comes when it has."""
        try:
            file = self._path.open("rb")
        except OSError:
            return []
        with file:
            state = os.fstat(file.fileno())
            if (state.st_dev, state.st_ino) != self._file or state.st_size < self._read:
                self._file, self._read = (state.st_dev, state.st_ino), 0
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._read += len(whole) + 1
        return whole.split(b"\n")
