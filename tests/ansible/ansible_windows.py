"""A home with a Windows PC in it: the guide's machines for edp, on this machine, each but mini1 behind an sshd."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import ClassVar

from ansible_sshd import Machine, Machines, free_port
from windows_pc import SFTP_SERVER

from tests.jobs.stand_ins import StandIns, make

_PLAYER = Path(__file__).with_name("windows_pc.py")
PYTHON = ".smolcluster/venv/Scripts/python.exe"


class Home(Machines):
    """mini1 is this machine; pi5, win and macbook are reached over SSH. `win` speaks PowerShell (windows_pc.py)."""

    names: ClassVar[dict[int, str]] = {2: "pi5", 3: "win", 5: "macbook"}

    @staticmethod
    def why_no_files() -> str:
        """Why nothing can be copied to the PC; empty where it can."""
        return "" if Path(SFTP_SERVER).exists() else f"no {SFTP_SERVER} here (Debian: apt install openssh-sftp-server)"

    def inventory(self, folder: Path, python: str, off: str = "") -> str:
        """The inventory. Of win it says no more than a person would: not even where its Python is."""
        lines = [f"  mini1: {{connection: local, kind: linux, workdir: {folder}/runs, threads: 1}}"]
        for machine in self.machines:
            about = f"host: {machine.address}, ssh_port: {machine.port}, threads: 1"
            if machine.name != "win":
                about += f", python: {python}"
            port = f"ssh_port: {free_port(machine.address)}"
            about = about.replace(f"ssh_port: {machine.port}", port) if machine.name == off else about
            lines.append(f"  {machine.name}: {{{about}, workdir: '~/work-{folder.name}/runs'}}")
        members = {"mini1": "127.0.0.4", **{machine.name: machine.address for machine in self.machines}}
        wires = ", ".join(f"{name}: {address}" for name, address in members.items())
        return (
            "schema: 1\nname: home\ncontroller: mini1\nmachines:\n" + "\n".join(lines) + "\nnetworks:\n"
            f"  wire: {{medium: ethernet, subnet: 127.0.0.0/8, private: true, members: {{{wires}}}}}\n"
            f"defaults:\n  port: {free_port(*members.values())}\n  data: {{dataset: pydoc}}\n"
        )

    def played(self) -> list[tuple[str, object]]:
        """What the PC was asked, in order: a module with its arguments, or a command with its words."""
        played = self._home_of("win") / "played.jsonl"
        text = played.read_text(encoding="utf-8") if played.exists() else ""
        return [tuple(json.loads(line)) for line in text.splitlines()]

    def scheduler(self) -> StandIns:
        """The PC's task scheduler, as far as it is played."""
        return StandIns(self.folder / "win" / "programs")

    def _home_of(self, name: str) -> Path:
        return next(machine.home for machine in self.machines if machine.name == name)

    def _start(self, name: str, address: str) -> Machine:
        if name != "win":
            return super()._start(name, address)
        programs = self.folder / name / "programs"
        programs.mkdir(parents=True)
        for program, how in {"PowerShell": "powershell", "sftp-server": "sftp"}.items():
            _script(programs / program, f"exec {shlex.quote(sys.executable)} {shlex.quote(str(_PLAYER))} {how}")
        make(programs, "schtasks")
        python = self.folder / name / "home" / PYTHON
        python.parent.mkdir(parents=True)
        _script(python, f"exec {shlex.quote(sys.executable)}")
        return super()._start(name, address, f"PATH={programs}:/usr/bin:/bin", f"{programs}/sftp-server")


def _script(path: Path, command: str) -> None:
    path.write_text(f'#!/bin/sh\n{command} "$@"\n')
    path.chmod(0o755)
