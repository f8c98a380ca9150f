"""`python -m macos TOOL ARGUMENTS`: one call of a stand-in, noted with its exit code."""

from __future__ import annotations

import sys

from . import ifconfig, launchctl, networksetup, ping, profiler, record, route, scutil, small, sysctl
from .told import Refused

_TOOLS = {
    "networksetup": networksetup.main,
    "scutil": scutil.main,
    "ifconfig": ifconfig.main,
    "route": route.main,
    "netstat": route.netstat,
    "sysctl": sysctl.main,
    "system_profiler": profiler.main,
    "launchctl": launchctl.main,
    "ping": ping.main,
    "ipconfig": small.ipconfig,
    "sw_vers": small.sw_vers,
    "pmset": small.pmset,
    "caffeinate": small.caffeinate,
    "pfctl": small.pfctl,
    "socketfilterfw": small.socketfilterfw,
}


def main() -> int:
    tool, *arguments = sys.argv[1:]
    try:
        code = _TOOLS[tool](arguments)
    except Refused as refused:
        print(refused.message, file=sys.stdout if refused.on_stdout else sys.stderr)
        code = refused.code
    record.note(tool, arguments, code)
    return code


if __name__ == "__main__":
    sys.exit(main())
