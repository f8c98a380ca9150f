"""One host of a lab, from the process that opened it: run programs, read and write files, switch off and on."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from .disk import PATH, PYTHON, STATE, TOOLS, USER, USER_ID, Disk, first_program
from .outside import LabError, Outside
from .wiring import Machine

_BOOT_S = 60.0
_RUN_S = 120.0
_POLL_S = 0.02
_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
# Port 22 in state LISTEN, as /proc/net/tcp writes it.
_SSH_LISTENS = (":0016 00000000:0000 0A", ":0016 00000000000000000000000000000000:0000 0A")
# What the project's user writes to, as far as it is there.
_WRITTEN = ("", "runs", "runs/.active", "runs/network", ".cache", ".cache/data")
# Of the machine's folders those that hold other people's things; they are empty, or the host's own.
_EMPTY = ("/tmp", "/run", "/home", "/mnt", "/media", "/srv")


class Host:
    """A machine of the lab. `pid` is its first program as the machine sees it, while it is on."""

    def __init__(self, machine: Machine, disk: Disk, outside: Outside, shown: tuple[str, ...]) -> None:
        self.machine = machine
        self.name = machine.name
        self.home = disk.home
        self.pid = 0
        self._disk = disk
        self._outside = outside
        self._shown = shown
        self._starter: subprocess.Popen[bytes] | None = None
        for group in self._groups():
            (group / "visit").mkdir(parents=True)

    @property
    def on(self) -> bool:
        """Whether it is switched on."""
        return self._starter is not None and self._starter.poll() is None

    def start(self, ports: list[dict[str, Any]]) -> None:
        """Switch it on; `ports` as inside/boot.py wants them. `await_start`, then `await_up`."""
        spec = self._outside.memory / "boot" / f"{self.name}.json"
        spec.parent.mkdir(exist_ok=True)
        spec.write_text(json.dumps(self._spec(ports)))
        console = self._outside.memory / "consoles" / self.name
        console.parent.mkdir(exist_ok=True)
        command = [PYTHON, "-P", "-S", "-s", "-m", "inside.boot", f"{self._outside.place}/boot/{self.name}.json"]
        with console.open("ab") as log:
            self._starter = subprocess.Popen(
                [*self._outside.entering(), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={"PYTHONPATH": str(_HERE), "PATH": PATH},
                # Ctrl-C is for whoever opened the lab, who then ends it in order.
                start_new_session=True,
            )

    def await_start(self) -> None:
        """Return when it has its interfaces and its first program begins. LabError with its console if not."""
        starter = self._starter
        assert starter is not None
        assert starter.stdout is not None
        readable, _, _ = select.select([starter.stdout], [], [], _BOOT_S)
        if not readable or not starter.stdout.readline().strip():
            raise LabError(f"{self.name} did not start:\n{self.console()}")
        self.pid = _first_below(starter.pid)

    def await_up(self) -> None:
        """Return when SSH answers, and on a Linux host NetworkManager too. LabError with its console if not."""
        deadline = time.monotonic() + _BOOT_S
        starter = self._starter
        assert starter is not None
        pause = threading.Event()
        while not self._up():
            if time.monotonic() > deadline or starter.poll() is not None:
                raise LabError(f"{self.name} is not up after {_BOOT_S:g} s:\n{self.console()}")
            pause.wait(_POLL_S)
        if self.machine.kind == "linux":
            self.run(["nm-online", "--quiet", "--wait-for-startup", "--timeout", "30"])

    def cut_power(self) -> None:
        """Switch it off as a pulled plug does: what was written stays, everything else is gone."""
        starter, self._starter = self._starter, None
        if starter is None:
            return
        assert starter.stdout is not None
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        else:
            starter.kill()
        starter.wait(_RUN_S)
        starter.stdout.close()
        self.pid = 0

    def run(
        self,
        command: Sequence[str],
        *,
        user: str = "root",
        check: bool = True,
        text: str = "",
        timeout: float = _RUN_S,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host, as root or its user `smol`. AssertionError if it fails, unless `check` is off."""
        done = subprocess.run(
            self._command(command, user, environment),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and done.returncode:
            told = f"{done.stdout}{done.stderr}".strip()
            raise AssertionError(f"{self.name}: {shlex.join(command)} ended with {done.returncode}:\n{told}")
        return done

    def popen(
        self,
        command: Sequence[str],
        *,
        user: str = "root",
        environment: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program on the host. Whoever kills the returned process kills it; the host's end ends it too."""
        full = self._command(command, user, environment)
        return subprocess.Popen(full, stdin=stdin, stdout=stdout, stderr=stderr)

    def read(self, path: str) -> str:
        """A file of the host."""
        return self.run(["cat", path]).stdout

    def write(self, path: str, content: str, mode: int = 0o644, owner: str = "root") -> None:
        """Write a file of the host; folders are made as needed."""
        script = 'mkdir -p "$(dirname "$1")" && cat >"$2" && chmod "$3" "$2" && chown "$4" "$2" && mv "$2" "$1"'
        self.run(["sh", "-c", script, "sh", path, f"{path}.new", f"{mode:o}", owner], text=content)

    def calls(self, tool: str = "") -> list[list[str]]:
        """What the stand-ins of a Mac were asked, in order; those of one tool when it is named."""
        lines = self.read("/var/log/lab-calls.jsonl").splitlines()
        asked: list[list[str]] = [json.loads(line)["argv"] for line in lines]
        return [words for words in asked if not tool or words[0] == tool]

    def console(self) -> str:
        """What it printed while it started."""
        path = self._outside.memory / "consoles" / self.name
        return path.read_text(errors="replace") if path.exists() else ""

    def cpus(self, count: float | None, period_s: float = 0.1) -> None:
        """Let all of the host's processes have so many cores together, counted anew each period; None takes the limit
        off.

        LabError where the kernel has no such limit that could be set without touching the machine's own groups.
        """
        period_us = round(period_s * 1e6)
        for group in self._groups():
            if (old := group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_period_us").write_text(str(period_us))
                old.write_text(str(-1 if count is None else int(count * period_us)))
                return
            if (new := group / "cpu.max").exists():
                new.write_text(f"{'max' if count is None else int(count * period_us)} {period_us}")
                return
        raise LabError("this machine has no cpu controller for groups of the lab's own")

    def memory(self, limit_bytes: int | None) -> None:
        """End all logins, and let every process of later ones have so much memory of its own (RLIMIT_DATA: heap,
        stacks, anonymous maps); None takes the limit off. LabError on a Linux host, where systemd starts what a login
        asks for.
        """
        if self.machine.kind == "linux":
            raise LabError(f"{self.name}: what systemd starts for a user is no child of its login")
        limit = "unlimited" if limit_bytes is None else str(limit_bytes)
        listens, *kept = self.run(["pgrep", "-x", "sshd"]).stdout.split()
        self.run(["prlimit", f"--data={limit}:", "--pid", listens])
        # Ansible keeps its connections, and would go on with one from before.
        if kept:
            self.run(["kill", *kept], check=False)

    def _up(self) -> bool:
        for name in ("tcp", "tcp6"):
            try:
                sockets = Path(f"/proc/{self.pid}/net/{name}").read_text()
            except OSError:
                return False
            if any(words in sockets for words in _SSH_LISTENS):
                return True
        return False

    def _groups(self) -> list[Path]:
        return [cgroup / self.name for cgroup in self._outside.cgroups]

    def _command(self, command: Sequence[str], user: str, environment: Mapping[str, str] | None) -> list[str]:
        if not self.on:
            raise LabError(f"{self.name} is off")
        home = self.home if user == USER else "/root"
        given = {"PATH": PATH, "HOME": home, "USER": user, "LOGNAME": user, "LANG": "C.UTF-8", **(environment or {})}
        who = [] if user == "root" else ["--reuid", user, "--regid", user, "--init-groups"]
        # The host's groups have to be joined out here; after that nothing of the machine is in sight.
        joined = "".join(f"echo $$ >{shlex.quote(str(group))}/visit/cgroup.procs && " for group in self._groups())
        spaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup"]
        return [
            "sh",
            "-c",
            f'{joined}exec "$@"',
            "sh",
            *("nsenter", "--target", str(self.pid), *spaces, "--"),
            *("env", "-i", "-C", home, *(f"{name}={value}" for name, value in given.items())),
            *("setpriv", *who, "--pdeathsig", "KILL", "--", *command),
        ]

    def _spec(self, ports: list[dict[str, Any]]) -> dict[str, Any]:
        seen = f"{self._outside.place}/disks/{self.name}"
        kept = {"/root": f"{seen}/kept/root", self._disk.homes: f"{seen}/kept{self._disk.homes}"}
        return {
            "name": self.name,
            "disk": seen,
            "layers": [f"{self._outside.place}/{path}" for path in self._outside.layers],
            "kept": kept,
            "shown": self._shown,
            # The project's folders are the user's, as after a clone: runs are written there.
            "owned": {str(_ROOT / name): USER_ID for name in _WRITTEN},
            "tools": {TOOLS: str(_HERE), STATE: f"{self._outside.place}/state"},
            "scratch": [path for path in _EMPTY if path not in kept and Path(path).is_dir()],
            "ports": ports,
            "cgroups": [str(group) for group in self._groups()],
            "program": first_program(self.machine.kind),
            "environment": {"PATH": PATH, "container": "lab", "PYTHONPATH": TOOLS, "LANG": "C.UTF-8"},
        }


def _first_below(starter: int) -> int:
    """The first program of the PID namespace that a starter made, by its number in this process's namespace."""
    for process in psutil.Process(starter).children(recursive=True):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("NSpid:") and len(line.split()) > 3 and line.split()[-1] == "1":
                    return int(process.pid)
    raise LabError("the host's first program is gone already")
