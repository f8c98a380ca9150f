"""The lab's outermost namespaces, from the process that opened it: begin, run something in there, end.

Everything of a lab lives in them: its memory, switches, hosts. They are gone as soon as that process is, however it
went.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import allowed
from .disk import PYTHON
from .inside.keeper import remove_cgroup

_HERE = Path(__file__).parent
_GROUP = "smol-lab-"
_READY_S, _END_S, _COMMAND_S = 30.0, 60.0, 60.0


class LabError(Exception):
    """Something of the lab itself did not work."""


class Outside:
    """The namespaces that hold a lab. `shown` are folders of the machine that its memory must not be mounted over.

    They end with the thread that made this, too: the kernel's signal at a parent's death is a thread's.

    memory    the lab's memory, as this process reaches it          place   the same as the lab sees it
    layers    folders in it that hosts have in their root besides the machine's own files
    """

    def __init__(self, shown: tuple[str, ...]) -> None:
        self.place = allowed.place(shown)
        name = f"{_GROUP}{os.getpid()}-{os.urandom(3).hex()}"
        roots = {allowed.unified_cgroup(), allowed.cpu_cgroup()} - {None}
        # Groups of its own below the machine's, which stay as they are.
        self.cgroups = sorted(root / name for root in roots if root is not None)
        for group in self.cgroups:
            _sweep(group.parent)
        command = [PYTHON, "-P", "-S", "-s", "-m", "inside.keeper", str(os.getpid()), self.place]
        self._keeper = subprocess.Popen(
            [*command, *map(str, self.cgroups)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(_HERE), "PATH": os.environ.get("PATH", os.defpath)},
        )
        self.pid = self._first()
        self.memory = Path(f"/proc/{self.pid}/root{self.place}")
        self.layers = self._bring_packages()

    def _bring_packages(self) -> tuple[str, ...]:
        """The unpacked packages, if there are any, out of the machine's root: no overlay takes two layers of which one
        lies within the other."""
        if not allowed.LAYER.is_dir():
            return ()
        try:
            self.run(["cp", "--archive", str(allowed.LAYER), f"{self.place}/packages"])
        except BaseException:
            self.close()
            raise
        return ("packages",)

    def _first(self) -> int:
        """PID 1 inside, as this process sees it."""
        assert self._keeper.stdout is not None
        readable, _, _ = select.select([self._keeper.stdout], [], [], _READY_S)
        line = self._keeper.stdout.readline() if readable else b""
        if not line.strip():
            self.close()
            raise LabError("the lab's namespaces could not be made; the reason stands above")
        return int(line)

    def entering(self, *, network_only: bool = False) -> list[str]:
        """What runs the rest of a command line in there."""
        options = ["--net"] if network_only else ["--mount", "--net", "--pid", "--uts", "--ipc"]
        return ["nsenter", "--target", str(self.pid), *options, "--"]

    def run(self, command: Sequence[str], text: str = "") -> str:
        """Run a program in there; what it printed. LabError with its words."""
        done = subprocess.run(
            [*self.entering(), *command], input=text, capture_output=True, text=True, check=False, timeout=_COMMAND_S
        )
        if done.returncode:
            raise LabError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def ip(self, *lines: str) -> None:
        """`ip` commands of the outermost network namespace, in one go."""
        if lines:
            self.run(["ip", "-batch", "-"], "\n".join(lines))

    def forget(self, *interfaces: str) -> None:
        """Take interfaces away, those that are there still."""
        lines = "".join(f"link del {name}\n" for name in interfaces)
        command = [*self.entering(), "ip", "-force", "-batch", "-"]
        subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=_COMMAND_S)

    @property
    def alive(self) -> bool:
        """Whether it is there still."""
        return self._keeper.poll() is None

    def close(self) -> None:
        """End everything in there; returns when it is gone, cgroups too."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        try:
            self._keeper.wait(_END_S)
        except subprocess.TimeoutExpired:
            # The kernel ends what is inside, as with any end of the keeper.
            self._keeper.kill()
            self._keeper.wait()
            print("the lab's keeper did not end in time and was killed", file=sys.stderr)
        self._keeper.stdout.close()


def _sweep(root: Path) -> None:
    """Remove the empty groups of labs whose owner is gone and whose keeper was killed before it could do it."""
    for group in root.glob(f"{_GROUP}*"):
        owner = group.name.removeprefix(_GROUP).partition("-")[0]
        if not Path("/proc", owner).exists():
            remove_cgroup(group)
