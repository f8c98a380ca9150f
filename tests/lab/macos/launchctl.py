"""launchctl(1): jobs of the system domain. It asks the host's PID 1 (inside/launchd.py)."""

from __future__ import annotations

import json
import plistlib
import socket
from pathlib import Path
from typing import Any

from inside import launchd

from .told import Refused, unknown

_WORDS = {launchd.NOT_PERMITTED: "Operation not permitted", launchd.NO_PROCESS: "No such process"}
_WORDS[launchd.IO_ERROR] = "Input/output error"


def main(arguments: list[str]) -> int:
    """One call."""
    verb, *rest = arguments or [""]
    if verb in ("bootstrap", "bootout") and rest[:1] == ["system"] and len(rest) == 2:
        return _load(rest[1], "Bootstrap") if verb == "bootstrap" else _unload(_label(rest[1]), "Boot-out")
    if verb == "bootout" and len(rest) == 1 and rest[0].startswith("system/"):
        return _unload(rest[0].removeprefix("system/"), "Boot-out")
    if verb == "load" and rest:
        return _old_load(rest)
    if verb == "unload" and rest:
        return _unload(_label(rest[-1]), "Unload")
    if verb in ("enable", "disable") and len(rest) == 1 and rest[0].startswith("system/"):
        return _checked(_ask(verb=verb, label=rest[0].removeprefix("system/")), f"Could not {verb} service")
    if verb == "kickstart" and rest and rest[-1].startswith("system/"):
        label = rest[-1].removeprefix("system/")
        return _checked(_ask(verb="start", label=label, kill="-k" in rest), f'Could not find service "{label}"')
    if verb == "list":
        return _list(rest)
    if verb == "print" and len(rest) == 1 and rest[0].startswith("system/"):
        return _print(rest[0].removeprefix("system/"))
    if verb == "print-disabled" and rest == ["system"]:
        disabled = _ask(verb="print")["disabled"]
        lines = [f'\t\t"{label}" => {"disabled" if off else "enabled"}' for label, off in sorted(disabled.items())]
        print("\n\tdisabled services = {\n" + "".join(line + "\n" for line in lines) + "\t}")
        return 0
    raise unknown("launchctl", " ".join(arguments))


def _load(path: str, what: str) -> int:
    return _checked(_ask(verb="load", path=str(Path(path).absolute())), f"{what} failed")


def _old_load(rest: list[str]) -> int:
    if "-w" in rest:
        _ask(verb="enable", label=_label(rest[-1]))
    return _load(rest[-1], "Load")


def _unload(label: str, what: str) -> int:
    return _checked(_ask(verb="unload", label=label), f"{what} failed")


def _list(rest: list[str]) -> int:
    jobs = _ask(verb="list")["jobs"]
    if not rest:
        print("PID\tStatus\tLabel")
        for job in jobs:
            print(f"{job['pid'] or '-'}\t{job['status'] or 0}\t{job['label']}")
        return 0
    job = _found(jobs, rest[0])
    pid = f'\t"PID" = {job["pid"]};\n' if job["pid"] else ""
    print(
        f'{{\n\t"Label" = "{job["label"]}";\n\t"LastExitStatus" = {job["status"] or 0};\n{pid}'
        f'\t"Program" = "{job["program"]}";\n}};'
    )
    return 0


def _print(label: str) -> int:
    job = _found(_ask(verb="print")["jobs"], label)
    arguments = "".join(f"\t\t{word}\n" for word in job["arguments"])
    lines = [
        f"system/{label} = {{",
        f"\tactive count = {int(bool(job['pid']))}",
        f"\tpath = {job['path']}",
        "\ttype = LaunchDaemon",
        f"\tstate = {'running' if job['pid'] else 'not running'}\n",
        f"\tprogram = {job['program']}",
        f"\targuments = {{\n{arguments}\t}}\n",
        f"\truns = {job['runs']}",
    ]
    if job["pid"]:
        lines.append(f"\tpid = {job['pid']}")
    never = "(never exited)" if job["status"] is None else str(job["status"])
    print("\n".join([*lines, f"\tlast exit code = {never}", "}"]))
    return 0


def _found(jobs: list[dict[str, Any]], label: str) -> dict[str, Any]:
    for job in jobs:
        if job["label"] == label:
            return job
    raise Refused(f'Could not find service "{label}" in domain for system', launchd.NOT_FOUND)


def _label(path: str) -> str:
    try:
        return str(plistlib.loads(Path(path).read_bytes())["Label"])
    except (OSError, ValueError, KeyError):
        raise Refused(f"{path}: could not be read", launchd.IO_ERROR) from None


def _checked(reply: dict[str, Any], what: str) -> int:
    number: int = reply["error"]
    if number == launchd.NOT_FOUND:
        raise Refused(f"{what} in domain for system", number)
    if number:
        raise Refused(f"{what}: {number}: {_WORDS[number]}", number)
    return 0


def _ask(**request: object) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30.0)
        connection.connect(launchd.SOCKET)
        with connection.makefile("rwb") as stream:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            reply: dict[str, Any] = json.loads(stream.readline())
    return reply
