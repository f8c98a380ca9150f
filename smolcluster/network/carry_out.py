"""Runs on a machine, with nothing but Python's standard library: does what a plan says, or takes it back.

    python3 carry_out.py arm FILE SECONDS PLAN     save the plan; a guard waits that takes it back unless called off
    python3 carry_out.py apply FILE                the plan's commands; if one fails that ends it, and all is taken back
    python3 carry_out.py call-off FILE             the guard ends, and the plan stays
    python3 carry_out.py take-back FILE            the guard takes the plan back now
    python3 carry_out.py rollback FILE             take back the plan, and all plans that stayed before it
    python3 carry_out.py left FILE                 what rollback would do, a line each; nothing where there is nothing

PLAN is what `python -m smolcluster network diff --json` has for one machine; - reads it from stdin. Arm before you
apply: if the change cuts the connection that would call the guard off, the guard gives it back. How
plans that stay are taken back lies in FILE.kept, the newest first. A guard does not outlive a reboot: the files that
PLAN has under `boot` have the system call take-back when it comes up. For Windows: roles/network_apply/files.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

COMMAND_S = 60.0
CALL_S = 10.0
# As long as a guard may need to take a long plan back.
BACK_S = 600.0
_OFF, _BACK = b"off\n", b"back\n"


class Failure(Exception):
    """A command of the plan did not succeed; says which, and what it said."""


def act(action: dict[str, Any]) -> None:
    """Run a command, or write or remove a file. Failure says what went wrong."""
    path = action.get("path")
    try:
        if path is not None:
            _write(Path(path), action["text"])
            return
        argv = list(action["argv"])
        # Debian's users have no sbin in PATH, and not every sudo adds it.
        path_of_tools = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        environment = {**os.environ, "PATH": path_of_tools, "LC_ALL": "C"}
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{path or ' '.join(action['argv'])}: {error}") from None
    if done.returncode != 0:
        # In whatever language and encoding: what a tool says may not keep the rest from being taken back.
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise Failure(f"{' '.join(argv)}: exit code {done.returncode}: {said}")


def undo(actions: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """Take back all that can be; what could not, with the reason. What is `passing` may fail: it needs a cable, or a
    state that a reboot has ended, and lasts no longer than until the next one."""
    failed = []
    for action in actions:
        try:
            act(action)
        except Failure as failure:
            failed += [(action, str(failure))] if not action.get("passing") else []
    return failed


class Place:
    """The files of one machine's plans. `file` is the plan under way, and there while it is."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.guard = file.with_name(f"{file.name}.guard")
        self.begun = file.with_name(f"{file.name}.begun")
        self.kept = file.with_name(f"{file.name}.kept")
        self.outcome = file.with_name(f"{file.name}.outcome")

    def plan(self) -> dict[str, Any]:
        """The plan under way. FileNotFoundError if there is none."""
        return dict(json.loads(self.file.read_text(encoding="utf-8")))

    def kept_actions(self) -> list[dict[str, Any]]:
        """What takes back the plans that stayed, in order."""
        return list(json.loads(self.kept.read_text(encoding="utf-8"))["rollback"]) if self.kept.exists() else []

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else arms, applies or takes back meanwhile."""
        import fcntl  # POSIX only

        with self.file.with_name(f"{self.file.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Said, since a guard that was forked meanwhile has the file open too.
                fcntl.flock(lock, fcntl.LOCK_UN)

    def back(self) -> list[dict[str, Any]]:
        """What takes the plan back, as far as it was begun. The step that was under way may have nothing to undo."""
        if not (self.file.exists() and self.begun.exists()):
            return []
        reached = int(self.begun.read_text(encoding="utf-8"))
        begun = [action for action in self.plan()["rollback"] if action.get("step", 1) <= reached]
        return [{**a, "passing": a.get("passing") or a.get("step", 1) == reached} for a in begun]

    def keep(self) -> None:
        """The plan stays: what takes it back goes before what takes back the older ones."""
        self._put_by([*self.back(), *self.kept_actions()])
        self._forget(rolled_back=False, failed=[])

    def take_back(self) -> list[str]:
        """The plan is taken back, as far as it was begun. What could not be is told, and `rollback` tries it again."""
        failed = undo(self.back())
        self._put_by([*(action for action, _ in failed), *self.kept_actions()])
        self._forget(rolled_back=True, failed=[words for _, words in failed])
        return [words for _, words in failed]

    def take_kept_back(self) -> list[str]:
        """Plans that stayed are taken back. What could not be is told, and tried again the next time."""
        failed = undo(self.kept_actions())
        self._put_by([action for action, _ in failed])
        return [words for _, words in failed]

    def _put_by(self, actions: list[dict[str, Any]]) -> None:
        _write(self.kept, json.dumps({"rollback": actions}) + "\n" if actions else None, 0o600)

    def _forget(self, **outcome: bool | list[str]) -> None:
        boot = [Path(file["path"]) for file in self.plan().get("boot", [])] if self.file.exists() else []
        for file in (self.file, self.begun, self.guard, *boot):
            file.unlink(missing_ok=True)
        _write(self.outcome, json.dumps(outcome) + "\n", 0o600)


def arm(file: Path, seconds: float, text: str) -> int:
    """Save the plan and start a guard in a session of its own; return when it listens. 3 while another one waits."""
    plan = json.loads(text)
    if not isinstance(plan, dict) or not {"apply", "rollback"} <= plan.keys():
        raise ValueError("this is no plan of one machine")
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = Place(file)
    with place.alone():
        if (other := _connect(place)) is not None:
            other.close()
            print("another change is under way here; unless it is finished it is taken back by itself", file=sys.stderr)
            return 3
        # Of a plan whose guard was ended, and that nobody has taken back since.
        if file.exists():
            place.keep()
        _write(file, text, 0o600)
        for more in plan.get("boot", []):
            _write(Path(more["path"]), more["text"])
        listening, told = os.pipe()
        if os.fork() == 0:
            code = 3
            try:
                os.close(listening)
                os.setsid()
                _let_go_of_streams()
                code = guard(place, seconds, told)
            finally:
                os._exit(code)
        os.close(told)
        with os.fdopen(listening, "rb") as pipe:
            if pipe.read(1):
                return 0
    print("the guard did not start", file=sys.stderr)
    return 3


def guard(place: Place, seconds: float, told: int) -> int:
    """Wait to be called off; else take the plan back, and write down what came of it."""
    deadline = time.monotonic() + seconds
    place.guard.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        # Only its owner may call it off.
        before = os.umask(0o177)
        server.bind(str(place.guard))
        os.umask(before)
        server.listen(4)
        os.write(told, b"!")
        os.close(told)
        caller, word = _called(server, deadline)
        with contextlib.ExitStack() as stack:
            if caller is not None:
                stack.enter_context(caller)
            stack.enter_context(place.alone())  # a plan that is being applied comes to its end first
            (place.keep if word == _OFF else place.take_back)()
            if caller is not None:
                with contextlib.suppress(OSError):
                    caller.sendall(word + place.outcome.read_bytes())
    return 0 if word == _OFF else 3


def _called(server: socket.socket, deadline: float) -> tuple[socket.socket | None, bytes]:
    """The caller with what he wants; nobody when the time is over."""
    while (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            caller, _ = server.accept()
        except TimeoutError:
            break
        caller.settimeout(CALL_S)
        try:
            with caller.makefile("rb") as stream:
                word = stream.readline(len(_BACK))
        except OSError:
            word = b""
        if word in (_OFF, _BACK):
            caller.settimeout(BACK_S)
            return caller, word
        # Somebody who only looked whether there is a guard.
        caller.close()
    return None, _BACK


def _connect(place: Place) -> socket.socket | None:
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.settimeout(CALL_S)
    with contextlib.suppress(OSError):
        caller.connect(str(place.guard))
        return caller
    caller.close()
    return None


def _ask(place: Place, word: bytes) -> dict[str, Any] | None:
    """What came of it; None when no guard waits (any more)."""
    if (caller := _connect(place)) is None:
        return None
    with caller:
        caller.settimeout(BACK_S)
        try:
            caller.sendall(word)
            with caller.makefile("rb") as stream:
                if stream.readline() != word:
                    return None
                outcome: dict[str, Any] = json.loads(stream.readline())
        except (OSError, ValueError):
            return None
    return outcome


def apply(place: Place) -> int:
    """0 when all was done; 3 when a command failed and what was done before it was taken back."""
    wrong = ""
    with place.alone():
        if not place.file.exists():
            _say("there is no plan (any more): its guard takes back what is not finished in time")
            return 3
        plan, step = place.plan(), 0
        for number, action in enumerate(plan["apply"], 1):
            step = action.get("step", number)
            # Before it is done, so that it is known whatever comes.
            _write(place.begun, f"{step}\n", 0o600)
            try:
                act(action)
            except Failure as failure:
                if action.get("may_fail"):
                    continue
                wrong = f"step {number} of {len(plan['apply'])} failed: {failure}; taking all back"
                break
        else:
            _write(place.begun, f"{step + 1}\n", 0o600)
    if wrong:
        _say(wrong)
        take_back(place)
    return 3 if wrong else 0


def call_off(place: Place) -> int:
    """0 when the guard said that it will not fire; 3 when there is none (any more)."""
    if _ask(place, _OFF) is not None:
        return 0
    print(f"no guard is waiting: look into {place.outcome} for whether it took the plan back", file=sys.stderr)
    return 3


def _take_back(place: Place) -> list[str]:
    """By its guard, or where none waits by ourselves; what could not be taken back."""
    outcome = _ask(place, _BACK)
    if outcome is not None:
        return list(outcome["failed"])
    with place.alone():
        return place.take_back()


def take_back(place: Place) -> int:
    """0 when nothing of the plan is left; 3 when something could not be taken back."""
    if not place.file.exists():
        return 0
    return _told(_take_back(place))


def rollback(place: Place) -> int:
    """Print `taken back`, or nothing where there is nothing to take back. 3 when something could not be."""
    if not place.file.exists() and not place.kept.exists():
        return 0
    failed = _take_back(place) if place.file.exists() else []
    with place.alone():
        failed += place.take_kept_back()
    _say("taken back", sys.stdout)
    return _told(failed)


def _told(failed: list[str]) -> int:
    for words in failed:
        _say(f"not taken back: {words}")
    return 3 if failed else 0


def left(place: Place) -> int:
    """Print what `rollback` would do."""
    for action in [*place.back(), *place.kept_actions()]:
        verb = "write" if action.get("text") is not None else "remove"
        _say(f"{verb} {action['path']}" if action.get("path") else " ".join(action["argv"]), sys.stdout)
    return 0


def _in_own_session(work: Callable[[Place], int], place: Place) -> int:
    """Do it in a process that goes on when it cuts the connection over which it was asked; its exit code."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            os.setsid()
            code = work(place)
        except (OSError, ValueError, KeyError) as error:
            _say(f"carry_out: {error}")
            code = 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _say(text: str, stream: Any = None) -> None:
    """Whoever would read it may be cut off."""
    with contextlib.suppress(OSError):
        print(text, file=stream or sys.stderr, flush=True)


def _let_go_of_streams() -> None:
    """Whoever started us waits for the end of our output, not for us."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


def _write(path: Path, text: str | None, mode: int = 0o644) -> None:
    """Write a file whole, readable by all as launchd and sysctl want it unless `mode` says less; None removes it."""
    if text is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
        # Its name too, before what it is written for is done: the power may go at any moment.
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 done, 2 a wrong call, 3 it failed, and what that means stands on stderr."""
    working = {"apply": apply, "take-back": take_back, "rollback": rollback}
    try:
        match list(arguments):
            case ["arm", file, seconds, text]:
                return arm(Path(file), float(seconds), sys.stdin.read() if text == "-" else text)
            case ["call-off" | "left" as word, file]:
                return (call_off if word == "call-off" else left)(Place(Path(file)))
            case [word, file] if word in working:
                return _in_own_session(working[word], Place(Path(file)))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (OSError, ValueError, KeyError) as error:
        print(f"carry_out: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
