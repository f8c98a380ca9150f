"""Starting a supervisor as a launchd job of macOS: always a daemon of the system's domain, under the user's name.

macOS asks for the Local Network permission (errno 65 without it) from jobs of a user's domain, `gui/UID` and
`user/UID`, and nobody is there to click it away. Exempt are daemons, and whatever an SSH session starts. So a run is a
plain child there (launcher `child`), which lives on when its session ends, and launchd is for what an administrator
sets up: a model that is served again after a reboot (boot.py), or a run asked for with launcher `launchd` as root.

Written to Apple's documentation and tried with stand-ins only: there is no Mac here.
"""

from __future__ import annotations

import contextlib
import plistlib
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath

from smolcluster.jobs.service_call import call
from smolcluster.jobs.types import JobError
from smolcluster.runtime.runfolder import write_atomic

PREFIX = "org.smolcluster"
# What launchd loads at boot.
DAEMONS = Path("/Library/LaunchDaemons")
_INSTEAD = "use --launcher child"


def present() -> bool:
    """Whether launchd runs this machine: no other system has its tool."""
    return shutil.which("launchctl") is not None


def usable() -> bool:
    """Whether a job can be loaded into the system's domain: for root alone."""
    return present() and _user_id() == 0


def label(*parts: object) -> str:
    """A job's name that launchd accepts."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", ".".join([PREFIX, *map(str, parts)]))


def definition(name: str, log: PurePath, folder: PurePath, supervisor: Sequence[str], user: str) -> str:
    """The property list of a daemon that starts the supervisor when it is loaded, as `user`; empty: not said. Pure."""
    job = {
        "Label": name,
        **({"UserName": user} if user else {}),
        "ProgramArguments": list(supervisor),
        "WorkingDirectory": str(folder),
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
        "RunAtLoad": True,
        # A run that died is a result to be reported, not a service to be revived.
        "KeepAlive": False,
        # Without it macOS gives a daemon less of the processor and the disk than an application.
        "ProcessType": "Interactive",
        # SIGTERM goes to the supervisor, which stops its ranks in order; launchd kills what is left of its group.
        "ExitTimeOut": 15,
    }
    return plistlib.dumps(job, sort_keys=False).decode()


def command(plist: Path) -> list[str]:
    """What loads a property list into the system's domain. Pure."""
    return ["launchctl", "bootstrap", "system", str(plist)]


def start(name: str, plist: Path, log: Path, folder: Path, supervisor: Sequence[str]) -> None:
    """Load the job, whose definition is written to `plist`. JobError with launchctl's own words if it is refused."""
    if _user_id() != 0:
        raise JobError(
            "launchd loads a daemon for root alone, and a job of yours would have to be allowed the local network "
            "by a click.\n    fix: use --launcher child, which macOS exempts when it is started over SSH"
        )
    user = _owner(folder)
    # launchd takes none that somebody else may write.
    write_atomic(plist, definition(name, log, folder, supervisor, user), mode=0o644)
    # An earlier start of the same name stays loaded when it has ended, until the machine restarts.
    with contextlib.suppress(JobError):
        unload(name)
    call(command(plist), "launchctl", f"could not start {name}", _INSTEAD)


def unload(name: str) -> None:
    """End a loaded job and have launchd forget it. JobError if there is none."""
    call(["launchctl", "bootout", f"system/{name}"], "launchctl", f"could not end {name}", _INSTEAD)


def _user_id() -> int:
    if sys.platform == "win32":
        return -1
    import os

    return os.getuid()


def _owner(folder: Path) -> str:
    """Whose the run's folder is: the run is theirs, not root's."""
    return folder.owner()
