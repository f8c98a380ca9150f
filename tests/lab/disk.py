"""What a new host's disk has besides the machine's own files: name, users, keys, sshd, and what belongs to its kind.

The user `smol` logs in with the lab's key and may become root. Nothing of the machine's users, homes or keys is seen.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
import sysconfig
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smolcluster.spec.cluster import Kind

from .allowed import LAYER

USER, USER_ID = "smol", 1000
HOMES = {"macos": "/Users", "linux": "/home", "windows": "/home", "ipados": "/home"}
# What is in each host's /opt/lab: this package's `inside` and `macos`. And its wiring, as the lab changes it.
TOOLS, STATE = "/opt/lab", "/opt/lab-state"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
# The interpreter itself, not a virtual environment's: what runs with it needs the standard library only.
PYTHON = str(Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"))

_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile .ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
Subsystem sftp internal-sftp
MaxStartups 100
UseDNS no
"""
# A Mac's own paths; what runs over SSH without a login shell has no others.
_MAC_PATH = "SetEnv PATH=/usr/bin:/bin:/usr/sbin:/sbin\n"
# PAM is what makes a login session of systemd's, and with it the user's own manager.
_SSHD_MORE = {"macos": _MAC_PATH, "linux": "UsePAM yes\n"}
# Of the machine's programs those that no Mac has: a role that calls one must fail here as it would there.
_NOT_ON_A_MAC = """
ip tc ss bridge nft apt-get apt nmcli NetworkManager
systemctl systemd-run loginctl hostnamectl journalctl networkctl
"""
_STAND_INS = {
    # /sbin and /bin are links to these.
    "usr/sbin": "networksetup scutil ipconfig sysctl system_profiler netstat ifconfig route ping pfctl",
    "usr/bin": "sw_vers pmset caffeinate launchctl",
    "usr/libexec/ApplicationFirewall": "socketfilterfw",
}
_PI_UNITS = {
    "multi-user.target.wants/NetworkManager.service": "/lib/systemd/system/NetworkManager.service",
    "multi-user.target.wants/ssh.service": "/lib/systemd/system/ssh.service",
    "dbus-org.freedesktop.nm-dispatcher.service": "/lib/systemd/system/NetworkManager-dispatcher.service",
}
# What needs hardware or the machine's own kernel settings, or would only cost time.
_MASKED = """
systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service
systemd-modules-load.service systemd-sysctl.service systemd-random-seed.service systemd-timesyncd.service
systemd-firstboot.service systemd-repart.service systemd-pstore.service systemd-update-utmp.service
systemd-update-utmp-runlevel.service systemd-machine-id-commit.service systemd-pcrphase.service
systemd-pcrphase-sysinit.service systemd-journald-audit.socket systemd-initctl.socket systemd-journal-flush.service
systemd-tmpfiles-clean.timer systemd-tmpfiles-setup-dev.service systemd-sysusers.service systemd-binfmt.service
systemd-ask-password-wall.path systemd-ask-password-console.path systemd-remount-fs.service kmod-static-nodes.service
dev-hugepages.mount dev-mqueue.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount
sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount timers.target getty.target getty-static.service
NetworkManager-wait-online.service
"""
# As a fresh Raspberry Pi OS: it asks for a lease, and has an address of its own that a neighbour can use.
PI_PROFILE = """\
[connection]
id=Wired connection 1
uuid={uuid}
type=ethernet
autoconnect-priority=-999
interface-name={device}

[ipv4]
method=auto

[ipv6]
addr-gen-mode=eui64
method=link-local
"""


@dataclass(frozen=True)
class KeyPair:
    """An SSH key, as files hold it."""

    private: bytes
    public: str

    @classmethod
    def make(cls, comment: str) -> KeyPair:
        """A new one."""
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return cls(private, f"{public.decode()} {comment}\n")


class Disk:
    """The folder of one host's own files. `folder` as this process sees it."""

    def __init__(self, folder: Path, name: str, kind: Kind) -> None:
        self.folder = folder
        self.name = name
        self.kind = kind
        self.homes = HOMES[kind]
        self.home = f"{self.homes}/{USER}"

    def make(self, key: KeyPair, authorised: KeyPair, hosts: str, known: str) -> None:
        """Everything but what only one kind has."""
        # The machine's own keys and settings of ssh and sudo are not the host's.
        self.own_folder("etc/ssh")
        self.own_folder("etc/sudoers.d", 0o750)
        self.write("etc/hostname", f"{self.name}\n")
        self.write("etc/machine-id", f"{uuid.uuid4().hex}\n")
        self.write("etc/hosts", hosts)
        self.write("etc/resolv.conf", "")
        self.write("etc/ssh/sshd_config", _SSHD + _SSHD_MORE.get(self.kind, ""))
        self.write("etc/ssh/ssh_config", "Host *\n  HashKnownHosts no\n")
        self.write("etc/ssh/ssh_host_ed25519_key", key.private, 0o600)
        self.write("etc/ssh/ssh_host_ed25519_key.pub", key.public)
        self.write("etc/ssh/ssh_known_hosts", known)
        self.write("etc/sudoers.d/lab", f"{USER} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        self._users()
        for folder in ("kept/root", f"kept/{self.homes.strip('/')}"):
            (self.folder / folder).mkdir(parents=True, mode=0o755)
        self.write_home(".ssh/authorized_keys", authorised.public, 0o600)
        if self.kind == "macos":
            self._mac()
        elif self.kind == "linux":
            self._pi()

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> Path:
        """A file of the host's root."""
        return _write(self.folder / "upper" / path, content, mode)

    def write_home(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """A file of the user."""
        home = self.folder / "kept" / self.home.strip("/")
        place = _write(home / path, content, mode)
        while place != home.parent:
            os.chown(place, USER_ID, USER_ID)
            place = place.parent

    def link(self, path: str, target: str) -> None:
        """A symbolic link of the host's root."""
        place = self.folder / "upper" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def own_folder(self, path: str, mode: int = 0o755) -> None:
        """A folder that shows nothing of the machine's."""
        place = self.folder / "upper" / path
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(mode)
        os.setxattr(place, "trusted.overlay.opaque", b"y")

    def import_from(self, project: Path, shown: Sequence[str]) -> None:
        """Let the Python of the tests, as the host sees it, import smolcluster from the project whatever it was
        installed from. `shown` are the machine's folders that the host sees, in the order of their own disks."""
        packages = Path(sysconfig.get_path("purelib")).resolve()
        disk, path = self.folder, "/"
        for number, each in enumerate(shown):
            if packages.is_relative_to(each):
                disk, path = self.folder / f"shown-{number}", each
        _write(disk / "upper" / packages.relative_to(path) / "lab.pth", f"{project}\n", 0o644)

    def hide(self, path: str) -> None:
        """The machine's file is not there on the host."""
        place = self.folder / "upper" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        # The overlay's own sign for a removed file.
        os.mknod(place, stat.S_IFCHR, os.makedev(0, 0))

    def _users(self) -> None:
        """The machine's system accounts, which its programs need, and one person."""
        kept = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines() if ":" in line]
        kept = [entry for entry in kept if int(entry[2]) < 1000 or entry[0] == "nobody"]
        entries = [":".join(entry) for entry in kept]
        entries.append(f"{USER}:x:{USER_ID}:{USER_ID}:smolcluster:{self.home}:/bin/bash")
        self.write("etc/passwd", "\n".join(entries) + "\n")
        # sshd takes an account with `!` for locked, one with `*` for one without a password.
        shadow = [f"{entry[0]}:*:20000:0:99999:7:::" for entry in kept] + [f"{USER}:*:20000:0:99999:7:::"]
        self.write("etc/shadow", "\n".join(shadow) + "\n", 0o640)
        groups = [line for line in Path("/etc/group").read_text().splitlines() if _is_system(line)]
        self.write("etc/group", "\n".join([*groups, f"{USER}:x:{USER_ID}:"]) + "\n")

    def _mac(self) -> None:
        played = {f"{folder}/{name}" for folder, names in _STAND_INS.items() for name in names.split()}
        for name in [*_NOT_ON_A_MAC.split(), *(Path(path).name for path in sorted(played))]:
            for folder in ("usr/bin", "usr/sbin"):
                # The machine's own, or one of those that packages.sh unpacked for the lab's hosts.
                there = any(Path(root, folder, name).exists() for root in ("/", LAYER))
                if there and f"{folder}/{name}" not in played:
                    self.hide(f"{folder}/{name}")
        for folder in ("Library/LaunchDaemons", "Library/Preferences/SystemConfiguration", "usr/local/bin"):
            (self.folder / "upper" / folder).mkdir(parents=True)
        # The stand-ins do what they are told with it, out of the way of anybody's PATH.
        for name in ("ip", "ping"):
            program = shutil.which(name, path=PATH)
            assert program is not None, name
            shutil.copy(program, self.write(f"opt/lab-bin/{name}", b"", 0o755))
        for folder, names in _STAND_INS.items():
            for name in names.split():
                self.write(f"{folder}/{name}", f'#!/bin/sh\n{_python("macos")} {name} "$@"\n', 0o755)

    def _pi(self) -> None:
        self.own_folder("etc/systemd/system")
        self.own_folder("etc/NetworkManager")
        self.own_folder("etc/NetworkManager/system-connections", 0o700)
        self.write("etc/NetworkManager/NetworkManager.conf", "[main]\nplugins=keyfile\ndns=none\n")
        for path, target in _PI_UNITS.items():
            self.link(f"etc/systemd/system/{path}", target)
        for unit in _MASKED.split():
            self.link(f"etc/systemd/system/{unit}", "/dev/null")
        # It empties /tmp, in which the project may lie.
        self.link("etc/tmpfiles.d/tmp.conf", "/dev/null")
        self.link("etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")
        self.write("etc/systemd/journald.conf.d/lab.conf", "[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n")


def first_program(kind: Kind) -> list[str]:
    """What a host starts with: systemd on Linux, elsewhere what plays launchd."""
    if kind == "linux":
        return ["/lib/systemd/systemd"]
    return [PYTHON, "-P", "-S", "-s", "-m", "inside.first"]


def _python(module: str) -> str:
    environment = f"PYTHONPATH={TOOLS} PYTHONDONTWRITEBYTECODE=1"
    return f"{environment} exec {shlex.quote(PYTHON)} -P -S -s -m {module}"


def _is_system(line: str) -> bool:
    name, _, number, *_ = line.split(":")
    return int(number) < 1000 or name == "nogroup"


def _write(place: Path, content: str | bytes, mode: int) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content.encode() if isinstance(content, str) else content)
    place.chmod(mode)
    return place
