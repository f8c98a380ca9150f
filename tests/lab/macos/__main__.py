"""`python -m macos TOOL ARGUMENTS`: one call of a stand-in, noted with its exit code."""

from __future__ import annotations

import sys
from importlib import import_module

from . import record
from .told import Refused

# Tool -> its module here, and the function. A playbook makes hundreds of calls: each imports what it needs and no more.
_TOOLS = {
    "networksetup": ("networksetup", "main"),
    "scutil": ("scutil", "main"),
    "ifconfig": ("ifconfig", "main"),
    "route": ("route", "main"),
    "netstat": ("route", "netstat"),
    "sysctl": ("sysctl", "main"),
    "system_profiler": ("profiler", "main"),
    "launchctl": ("launchctl", "main"),
    "ping": ("ping", "main"),
    "ipconfig": ("small", "ipconfig"),
    "sw_vers": ("small", "sw_vers"),
    "pmset": ("small", "pmset"),
    "caffeinate": ("small", "caffeinate"),
    "pfctl": ("small", "pfctl"),
    "socketfilterfw": ("small", "socketfilterfw"),
}


def main() -> int:
    tool, *arguments = sys.argv[1:]
    module, function = _TOOLS[tool]
    call = getattr(import_module(f".{module}", __package__), function)
    try:
        code = call(arguments)
    except Refused as refused:
        print(refused.message, file=sys.stdout if refused.on_stdout else sys.stderr)
        code = refused.code
    record.note(tool, arguments, code)
    return code


if __name__ == "__main__":
    sys.exit(main())
