"""scutil(8): the three names of a Mac."""

from __future__ import annotations

from . import preferences
from .told import Refused, is_root, unknown

_NAMES = ("ComputerName", "LocalHostName", "HostName")


def main(arguments: list[str]) -> int:
    """One call."""
    if len(arguments) == 2 and arguments[0] == "--get" and arguments[1] in _NAMES:
        name = preferences.load().names.get(arguments[1])
        if name is None:
            raise Refused(f"{arguments[1]}: not set", 1)
        print(name)
        return 0
    if len(arguments) == 3 and arguments[0] == "--set" and arguments[1] in _NAMES:
        if not is_root():
            raise Refused("set ComputerName failed: Permission denied", 1)
        with preferences.changed() as settings:
            settings.names[arguments[1]] = arguments[2]
        return 0
    raise unknown("scutil", " ".join(arguments))
