"""Files that are there whole or not at all, also after a power cut, and are hashed while they are written. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from smolcluster.files import move_over

# Large enough that hashing and writing let go of the interpreter for long, small enough to stop between two of them.
CHUNK_BYTES = 4 << 20
PART = ".part"


class WholeFile:
    """A file under a temporary name, which takes its own with `commit`. A context manager: without that it goes.

    `sha256` and `bytes` are of what was written so far.
    """

    def __init__(self, path: Path) -> None:
        """Make the folder and begin. OSError."""
        self.path = path
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._part = path.with_name(f".{path.name}{PART}")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: an error of the disk belongs to the write that met it, not to a later close.
        self._file = self._part.open("wb", buffering=0)

    @property
    def sha256(self) -> str:
        """The hash so far, in hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Append. OSError."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        while view:
            written = self._file.write(view) or 0
            self.bytes += written
            view = view[written:]

    def commit(self) -> None:
        """Give the file its name; it is on the disk when this returns. OSError."""
        os.fsync(self._file.fileno())
        self._file.close()
        move_over(self._part, self.path)
        sync_folder(self.path.parent)

    def __enter__(self) -> WholeFile:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        remove(self._part)


def write_whole(path: Path, chunks: Iterable[bytes | memoryview]) -> WholeFile:
    """Write a file; its hash and size are in what is returned. OSError; nothing of the file is left then."""
    with WholeFile(path) as file:
        for chunk in chunks:
            file.write(chunk)
        file.commit()
    return file


def sync_folder(folder: Path) -> None:
    """Make a rename in that folder last. Windows cannot, and keeps order by itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file if it is there. What cannot be removed stays: another time it may be."""
    with contextlib.suppress(OSError):
        path.unlink()
