"""On a Debian machine: which packages an installation brings, and which of them go again. Standard library, Python 3.8.

    python -I - note '{"root": "~/.smolcluster", "packages": ["python3.11-venv"]}'
    python -I - take '{"root": "~/.smolcluster"}'

`note` adds to packages.json in the root what apt would newly install for these, with what they depend on; a package
that is there already, also one that would only be renewed, is none of ours. `take` says which of the noted ones may go:
those that are still installed and that nothing else has come to need. Neither installs or removes anything, so that no
administrator is needed. It is sent as text, as firewall.py is, to machines without smolcluster: neither can import the
other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

NOTE = "packages.json"
_COMMAND_S = 120.0
# `Inst name [version that is there] (new version ...)`: without the brackets it is not there yet.
_NEW = re.compile(r"^Inst (\S+) \(", re.MULTILINE)
_ANY = re.compile(r"^Inst (\S+) ", re.MULTILINE)
_GONE = re.compile(r"^(?:Remv|Purg) (\S+) ", re.MULTILINE)


class Failed(Exception):
    """What a person reads when something here did not work."""


def called(*command: str) -> subprocess.CompletedProcess[str]:
    """A program that has ended, in English. Failed if there is none."""
    environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": ""}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=_COMMAND_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{command[0]}: {error}") from None


def simulated(*words: str) -> str:
    """What apt-get would do. Failed with its words."""
    done = called("apt-get", "--simulate", *words)
    if done.returncode:
        raise Failed(f"apt-get {' '.join(words)}: {(done.stderr or done.stdout).strip() or done.returncode}")
    return done.stdout


def note(root: Path, packages: list[str]) -> dict[str, Any]:
    """Write down what will be new, beside what was noted before."""
    before = read(root)
    new = _NEW.findall(simulated("install", "--no-install-recommends", *packages))
    after = sorted({*before, *new})
    if after != before:
        write(root, after)
    return {"changed": after != before, "packages": after}


def take(root: Path) -> dict[str, Any]:
    """Which of the noted packages go, and which stay, with who needs them."""
    left = [name for name in read(root) if installed(name)]
    going: set[str] = set()
    stays = []
    for name in left:
        if name in going:
            continue
        # Together with those before: of two that stand in for each other only one may be spared.
        told = simulated("remove", *sorted(going), name)
        gone = set(_GONE.findall(told))
        others = sorted(gone.difference(left))
        if others:
            stays.append(f"the package {name} stays: {', '.join(others)} needs it now")
        elif _ANY.search(told):
            stays.append(f"the package {name} stays: others would be installed in its place")
        else:
            going |= gone
    return {"remove": sorted(going), "stays": stays}


def installed(name: str) -> bool:
    """Whether a package is there."""
    return called("dpkg-query", "--show", "--showformat=${db:Status-Status}", name).stdout == "installed"


def read(root: Path) -> list[str]:
    """The packages that are ours."""
    path = root / NOTE
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def write(root: Path, packages: list[str]) -> None:
    """Note them in one step."""
    root.mkdir(parents=True, exist_ok=True)
    new = root / f".{NOTE}.part"
    new.write_text(json.dumps(packages) + "\n", encoding="utf-8")
    new.replace(root / NOTE)


def main(arguments: list[str]) -> int:
    """Do one verb; JSON on stdout, a failure's words on stderr."""
    verb, order = arguments[0], json.loads(arguments[1])
    root = Path(order["root"]).expanduser()
    try:
        said = note(root, order["packages"]) if verb == "note" else take(root)
    except (Failed, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({"schema": 1, **said}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
