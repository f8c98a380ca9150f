"""Whether this machine allows a lab, and where a lab may keep what it needs of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# Program -> Debian's package.
_NEEDED = {
    "ip": "iproute2",
    "tc": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "sudo": "sudo",
    "ping": "iputils-ping",
    "dbus-daemon": "dbus",
    "NetworkManager": "network-manager",
    "/lib/systemd/systemd": "systemd",
}
# Debian packages that this machine has not installed, unpacked by packages.sh: a part of the root of each host.
LAYER = Path(__file__).parents[2] / ".cache" / "lab" / "root"
# What links between bare namespaces take of it.
_LINKS_NEED = {program: _NEEDED[program] for program in ("ip", "tc", "nsenter")}
_PATH = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"])
# Empty folders that every Linux has; the lab's memory is mounted on one, seen by the lab alone.
_PLACES = ("/srv", "/media", "/mnt")


def why_not() -> str:
    """Why there can be no lab here; empty where there can."""
    if reason := why_no_namespaces(_NEEDED):
        return reason
    return "" if unified_cgroup() else "no cgroup hierarchy of version 2 that may be written, which systemd needs"


def why_no_namespaces(needed: Mapping[str, str] = _LINKS_NEED) -> str:
    """Why there can be no namespaces with shaped links here; empty where there can. `needed`: program -> package."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root (sudo)"
    found = os.pathsep.join([_PATH, str(LAYER / "usr/sbin")])
    missing = sorted({package for program, package in needed.items() if shutil.which(program, path=found) is None})
    if missing:
        return f"missing here: {' '.join(missing)} (Debian: sudo tests/lab/packages.sh)"
    trial = subprocess.run(
        ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "ip", "link", "set", "lo", "up"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return f"namespaces are not allowed here: {trial.stderr.strip()}" if trial.returncode else ""


def required() -> bool:
    """Whether a machine without labs is a failure: in CI it is."""
    return os.environ.get("CI") == "true"


def place(shown: tuple[str, ...]) -> str:
    """An empty place for the lab's memory that hides none of `shown`."""
    for path in _PLACES:
        if Path(path).is_dir() and not any(Path(each).is_relative_to(path) for each in shown):
            return path
    raise RuntimeError(f"the lab's memory needs one of {', '.join(_PLACES)}")


def unified_cgroup() -> Path | None:
    """Where the machine's cgroups of version 2 are mounted; None where they are not, or not for writing."""
    return _mounted("cgroup2", "")


def cpu_cgroup() -> Path | None:
    """Where cgroups with the cpu controller may be made; None where that would take changing the machine's own."""
    if (old := _mounted("cgroup", "cpu")) is not None:
        return old
    unified = unified_cgroup()
    # Version 2 hands a controller to new groups only where their parent says so; we do not say it for the machine.
    if unified is not None and "cpu" in (unified / "cgroup.subtree_control").read_text().split():
        return unified
    return None


def _mounted(kind: str, option: str) -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, found, options, *_ = line.split()
        flags = options.split(",")
        if found == kind and "ro" not in flags and (not option or option in flags) and os.access(path, os.W_OK):
            return Path(path)
    return None
