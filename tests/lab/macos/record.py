"""Every call of a stand-in, one JSON object a line: the contract for what a real Mac will be asked."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

LOG = Path("/var/log/lab-calls.jsonl")


def make() -> None:
    """The log, for everybody to add to."""
    LOG.touch()
    LOG.chmod(0o666)


def note(tool: str, arguments: list[str], code: int) -> None:
    """Add a call. One write of a short line with O_APPEND: calls side by side do not mix."""
    line = json.dumps({"time": time.time(), "user": os.geteuid(), "argv": [tool, *arguments], "exit": code})
    with LOG.open("ab", buffering=0) as log:
        log.write(line.encode() + b"\n")
