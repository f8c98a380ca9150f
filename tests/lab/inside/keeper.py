"""The lab's outermost namespaces. They live as long as standard input is open; with them goes everything in them.

    python -m inside.keeper OWNER FOLDER [CGROUP...]

OWNER is the process that opened the lab, FOLDER an empty place to mount the lab's memory on, CGROUP a folder of the
lab's own in a hierarchy of the machine. Two processes:

guard   in the machine's namespaces; waits for the owner's end, whatever kind, then ends the first process of the inner
        PID namespace, which is the end of every process of every host, and removes the cgroups.
first   PID 1 inside; takes in orphans and buries them.

One line on standard output tells that all is there: the first process's PID as the machine sees it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

from . import syscalls

_BURIAL_S = 20.0


def main() -> None:
    owner, folder, *cgroups = sys.argv[1:]
    # Two ways to hear of the owner's end: a child of the owner may have inherited the pipe.
    wakeup, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGTERM, _ignore)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _ignore)
    syscalls.die_with_parent(int(owner), signal.SIGTERM)
    for cgroup in cgroups:
        Path(cgroup).mkdir()
    syscalls.unshare(syscalls.NEW_ALL & ~syscalls.NEW_CGROUP)
    ready, told = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(ready)
        # The guard is not in this PID namespace: its number here is 0, and has to be that still.
        syscalls.die_with_parent(0)
        _first(folder, told)
    os.close(told)
    try:
        if os.read(ready, 1):
            print(first, flush=True)
            _await_end(wakeup)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        for cgroup in cgroups:
            remove_cgroup(Path(cgroup))


def remove_cgroup(folder: Path) -> None:
    """Remove a cgroup and those below it, once the processes in them are gone for good."""
    deadline = time.monotonic() + _BURIAL_S
    for path, _, _ in os.walk(folder, topdown=False):
        while True:
            try:
                Path(path).rmdir()
            except FileNotFoundError:
                break
            except OSError:
                # The kernel tells a reaped process's end to its cgroup a moment later.
                if time.monotonic() > deadline:
                    raise
                select.select([], [], [], 0.01)
            else:
                break


def _await_end(wakeup: int) -> None:
    """Return on end of file, on a signal, or when the first process is gone."""
    while True:
        readable, _, _ = select.select([0, wakeup], [], [])
        if wakeup in readable or (0 in readable and not os.read(0, 4096)):
            return


def _first(folder: str, told: int) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    # Reading end of file is the guard's business.
    os.close(0)
    syscalls.mount("none", "/", flags=syscalls.RECURSIVE | syscalls.PRIVATE)
    syscalls.mount("proc", "/proc", "proc")
    syscalls.mount("tmpfs", folder, "tmpfs", data="mode=755,size=75%")
    os.write(told, b".")
    os.close(told)
    while True:
        # Orphans of what the hosts were started by come here; without any the call ends at once, and a signal tells.
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            signal.sigtimedwait([signal.SIGCHLD], 1.0)


def _ignore(number: int, frame: object) -> None:
    """The wakeup descriptor tells."""


if __name__ == "__main__":
    main()
