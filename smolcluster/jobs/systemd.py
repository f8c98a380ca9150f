"""Starting a supervisor as a transient systemd unit, so that it outlives the SSH session that started it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from smolcluster.jobs.service_call import call
from smolcluster.jobs.types import JobError

_MARK = Path("/run/systemd/system")


def present() -> bool:
    """Whether systemd runs this machine (the documented test, sd_booted(3))."""
    return _MARK.is_dir()


def usable() -> bool:
    """Whether a unit would live on after its starter logs out: the system's manager, or a user's that lingers."""
    return present() and (_user_id() == 0 or _lingers())


def unit_name(run_id: str, node: str, generation: int) -> str:
    """A unit name systemd accepts; the generation makes that of a restart another."""
    return re.sub(r"[^A-Za-z0-9:_.-]", "-", f"smolcluster-{run_id}-{node}-{generation}")


def command(unit: str, log: Path, folder: Path, supervisor: Sequence[str], user_id: int) -> list[str]:
    """The systemd-run command line that starts the supervisor. Pure."""
    run = ["systemd-run"]
    if user_id != 0:
        # Without a login session (cron, some SSH set-ups) the variable that names the user's bus is not set.
        run = ["env", f"XDG_RUNTIME_DIR=/run/user/{user_id}", "systemd-run", "--user"]
    properties = {
        "Type": "exec",
        # A run that died is a result to be reported, not a service to be revived.
        "Restart": "no",
        # SIGTERM goes to the supervisor alone, which stops its ranks in order; what is left is killed with the unit.
        "KillMode": "mixed",
        "TimeoutStopSec": "15",
        "StandardOutput": f"append:{log}",
        "StandardError": f"append:{log}",
    }
    return [
        *run,
        f"--unit={unit}",
        "--collect",
        "--quiet",
        f"--working-directory={folder}",
        *(f"--property={key}={value}" for key, value in properties.items()),
        "--",
        *supervisor,
    ]


def start(unit: str, log: Path, folder: Path, supervisor: Sequence[str]) -> None:
    """Start the unit; returns when the supervisor has been executed. JobError with systemd's own words if not."""
    user_id = _user_id()
    if user_id != 0 and not _lingers():
        raise JobError(
            "systemd would end the run when you log out, because lingering is off for this user.\n"
            "    fix: `sudo loginctl enable-linger $USER` on this node, or use --launcher child"
        )
    words = command(unit, log, folder, supervisor, user_id)
    call(words, "systemd-run", f"could not start {unit}", "use --launcher child")


def _user_id() -> int:
    return 0 if sys.platform == "win32" else os.getuid()


def _lingers() -> bool:
    if sys.platform == "win32":
        return False
    import pwd

    return Path("/var/lib/systemd/linger", pwd.getpwuid(os.getuid()).pw_name).exists()
