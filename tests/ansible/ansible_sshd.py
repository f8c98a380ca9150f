"""Machines on this machine: an sshd each on 127.0.0.2, .3 ... with own host keys, ports and homes. Real SSH, no mocks.

They have the project under test, whatever is installed, and all log in as the user who runs the tests; what makes them
different machines is HOME, the address, and the port.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar

import psutil
from ansible_lab import ROOT, running_with

_READY_S = 10.0
_CONFIG = """\
ListenAddress {address}
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {keys}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv HOME={home} OMP_NUM_THREADS=1 PYTHONPATH={root} {more}
Subsystem sftp {sftp}
MaxStartups 100
"""


@dataclass(frozen=True)
class Machine:
    """One of them: how it is reached and what it calls home."""

    name: str
    address: str
    port: int
    home: Path
    server: subprocess.Popen[bytes]


class Machines:
    """node2 on 127.0.0.2 and node3 on 127.0.0.3, for as long as the context is open."""

    # By the last number of its address.
    names: ClassVar[dict[int, str]] = {2: "node2", 3: "node3"}

    def __init__(self, folder: Path, shows_project: bool = True) -> None:
        # The interpreter there sees the project under test, unless setup.yml is to bring it.
        self._python_path = ROOT if shows_project else ""
        self.folder = folder
        self.machines: list[Machine] = []

    @staticmethod
    def why_not() -> str:
        """Why there can be no sshd here; empty where there can."""
        if _sshd() is None or shutil.which("ssh") is None:
            return "no sshd here (Debian: apt install openssh-server)"
        try:
            for number in (2, 3, 4):
                free_port(f"127.0.0.{number}")
        except OSError as error:
            return f"127.0.0.2 is no address of this machine ({error}); macOS: sudo ifconfig lo0 alias 127.0.0.2"
        return ""

    def __enter__(self) -> Machines:
        if os.geteuid() == 0:
            # Where sshd, started as root, wants to lock its unprivileged part in.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        _keygen(self.folder / "key")
        for number, name in self.names.items():
            self.machines.append(self._start(name, f"127.0.0.{number}"))
        known = [self._known(machine) for machine in self.machines]
        (self.folder / "known_hosts").write_text("".join(known))
        (self.folder / "ssh_config").write_text(
            f"Host *\n  IdentityFile {self.folder}/key\n  IdentitiesOnly yes\n  BatchMode yes\n"
            f"  UserKnownHostsFile {self.folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also the connections that Ansible keeps for a minute, at both ends.
        kept = [
            each for machine in self.machines for each in psutil.Process(machine.server.pid).children(recursive=True)
        ]
        for machine in self.machines:
            machine.server.terminate()
            machine.server.wait(10)
        kept += running_with(self.folder.name)
        for process in kept:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(kept, timeout=10)
        shutil.rmtree(self.folder)

    def environment(self) -> dict[str, str]:
        """What ssh needs to know: our key and the machines' host keys, checked as a person's would be."""
        return {
            "ANSIBLE_SSH_COMMON_ARGS": f"-F {self.folder}/ssh_config",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
        }

    def inventory(self, folder: Path, python: str, off: str = "") -> str:
        """An inventory of node1 (this machine, 127.0.0.4) and the machines; nobody serves the port of `off`."""
        lines = [f"  node1: {{connection: local, workdir: {folder}/runs, threads: 1}}"]
        for machine in self.machines:
            port = free_port(machine.address) if machine.name == off else machine.port
            lines.append(
                f"  {machine.name}: {{kind: linux, host: {machine.address}, ssh_port: {port}, threads: 1,"
                f" user: {getpass.getuser()}, python: {python}, workdir: '~/work-{folder.name}/runs'}}"
            )
        members = {"node1": "127.0.0.4", **{machine.name: machine.address for machine in self.machines}}
        wires = ", ".join(f"{name}: {address}" for name, address in members.items())
        return (
            "schema: 1\nname: lab\ncontroller: node1\nmachines:\n" + "\n".join(lines) + "\nnetworks:\n"
            f"  wire: {{medium: ethernet, subnet: 127.0.0.0/8, private: true, members: {{{wires}}}}}\n"
            f"defaults:\n  port: {free_port(*members.values())}\n  data: {{dataset: pydoc}}\n"
        )

    def work(self, folder: Path, node: str) -> Path:
        """Where a machine keeps the runs of a test."""
        machine = next(machine for machine in self.machines if machine.name == node)
        return machine.home / f"work-{folder.name}" / "runs"

    def _start(self, name: str, address: str, more: str = "", sftp: str = "internal-sftp") -> Machine:
        """`more` goes into its environment; `sftp` answers for files."""
        folder = self.folder / name
        home = folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        _keygen(folder / "host_key")
        port = free_port(address)
        config = folder / "sshd_config"
        config.write_text(
            _CONFIG.format(
                address=address,
                port=port,
                folder=folder,
                keys=self.folder / "key.pub",
                home=home,
                root=self._python_path,
                more=more,
                sftp=sftp,
            )
        )
        sshd = _sshd()
        assert sshd is not None
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=log)
        machine = Machine(name, address, port, home, server)
        _await(machine, folder / "log")
        return machine

    def _known(self, machine: Machine) -> str:
        key = (self.folder / machine.name / "host_key.pub").read_text()
        return f"[{machine.address}]:{machine.port} {key}"


def _sshd() -> str | None:
    return shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def free_port(*addresses: str) -> int:
    """A port that is free on all these addresses."""
    while True:
        with socket.socket() as first:
            first.bind((addresses[0], 0))
            port: int = first.getsockname()[1]
            try:
                for address in addresses[1:]:
                    with socket.socket() as other:
                        other.bind((address, port))
            except OSError:
                continue
            return port


def _await(machine: Machine, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    pause = threading.Event()
    while time.monotonic() < deadline and machine.server.poll() is None:
        try:
            socket.create_connection((machine.address, machine.port), timeout=1).close()
        except OSError:
            pause.wait(0.05)
        else:
            return
    raise RuntimeError(f"sshd of {machine.name} did not start:\n{log.read_text()}")
