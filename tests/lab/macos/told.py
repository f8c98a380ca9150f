"""How a stand-in refuses."""

from __future__ import annotations

import os

# EX_USAGE: what these stand-ins do not know of the real tool.
UNKNOWN = 64


class Refused(Exception):
    """The tool's own message and exit code. networksetup writes its errors to standard output, others do not."""

    def __init__(self, message: str, code: int, on_stdout: bool = False) -> None:
        super().__init__(message)
        self.message, self.code, self.on_stdout = message, code, on_stdout


def unknown(tool: str, what: object) -> Refused:
    """For what the real tool may well do, and this one does not know."""
    return Refused(f"{tool}: the lab's stand-in does not know {what}", UNKNOWN)


def is_root() -> bool:
    """Whether the caller may change the system."""
    return os.geteuid() == 0
