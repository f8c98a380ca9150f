"""What every layer asks of a file: its hash, writing it whole, what a refusal of the system means. Knows no runs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_FIXES = {
    errno.ENOSPC: "free space there, or keep fewer checkpoints (checkpoint.keep)",
    errno.EDQUOT: "raise the quota there, or keep fewer checkpoints (checkpoint.keep)",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "mount it writable, or choose another workdir in the inventory",
    errno.EACCES: "give its user the right to write there, or choose another workdir in the inventory",
    errno.EPERM: "give its user the right to write there, or choose another workdir in the inventory",
    errno.ENOTDIR: "move away the file that stands where a folder should be",
    errno.EEXIST: "move away the file that stands where a folder should be",
    errno.EISDIR: "move away the folder that stands where a file should be",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ELOOP: "mend the links there: they lead round in a circle",
    errno.EBUSY: "choose another place: the system holds this one",
    errno.EIO: "the disk fails: replace it",
}
_NO_PLACE = "choose another place: nothing can be made there"
Answer = TypeVar("Answer")
# How long Windows may keep a name to somebody who reads the file, or looks for viruses in it.
_HELD_S = 2.0
_LOOK_AGAIN_S = 0.01


class NoPlaceError(FileNotFoundError):
    """Nothing can be made there: a folder of the system's own (/proc), a drive that is not there. A file that is
    missing where it should be may be a bug of ours; this is none.
    """


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it; one that is there already stays. OSError, NoPlaceError among them."""
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise NoPlaceError(error.errno, error.strerror, str(path)) from error


def folder_aside(folder: Path, prefix: str) -> Path:
    """A new folder in that one, which is made too, to build something in. Its caller takes it away. OSError."""
    make_folder(folder)
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    except FileNotFoundError as error:
        raise NoPlaceError(error.errno, error.strerror, str(folder)) from error


def move_over(source: Path, target: Path) -> None:
    """Give a file that is whole its name; a file of that name is replaced in one step. OSError."""
    _unless_held(lambda: source.replace(target))


def read_replaced(path: Path) -> bytes:
    """Read a file that others replace with `move_over` meanwhile. OSError."""
    return _unless_held(path.read_bytes)


def _unless_held(call: Callable[[], Answer]) -> Answer:
    """On Windows a file that is open keeps its name, and one that is being replaced cannot be opened: both pass."""
    if sys.platform != "win32":
        return call()
    end, pause = time.monotonic() + _HELD_S, threading.Event()
    while True:
        try:
            return call()
        except PermissionError:
            if time.monotonic() > end:
                raise
            pause.wait(_LOOK_AGAIN_S)


def hash_of(path: Path) -> str:
    """A file's SHA-256, in hex. OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write text or bytes so that a reader sees the old file or the whole new one, also after a crash. Makes the
    folder. OSError, of `path` itself where the system refuses it.
    """
    make_folder(path.parent)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except FileNotFoundError as error:  # its folder is there, and is one of the system's own
        raise NoPlaceError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        error.filename = str(path)  # nobody knows the temporary one
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        move_over(Path(temporary), path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is not None:
            error.filename, error.filename2 = str(path), None
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def is_refusal(error: BaseException) -> bool:
    """Whether the system refused a file or folder for a reason that a person can mend, and that is no bug of ours."""
    return isinstance(error, NoPlaceError) or (isinstance(error, OSError) and error.errno in _FIXES)


def explain(error: OSError) -> str:
    """What the system said and how to mend it."""
    code = errno.errorcode.get(error.errno or 0, "error")
    otherwise = _NO_PLACE if isinstance(error, NoPlaceError) else "look at the disk and the folder's rights"
    fix = _FIXES.get(error.errno or 0, otherwise)
    return f"{code}, {error.strerror or error}. Fix: {fix}"


def explain_with_path(error: OSError) -> str:
    """The same, with the file or folder in front where the error knows it."""
    return f"{error.filename}: {explain(error)}" if error.filename else explain(error)
