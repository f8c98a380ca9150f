"""Starting a supervisor as a transient systemd unit, so that it outlives the SSH session that started it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath

from smolcluster.jobs.service_call import call
from smolcluster.jobs.types import JobError
from smolcluster.plan.systemd_text import systemd_path, systemd_word

_MARK = Path("/run/systemd/system")
_OUTPUTS = ("StandardOutput", "StandardError")
_PROPERTIES = {
    "Type": "exec",
    # A run that died is a result to be reported, not a service to be revived.
    "Restart": "no",
    # SIGTERM goes to the supervisor alone, which stops its ranks in order; what is left is killed with the unit.
    "KillMode": "mixed",
    "TimeoutStopSec": "15",
}


def present() -> bool:
    """Whether systemd runs this machine (the documented test, sd_booted(3))."""
    return _MARK.is_dir()


def usable() -> bool:
    """Whether a unit would live on after its starter logs out: the system's manager, or a user's that lingers."""
    return present() and (user_id() == 0 or _lingers())


def unit_name(*parts: object) -> str:
    """A unit name systemd accepts: of a run, a node and a generation, which makes that of a restart another."""
    return re.sub(r"[^A-Za-z0-9:_.-]", "-", "-".join(["smolcluster", *map(str, parts)]))


def command(unit: str, log: Path, folder: Path, supervisor: Sequence[str], user_id: int) -> list[str]:
    """The systemd-run command line that starts the supervisor. Pure."""
    output = dict.fromkeys(_OUTPUTS, f"append:{log}")
    return [
        *_manager("systemd-run", user_id),
        f"--unit={unit}",
        "--collect",
        "--quiet",
        f"--working-directory={folder}",
        *(f"--property={key}={value}" for key, value in (_PROPERTIES | output).items()),
        "--",
        *supervisor,
    ]


def transient(about: str, log: PurePath, folder: PurePath, supervisor: Sequence[str]) -> str:
    """The text of a unit that is what `command` has systemd make, to be read or started by hand. Pure."""
    properties = "".join(f"{key}={value}\n" for key, value in _PROPERTIES.items())
    output = "".join(f"{name}=append:{systemd_path(str(log))}\n" for name in _OUTPUTS)
    return f"""\
# systemd makes the same of what smolcluster asks it for.
[Unit]
Description={about.replace("%", "%%")}

[Service]
WorkingDirectory={systemd_path(str(folder))}
ExecStart={" ".join(map(systemd_word, supervisor))}
{properties}{output}"""


def manager(user_id: int) -> tuple[str, ...]:
    """The start of a systemctl command line for the system's manager (0), or that user's. Pure."""
    return _manager("systemctl", user_id)


def service(about: str, log: Path, folder: Path, supervisor: Sequence[str], user: str, target: str) -> str:
    """The text of a unit that starts the supervisor with `target`, as `user` where one is named. Pure."""
    return f"""\
# Written by smolcluster's inference.yml -e on_boot=true; stop.yml takes it away.
[Unit]
Description={about.replace("%", "%%")}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
{f"User={user}" if user else "# The user whose manager runs this."}
WorkingDirectory={systemd_path(str(folder))}
ExecStart={" ".join(map(systemd_word, supervisor))}
StandardOutput=append:{systemd_path(str(log))}
StandardError=append:{systemd_path(str(log))}
# The supervisor itself goes on after a failure of its ranks; it ends only when it was killed, or has nothing to serve.
Restart=on-abnormal
RestartSec=10
KillMode=mixed
TimeoutStopSec=15

[Install]
WantedBy={target}
"""


def start(unit: str, log: Path, folder: Path, supervisor: Sequence[str]) -> None:
    """Start the unit; returns when the supervisor has been executed. JobError with systemd's own words if not."""
    own = user_id()
    if own != 0 and not _lingers():
        raise JobError(
            "systemd would end the run when you log out, because lingering is off for this user.\n"
            "    fix: `sudo loginctl enable-linger $USER` on this node, or use --launcher child"
        )
    words = command(unit, log, folder, supervisor, own)
    call(words, "systemd-run", f"could not start {unit}", "use --launcher child")


def _manager(program: str, user_id: int) -> tuple[str, ...]:
    if user_id == 0:
        return (program,)
    # Without a login session (cron, some SSH set-ups) the variable that names the user's bus is not set.
    return "env", f"XDG_RUNTIME_DIR=/run/user/{user_id}", program, "--user"


def user_id() -> int:
    """Who this process is; 0 is root, and Windows' everybody."""
    if sys.platform == "win32":
        return 0
    return os.getuid()


def _lingers() -> bool:
    if sys.platform == "win32":
        return False
    import pwd

    return Path("/var/lib/systemd/linger", pwd.getpwuid(os.getuid()).pw_name).exists()
