"""Runs on a machine, with nothing but Python's standard library: does what a plan says, or takes it back.

    python3 carry_out.py arm FILE SECONDS     a guard waits; unless it is called off in time it takes the plan back
    python3 carry_out.py apply FILE           the plan's commands; the first that fails ends it, and all is taken back
    python3 carry_out.py call-off FILE        the guard ends, and the plan stays
    python3 carry_out.py rollback FILE        take it back now

FILE is what `python -m smolcluster network diff --json` has for one machine. Arm before you apply: if the change cuts
the connection that would call the guard off, the guard gives it back. It needs a Unix (a Windows PC gets routes only,
and those are taken back by hand with the same file). A guard does not outlive a reboot.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMAND_S = 60.0
CALL_S = 10.0
_CALL_OFF = b"off\n"


class Failure(Exception):
    """A command of the plan did not succeed; says which, and what it said."""


def act(action: dict[str, Any]) -> None:
    """Run a command, or write or remove a file. Failure says what went wrong."""
    path = action.get("path")
    try:
        if path is not None:
            _file(Path(path), action["text"])
            return
        argv = list(action["argv"])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{path or ' '.join(action['argv'])}: {error}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise Failure(f"{' '.join(argv)}: exit code {done.returncode}: {said}")


def roll_back(plan: dict[str, Any]) -> list[str]:
    """Take back all that can be; what could not is told. A step that was never done may well fail to be undone."""
    failed = []
    for action in plan["rollback"]:
        try:
            act(action)
        except Failure as failure:
            failed.append(str(failure))
    return failed


def apply(file: Path) -> int:
    """0 when all was done; 3 when a command failed and what was done before it was taken back."""
    plan = json.loads(file.read_text(encoding="utf-8"))
    for number, action in enumerate(plan["apply"], 1):
        try:
            act(action)
        except Failure as failure:
            print(f"step {number} of {len(plan['apply'])} failed: {failure}; taking all back", file=sys.stderr)
            for words in roll_back(plan):
                print(f"  not taken back: {words}", file=sys.stderr)
            return 3
    return 0


def arm(file: Path, seconds: float) -> int:
    """Start a guard of its own session, and return when it listens."""
    json.loads(file.read_text(encoding="utf-8"))
    command = [sys.executable, str(Path(__file__).resolve()), "guard", str(file), str(seconds)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True
    ) as guard:
        assert guard.stdout is not None
        if guard.stdout.readline() != b"armed\n":
            print("the guard did not start", file=sys.stderr)
            return 3
        # It goes on by itself; leaving the block would wait for it.
        guard.stdout.close()
        os._exit(0)


def guard(file: Path, seconds: float) -> int:
    """Wait to be called off; else take the plan back and write down what came of it."""
    place = _place(file)
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        # Only its owner may call it off.
        before = os.umask(0o177)
        server.bind(str(place))
        os.umask(before)
        server.listen(1)
        server.settimeout(seconds)
        sys.stdout.write("armed\n")
        sys.stdout.flush()
        try:
            caller, _ = server.accept()
        except TimeoutError:
            place.unlink(missing_ok=True)
            failed = roll_back(json.loads(file.read_text(encoding="utf-8")))
            _file(_outcome(file), json.dumps({"rolled_back": True, "failed": failed}) + "\n")
            return 3
        with caller:
            caller.settimeout(CALL_S)
            place.unlink(missing_ok=True)
            _file(_outcome(file), json.dumps({"rolled_back": False, "failed": []}) + "\n")
            caller.sendall(_CALL_OFF)
    return 0


def call_off(file: Path) -> int:
    """0 when the guard said that it will not fire; 3 when there is none (any more)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(CALL_S)
        try:
            caller.connect(str(_place(file)))
            if caller.recv(len(_CALL_OFF)) == _CALL_OFF:
                return 0
        except OSError:
            pass
    print(f"no guard is waiting: look into {_outcome(file)} for whether it took the plan back", file=sys.stderr)
    return 3


def _place(file: Path) -> Path:
    return file.with_name(f"{file.name}.guard")


def _outcome(file: Path) -> Path:
    return file.with_name(f"{file.name}.outcome")


def _file(path: Path, text: str | None) -> None:
    """Write a file whole, readable by all, as launchd and sysctl want it; None removes it."""
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
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 done, 2 a wrong call, 3 it failed, and what that means stands on stderr."""
    try:
        match list(arguments):
            case ["apply", file]:
                return apply(Path(file))
            case ["arm", file, seconds]:
                return arm(Path(file), float(seconds))
            case ["guard", file, seconds]:
                return guard(Path(file), float(seconds))
            case ["call-off", file]:
                return call_off(Path(file))
            case ["rollback", file]:
                failed = roll_back(json.loads(Path(file).read_text(encoding="utf-8")))
                print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
                return 3 if failed else 0
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (OSError, ValueError, KeyError) as error:
        print(f"carry_out: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
