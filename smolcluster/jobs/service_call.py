"""Asking the system's own service manager (systemd, launchd, Windows' task scheduler) for something."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from smolcluster.jobs.types import JobError

_DEADLINE_S = 20.0


def call(command: Sequence[str], program: str, failed: str, instead: str) -> str:
    """Run a command of a service manager; its stdout. JobError with the manager's own words where it refuses.

    `program` is named in the message, `failed` says what did not work, `instead` what a person can do where there is
    no such manager.
    """
    # What Windows' own tools write into a pipe is in the console's old code page, whatever Python takes for text.
    encoding = "oem" if sys.platform == "win32" else None
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding=encoding,
            errors="replace",
            timeout=_DEADLINE_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise JobError(f"there is no {program} on this node; {instead}") from error
    except subprocess.TimeoutExpired as error:
        raise JobError(f"{program} did not answer within {_DEADLINE_S:g} s; {instead}") from error
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise JobError(f"{program} {failed}: {said}")
    return done.stdout
