"""PID 1 of hosts without systemd: starts services, restarts those that shall live, buries orphans. It plays launchd.

`launchctl` (macos/launchctl.py) asks it over a socket, one JSON line each way. A job with a key that is not known here
is refused, as nothing would be done about it; KeepAlive is true or false. Of ProcessType and ExitTimeOut, a Mac's
priorities and its patience with who is told to end, there is nothing to play.
"""

from __future__ import annotations

import contextlib
import json
import os
import plistlib
import pwd
import selectors
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOCKET = "/run/launchd.sock"
DAEMONS = Path("/Library/LaunchDaemons")
OVERRIDES = Path("/var/db/com.apple.xpc.launchd/disabled.plist")
PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
# launchd's own patience before it starts a job again that ended at once.
_THROTTLE_S = 10.0
_KNOWN = """
Label Program ProgramArguments RunAtLoad KeepAlive StartInterval StandardOutPath StandardErrorPath UserName
WorkingDirectory EnvironmentVariables Disabled ProcessType ExitTimeOut
"""
# errno values in macOS's own words.
NOT_PERMITTED, NO_PROCESS, IO_ERROR, NOT_FOUND = 1, 3, 5, 113


@dataclass
class Job:
    """A loaded job and what became of it."""

    label: str
    plist: dict[str, Any]
    path: str
    pid: int = 0
    started: float = 0.0
    runs: int = 0
    status: int | None = None  # exit code, or minus the signal
    due: float | None = None


class Launchd:
    """The jobs of a host."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def load(self, plist: dict[str, Any], path: str = "") -> int:
        """Load a job and start it if it says so. 0, or the error's number."""
        label = plist.get("Label")
        if (
            not isinstance(label, str)
            or label in self.jobs
            or not (plist.get("Program") or plist.get("ProgramArguments"))
        ):
            return IO_ERROR
        if self._disabled(label, plist) or set(plist) - set(_KNOWN.split()):
            return IO_ERROR
        job = self.jobs[label] = Job(label, plist, path)
        if plist.get("RunAtLoad") or plist.get("KeepAlive"):
            self.start(job)
        elif "StartInterval" in plist:
            job.due = time.monotonic() + plist["StartInterval"]
        return 0

    def load_file(self, path: str) -> int:
        """Load the job of a property list. launchd takes none that others than root may write."""
        try:
            about = Path(path).stat()
            plist = plistlib.loads(Path(path).read_bytes())
        except (OSError, ValueError, plistlib.InvalidFileException):
            return IO_ERROR
        if about.st_uid != 0 or about.st_mode & 0o022 or not isinstance(plist, dict):
            return IO_ERROR
        return self.load(plist, path)

    def load_all(self) -> None:
        """What is loaded at boot."""
        for path in sorted(DAEMONS.glob("*.plist")):
            if self.load_file(str(path)):
                print(f"launchd: {path} was not loaded", flush=True)

    def unload(self, label: str) -> int:
        """End a job and forget it. 0, or the error's number."""
        job = self.jobs.pop(label, None)
        if job is None:
            return NO_PROCESS
        if job.pid:
            try:
                os.killpg(job.pid, signal.SIGTERM)
            except ProcessLookupError:  # it has not come so far as to have a group
                os.kill(job.pid, signal.SIGTERM)
        return 0

    def start(self, job: Job) -> None:
        """Start a loaded job."""
        job.due, job.started = None, time.monotonic()
        job.runs += 1
        job.pid = os.fork()
        if job.pid == 0:
            try:
                _become(job.plist)
            except (OSError, KeyError, ValueError) as error:
                print(f"launchd: {job.label}: {error}", flush=True)
            os._exit(78)

    def ended(self, pid: int, status: int) -> None:
        """A child has ended: a job's process, or an orphan that nobody waits for."""
        for job in self.jobs.values():
            if job.pid == pid:
                job.pid, job.status = 0, os.waitstatus_to_exitcode(status)
                if job.plist.get("KeepAlive"):
                    job.due = max(time.monotonic(), job.started + _THROTTLE_S)
                elif "StartInterval" in job.plist:
                    job.due = max(time.monotonic(), job.started + job.plist["StartInterval"])

    def answer(self, request: dict[str, Any], user: int) -> dict[str, Any]:
        """One question of launchctl."""
        verb = request["verb"]
        if verb in ("list", "print"):
            return {"jobs": [self._told(job) for job in self.jobs.values()], "disabled": self._overrides()}
        if user != 0:
            return {"error": NOT_PERMITTED}
        if verb == "load":
            return {"error": self.load_file(request["path"])}
        if verb == "unload":
            return {"error": self.unload(request["label"])}
        if verb == "start":
            return {"error": self._kick(request["label"], bool(request.get("kill")))}
        return {"error": self._override(request["label"], verb == "disable")}

    def run(self) -> None:
        """Live. Never returns: the host is off when its PID 1 is."""
        wakeup, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(SOCKET)
        Path(SOCKET).chmod(0o666)
        listener.listen(16)
        chosen = selectors.DefaultSelector()
        chosen.register(wakeup, selectors.EVENT_READ)
        chosen.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in chosen.select(self._pause()):
                if key.fileobj is listener:
                    self._serve(listener)
                else:
                    os.read(wakeup, 4096)
            self._bury()
            for job in [job for job in self.jobs.values() if job.due is not None and job.due <= time.monotonic()]:
                self.start(job)

    def _bury(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self.ended(pid, status)

    def _pause(self) -> float | None:
        due = [job.due for job in self.jobs.values() if job.due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _serve(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(2.0)
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            user = int.from_bytes(peer[4:8], "little")
            with connection.makefile("rwb") as stream:
                reply = self.answer(json.loads(stream.readline()), user)
                stream.write(json.dumps(reply).encode() + b"\n")

    def _kick(self, label: str, kill: bool) -> int:
        job = self.jobs.get(label)
        if job is None:
            return NOT_FOUND
        if job.pid and kill:
            os.killpg(job.pid, signal.SIGKILL)
            _, status = os.waitpid(job.pid, 0)
            self.ended(job.pid, status)
        if not job.pid:
            self.start(job)
        return 0

    def _told(self, job: Job) -> dict[str, Any]:
        program = job.plist.get("Program") or job.plist["ProgramArguments"][0]
        return {
            "label": job.label,
            "pid": job.pid,
            "status": job.status,
            "path": job.path,
            "runs": job.runs,
            "program": program,
            "arguments": job.plist.get("ProgramArguments", [program]),
        }

    def _disabled(self, label: str, plist: dict[str, Any]) -> bool:
        return self._overrides().get(label, bool(plist.get("Disabled")))

    def _overrides(self) -> dict[str, bool]:
        return dict(plistlib.loads(OVERRIDES.read_bytes())) if OVERRIDES.exists() else {}

    def _override(self, label: str, disabled: bool) -> int:
        OVERRIDES.parent.mkdir(parents=True, exist_ok=True)
        OVERRIDES.write_bytes(plistlib.dumps({**self._overrides(), label: disabled}))
        return 0


def _become(plist: dict[str, Any]) -> None:
    """Turn this child into the job's program."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    environment: dict[str, str] = {"PATH": PATH, **plist.get("EnvironmentVariables", {})}
    for number, name in ((0, ""), (1, "StandardOutPath"), (2, "StandardErrorPath")):
        flags = os.O_RDWR if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(plist.get(name, "/dev/null"), flags, 0o644), number)
    if person := plist.get("UserName"):
        user = pwd.getpwnam(person)
        os.initgroups(person, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        environment = {"HOME": user.pw_dir, "USER": person, **environment}
    os.chdir(plist.get("WorkingDirectory", "/"))
    arguments = plist.get("ProgramArguments") or [plist["Program"]]
    os.execvpe(plist.get("Program", arguments[0]), arguments, environment)
