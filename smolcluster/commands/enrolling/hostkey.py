"""Is the machine that answers the one it was? known_hosts, as OpenSSH keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from smolcluster.commands.enrolling.types import EnrollError, Target

if TYPE_CHECKING:
    import paramiko

Confirm = Callable[[str], bool]


class KnownHosts:
    """A known_hosts file. Hashed names are understood; lines with a marker (@cert-authority) are left alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def types_of(self, target: Target) -> tuple[str, ...]:
        """The types of key this host is known by: to be asked for, so that like is compared with like."""
        known = self._read().lookup(target.known_name)
        return tuple(known.keys()) if known is not None else ()

    def check(self, target: Target, key: paramiko.PKey, confirm: Confirm) -> None:
        """Accept the host's key: known, or confirmed by the person and then written down. EnrollError otherwise."""
        known = self._read().lookup(target.known_name)
        if known is not None:
            expected = known.get(key.get_name())
            if expected is not None and expected.asbytes() == key.asbytes():
                return
            if expected is not None:
                raise EnrollError(_changed(target, self.path, expected.fingerprint, key.fingerprint))
        if not confirm(_question(target, key, known is not None)):
            raise EnrollError("its host key was not confirmed; nothing was sent to it")
        self._add(target, key)

    def _read(self) -> paramiko.HostKeys:
        import paramiko

        keys = paramiko.HostKeys()
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return keys
        for line in text.splitlines():
            # A broken line stands for no host, as in OpenSSH.
            entry = _entry(line.strip())
            if entry is not None and entry.key is not None:
                for name in entry.hostnames:
                    keys.add(name, entry.key.get_name(), entry.key)
        return keys

    def _add(self, target: Target, key: paramiko.PKey) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            # A last line without an end must not swallow ours.
            end = file.seek(0, 2)
            file.seek(max(0, end - 1))
            lead = b"\n" if file.read(1) not in (b"", b"\n") else b""
            file.write(lead + f"{target.known_name} {key.get_name()} {key.get_base64()}\n".encode())


def _entry(line: str) -> paramiko.hostkeys.HostKeyEntry | None:
    import paramiko

    if not line or line.startswith(("#", "@")):
        return None
    try:
        return paramiko.hostkeys.HostKeyEntry.from_line(line)
    except (paramiko.SSHException, paramiko.hostkeys.InvalidHostKey, ValueError):
        return None


def _question(target: Target, key: paramiko.PKey, known: bool) -> str:
    otherwise = "\n(It is known by a key of another type.)" if known else ""
    return (
        f"{target.known_name} is not known here yet. Its {key.get_name()} key is\n    {key.fingerprint}{otherwise}\n"
        "(On that machine: `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` shows it.)"
    )


def _changed(target: Target, path: Path, expected: str, found: str) -> str:
    return (
        f"its host key has CHANGED: known {expected}, now {found}.\n"
        "Either the machine was reinstalled, or another one answers in its place. No password was sent.\n"
        f"fix: if you know why, `ssh-keygen -f {path} -R '{target.known_name}'`, then enroll again"
    )
