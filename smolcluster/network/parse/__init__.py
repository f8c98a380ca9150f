"""The text of each OS's own tools to values. Pure; what cannot be read is a FormatError that names the tool."""

from __future__ import annotations

from smolcluster.errors import InputError, Problem


class FormatError(InputError):
    """A tool printed something that is not known."""

    def __init__(self, tool: str, what: str) -> None:
        super().__init__([Problem("", 0, tool, what, "report this with the tool's output and the OS's version")])
