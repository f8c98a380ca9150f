"""Put a finished folder where another one may be, as atomically as the system allows.

Linux and macOS can exchange two names in one step, so that somebody who reads meanwhile finds the old folder or the new
one. Elsewhere (Windows, some file systems) two renames are needed; when the second fails, the old folder is put back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux, renameat2
_RENAME_SWAP = 2  # macOS, renamex_np


def put_in_place(building: Path, folder: Path) -> None:
    """Make `folder` what `building` is, which is gone afterwards. OSError leaves `folder` as it was."""
    if not folder.exists():
        building.rename(folder)
        return
    if exchange(building, folder):
        shutil.rmtree(building, ignore_errors=True)
        return
    old = building.with_name(building.name + "-old")
    folder.rename(old)
    try:
        building.rename(folder)
    except OSError:
        with contextlib.suppress(OSError):
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two existing names in one step. False where the system or the file system cannot: nothing changed."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "linux":
            done = library.renameat2(
                _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
            )
        elif sys.platform == "darwin":
            done = library.renamex_np(os.fsencode(one), os.fsencode(other), ctypes.c_uint(_RENAME_SWAP))
        else:
            done = -1
    except (AttributeError, OSError, TypeError):  # a C library without it; Windows has no library of this kind at all
        return False
    return int(done) == 0
