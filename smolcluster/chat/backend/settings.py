"""What the API is told: where it listens, who may come in, what it takes on."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretBytes, SecretStr, model_validator

from smolcluster.comm.route import is_loopback
from smolcluster.spec.base import Frozen

# A key that is shorter can be guessed.
SHORTEST_KEY = 16


class ApiSettings(Frozen):
    """Times in seconds. `names`: further names that this machine is asked by in a Host header.

    Without a key anybody on this machine may ask, and nobody else can. `requests_file` gets RequestRecords, `note_file`
    the ServingNote with its `urls`, `links_file` remembers which links were used. `tablet_key`: by which
    the plan's tablets come in, where there are any.
    `request_s` None leaves a request's deadline to the engine. `send_s`: a reader that takes nothing for so long is
    gone. `body_s`: how long a body may take to arrive, and how long a connection may ask for nothing. `handshake_s`:
    how long one to HTTPS may be without TLS. `ping_s`: how often a silent stream shows that it lives.
    `resume_s`: how long an answer of /chat or /ws/chat goes on with nobody listening. `kept_s`: how long its events are
    kept after its end; of so many `kept_answers` at most, and no more than `kept_bytes` of all together.
    """

    listen: tuple[str, ...] = ("127.0.0.1",)
    names: tuple[str, ...] = ()
    key: SecretStr | None = None
    body_bytes: int = Field(default=1 << 20, gt=0)
    body_s: float = Field(default=30.0, gt=0)
    handshake_s: float = Field(default=10.0, gt=0)
    request_s: float | None = Field(default=None, gt=0)
    send_s: float = Field(default=30.0, gt=0)
    ping_s: float = Field(default=15.0, gt=0)
    resume_s: float = Field(default=20.0, ge=0)
    kept_s: float = Field(default=300.0, ge=0)
    kept_answers: int = Field(default=64, ge=0)
    kept_bytes: int = Field(default=16 << 20, ge=1 << 10)
    reconnect_s: float = Field(default=60.0, gt=0)
    requests_file: Path | None = None
    note_file: Path | None = None
    links_file: Path | None = None
    tablet_key: SecretBytes | None = None
    urls: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.key is None and not self.local:
            raise ValueError("beyond loopback there must be a key")
        if self.key is not None and len(self.key.get_secret_value()) < SHORTEST_KEY:
            raise ValueError(f"a key has at least {SHORTEST_KEY} characters")
        return self

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return all(is_loopback(host) for host in self.listen)
