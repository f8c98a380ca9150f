"""Programs that are put first in PATH in place of a system's own: they write down how they were called, and start what
they were given. What a real launchd or task scheduler makes of a call is not proved with them."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

_HEAD = f"""#!{sys.executable}
import json, plistlib, re, subprocess, sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
here, arguments = Path(__file__).parent, sys.argv[1:]
with (here / "calls").open("a") as file:
    file.write(json.dumps([Path(__file__).name, *arguments]) + "\\n")
verb = arguments[0].strip("/") if arguments else ""
refusal = here / f"refuse-{{Path(__file__).name}}-{{verb}}"
if refusal.exists():
    sys.exit(refusal.read_text())
def begin(command, folder, log=None):
    output = open(log, "ab") if log else subprocess.DEVNULL
    streams = dict(stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    subprocess.Popen(command, **streams, cwd=folder, start_new_session=True)
"""
_LAUNCHCTL = """
if arguments[0] == "bootstrap":
    job = plistlib.loads(Path(arguments[2]).read_bytes())
    begin(job["ProgramArguments"], job["WorkingDirectory"], job["StandardOutPath"])
elif arguments[0] == "bootout":
    sys.exit("Boot-out failed: 3: No such process")
"""
# Of a command line it understands what list2cmdline makes of words without quotes.
_SCHTASKS = """
name = arguments[2]
kept = here / (name.rpartition(chr(92))[2] + ".task")
if verb == "Create":
    kept.write_bytes(Path(arguments[4]).read_bytes())
elif not kept.exists():
    sys.exit("ERROR: The system cannot find the file specified.")
elif verb == "Run":
    task = ElementTree.fromstring(kept.read_bytes())
    told = {part.tag.rpartition("}")[2]: part.text for part in task.iter()}
    begin([told["Command"], *told["Arguments"].split()], told["WorkingDirectory"])
elif verb == "Delete":
    kept.unlink()
"""
PROGRAMS = {"launchctl": _LAUNCHCTL, "schtasks": _SCHTASKS, "systemctl": ""}


@dataclass(frozen=True)
class StandIns:
    """`folder` is first in PATH."""

    folder: Path

    def calls(self) -> list[list[str]]:
        """Each call, the program's name first."""
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def refuse(self, program: str, verb: str, words: str) -> None:
        """From now on the program refuses the verb, saying so."""
        (self.folder / f"refuse-{program}-{verb.strip('/')}").write_text(words)

    def tasks(self) -> list[str]:
        """The names of the scheduled tasks that are there."""
        return sorted(path.stem for path in self.folder.glob("*.task"))


def make(folder: Path, *names: str) -> StandIns:
    """Write the programs of those names into the folder."""
    for name in names:
        path = folder / name
        path.write_text(_HEAD + PROGRAMS[name])
        path.chmod(0o755)
    return StandIns(folder)


def put_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    """Make all programs and put them first in PATH."""
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    # Who a user of Windows is; on one, the system is asked first.
    monkeypatch.setenv("USERDOMAIN", "desk")
    monkeypatch.setenv("USERNAME", "ann")
    return make(folder, *PROGRAMS)
