"""What the parts of enrolling share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from smolcluster.errors import PeerError, SmolError

CONNECT_DEADLINE_S = 15.0
COMMAND_DEADLINE_S = 30.0


class EnrollError(PeerError):
    """One host could not be enrolled. Says why and what to do."""


class MissingExtraError(SmolError):
    """paramiko is not installed here."""

    exit_code: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__(
            "enroll speaks SSH through paramiko, which is not installed here.\n"
            "    fix: pip install 'smolcluster[ssh]'   (in a clone: .venv/bin/pip install -e '.[ssh]')"
        )


class KeyFileError(SmolError):
    """The person's own key cannot be used."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True)
class Target:
    """A machine and who to be there: `pi@pi5.local:2222`."""

    host: str
    user: str
    port: int

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != 22 else "")

    @property
    def known_name(self) -> str:
        """How known_hosts calls it."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    @classmethod
    def parse(cls, text: str, user: str, port: int) -> Target:
        """Read HOST or USER@HOST; what it does not say comes from the options."""
        name, at, host = text.rpartition("@")
        return cls(host=host.strip("[]"), user=name if at else user, port=port)


@dataclass(frozen=True)
class Outcome:
    """One line of the table: whether the key logs in there now, and what was done or went wrong."""

    target: Target
    ok: bool
    fingerprint: str
    note: str
