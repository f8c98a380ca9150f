"""Who may look into a folder with secrets in it. On a Unix each file says so (mode 0600); Windows goes by folders."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

_ASKED_S = 30.0


def only_for_user(folder: Path) -> None:
    """On Windows: nobody but this user may look into the folder, nor into what will be in it. OSError if it cannot be.

    A home is closed to others anyway; a work folder on another disk is not. Elsewhere nothing has to be done.
    Not tried on a real Windows PC.
    """
    if sys.platform != "win32":
        return
    # By its SID, since names are translated. What the folder above would grant goes; what comes into it inherits this.
    rights = ["/inheritance:r", "/grant:r", f"*{_own_sid()}:(OI)(CI)F"]
    _tool(["icacls", str(folder), *rights, "/Q"])


def _own_sid() -> str:
    """Of `"pc\\me","S-1-5-21-..."`."""
    row = next(csv.reader([_tool(["whoami", "/user", "/fo", "csv", "/nh"]).strip()]))
    return row[-1]


def _tool(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASKED_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} did not end within {_ASKED_S:g} s") from error
    if done.returncode != 0:
        raise OSError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip() or f'exit code {done.returncode}'}")
    return done.stdout
