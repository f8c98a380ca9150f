"""The system calls that make a host out of namespaces, which Python 3.11 has no functions for. OSError on failure."""

from __future__ import annotations

import ctypes
import os
import signal

NEW_MOUNTS = 0x00020000
NEW_CGROUP = 0x02000000
NEW_NAMES = 0x04000000  # host name (UTS)
NEW_IPC = 0x08000000
NEW_PIDS = 0x20000000
NEW_NETWORK = 0x40000000
NEW_ALL = NEW_MOUNTS | NEW_CGROUP | NEW_NAMES | NEW_IPC | NEW_PIDS | NEW_NETWORK

READ_ONLY = 0x1
NO_SUID = 0x2
NO_DEVICES = 0x4
NO_EXEC = 0x8
REMOUNT = 0x20
BIND = 0x1000
RECURSIVE = 0x4000
PRIVATE = 0x40000

_DETACH = 2
_PARENT_DEATH_SIGNAL = 1
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the namespaces of `flags` for new ones. NEW_PIDS holds for children only."""
    _check(_libc.unshare(flags), "unshare")


def join(namespace: int, flags: int) -> None:
    """Enter the namespace of an open descriptor."""
    _check(_libc.setns(namespace, flags), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _check(result, f"mount {source} on {target}")


def bind(source: str, target: str, read_only: bool = False) -> None:
    """Show `source` at `target` too."""
    mount(source, target, flags=BIND | RECURSIVE)
    if read_only:
        mount(source, target, flags=BIND | REMOUNT | READ_ONLY)


def enter_root(root: str) -> None:
    """Make `root` the root of this mount namespace and drop the old one from it."""
    os.chdir(root)
    # Both on one folder: the old root comes to lie over the new one and is taken off again, so it needs no place.
    _check(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), f"pivot_root {root}")
    _check(_libc.umount2(b".", _DETACH), "umount the old root")
    os.chdir("/")


def set_host_name(name: str) -> None:
    """The name of this UTS namespace."""
    _check(_libc.sethostname(name.encode(), len(name.encode())), "sethostname")


def die_with_parent(parent: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Get `how` when the parent goes. Ends at once if `parent` is gone already."""
    _check(_libc.prctl(_PARENT_DEATH_SIGNAL, how, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
