"""Enrolling one host: know it, log in by key or else by password, add the key, log in with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smolcluster.commands.enrolling.hostkey import Confirm, KnownHosts
from smolcluster.commands.enrolling.install import install
from smolcluster.commands.enrolling.session import connect
from smolcluster.commands.enrolling.types import EnrollError, Outcome, Target
from smolcluster.commands.enrolling.userkey import UserKey

if TYPE_CHECKING:
    import paramiko


@dataclass(frozen=True)
class Enrolling:
    """What all hosts of one call share. `password(target)` asks the person, at most once for all hosts.

    `key()` gives the person's key, and makes it if there is none: not called before a host has shown that it is the
    right one.
    """

    key: Callable[[], UserKey]
    known: KnownHosts
    confirm: Confirm
    password: Callable[[Target], str]

    def enroll(self, target: Target) -> Outcome:
        """Enroll one host. What goes wrong on that host is told by the outcome; KeyFileError: no key could be made."""
        fingerprint = ""
        try:
            with connect(target, self.known.types_of(target)) as transport:
                host_key = transport.get_remote_server_key()
                fingerprint = host_key.fingerprint
                self.known.check(target, host_key, self.confirm)
                if _key_logs_in(transport, target, self.key()):
                    return Outcome(target, True, fingerprint, "was enrolled already")
                _log_in(transport, target, self.password(target))
                added = install(transport, self.key().line)
            self._verify(target)
        except EnrollError as error:
            return Outcome(target, False, fingerprint, str(error))
        return Outcome(target, True, fingerprint, "key added" if added else "key was there already")

    def _verify(self, target: Target) -> None:
        with connect(target, self.known.types_of(target)) as transport:
            # Again, not trusted from before: this is another connection.
            self.known.check(target, transport.get_remote_server_key(), lambda _: False)
            if not _key_logs_in(transport, target, self.key()):
                raise EnrollError(
                    "the key was added, but sshd does not take it. Its log there says why; most often the home folder "
                    "is writable by others (`chmod go-w ~`), or PubkeyAuthentication is off"
                )


def _key_logs_in(transport: paramiko.Transport, target: Target, key: UserKey) -> bool:
    import paramiko

    try:
        transport.auth_publickey(target.user, key.key)
    except paramiko.AuthenticationException:
        return False
    return bool(transport.is_authenticated())


def _log_in(transport: paramiko.Transport, target: Target, password: str) -> None:
    import paramiko

    if not password:
        raise EnrollError("no password was given")
    try:
        # Falls back to keyboard-interactive, which is how some systems ask for a password.
        transport.auth_password(target.user, password)
    except paramiko.BadAuthenticationType as error:
        raise EnrollError(
            f"it takes no passwords (only {', '.join(error.allowed_types)}).\n"
            "fix: let it for this once (PasswordAuthentication yes), or add the key there by hand"
        ) from error
    except paramiko.AuthenticationException as error:
        raise EnrollError(f"wrong password for {target.user}, or no such user there") from error
    if not transport.is_authenticated():
        raise EnrollError("it wants more than a password (a second factor); add the key there by hand")
