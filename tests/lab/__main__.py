"""`make lab`: the home cluster, and a shell on its controller.

Without a terminal the shell reads its commands from standard input (`echo "ssh pi5 uptime" | make lab`): they end with
it, and its exit code is that of the command.
"""

from __future__ import annotations

import subprocess
import sys
import time

from .allowed import why_not
from .disk import USER
from .lab import Lab
from .outside import LabError

_INVENTORY = "/etc/smolcluster/lab.smol.yml"
_ABOUT = {"macos": "Mac (stand-ins for its tools)", "linux": "systemd, NetworkManager"}


def main() -> int:
    """Bring it up, open the shell, end it."""
    if reason := why_not():
        print(f"no lab here: {reason}", file=sys.stderr)
        return 2
    started = time.monotonic()
    try:
        with Lab() as lab:
            print(_hello(lab, time.monotonic() - started), flush=True)
            lab.controller.write(_INVENTORY, lab.inventory())
            shell, terminal = ["bash", "-l"], sys.stdin.isatty()
            if terminal:
                # A terminal of the host's own, so that the shell has job control there.
                shell = ["script", "--quiet", "--command", "bash -l", "/dev/null"]
            with lab.controller.popen(
                shell, user=USER, stdin=sys.stdin.buffer, environment={"TERM": "xterm"}
            ) as process:
                code = process.wait()
    except LabError as error:
        print(f"the lab ended: {error}", file=sys.stderr)
        return 3
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        return 130
    # What the last command of somebody at a terminal gave is no failure of the lab.
    return 0 if terminal else code


def _hello(lab: Lab, seconds: float) -> str:
    lines = [
        f"The home cluster, up in {seconds:.1f} s. You are on {lab.controller.name}; `ssh NAME` goes to the others.\n"
    ]
    for machine in lab.wiring.machines:
        where = lab.wiring.wifi_address(machine.name) or f"behind {machine.behind}"
        lines.append(f"  {machine.name:<10} {where:<16} {_ABOUT.get(machine.kind, 'plain member')}")
    lines.append(f"\n  an inventory of them: {_INVENTORY}\n  `exit` ends the lab and all that is in it\n")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
