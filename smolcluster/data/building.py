"""How a data folder comes to be: built aside, under the hash of its content, and renamed into place.

A reader never sees half a folder, and of two callers at once one wins and the other takes the winner's, which holds
the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from smolcluster.data.samples import open_samples
from smolcluster.errors import ConfigError
from smolcluster.files import folder_aside

BUILDING = ".building-"
# No preparation takes a day.
ABANDONED_S = 86_400


@contextlib.contextmanager
def workshop(cache: Path) -> Iterator[Path]:
    """A folder to build in, gone afterwards. What callers that were killed left behind goes too."""
    building = folder_aside(cache, BUILDING)
    _sweep(cache)
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def folder_name(dataset: str, facts: list[object]) -> str:
    """The name of a data folder: everything that decides its content is in `facts`."""
    return f"{dataset}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"


def is_whole(folder: Path) -> bool:
    """True for a good folder; a damaged one is removed so that it is made again."""
    if not folder.is_dir():
        return False
    try:
        open_samples(folder)
        return True
    except ConfigError:
        pass
    shutil.rmtree(folder)  # out here nothing holds its files open, which Windows would mind
    return False


def move_into_place(building: Path, final: Path) -> None:
    """Rename; where another caller was first its folder stays, which holds the same."""
    building.chmod(0o755)  # mkdtemp's 0700 would keep other users of the machine out
    try:
        building.rename(final)
    except OSError:
        if not is_whole(final):
            building.rename(final)


def write_file(file: Path, data: bytes) -> None:
    """Write a file whole, down to the disk."""
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sweep(cache: Path) -> None:
    for left in cache.glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left)
