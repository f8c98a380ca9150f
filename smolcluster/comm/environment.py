"""The variables SMOL_*, and those of torchrun that matter here, as one frozen object. All problems are told at once."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from smolcluster.comm.config import read_secret
from smolcluster.comm.endpoint import Endpoint, listen
from smolcluster.comm.route import address_towards, is_loopback
from smolcluster.comm.tls import TlsContexts
from smolcluster.errors import ConfigError, PeerError, Problem

_TLS = ("SMOL_TLS_CERT", "SMOL_TLS_KEY", "SMOL_TLS_CA")
# The list of revoked certificates: only with the others, which need none.
_CRL = "SMOL_TLS_CRL"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Settings:
    """`port` 0 takes a free one. `secret` is empty and `tls` None when nothing was said of them.

    `keep_memory`: set the allocator of this process (allocator.py).
    """

    hosts: tuple[str, ...]
    port: int
    buffer_bytes: int
    timeout_s: float
    generation: int
    keep_memory: bool = True
    secret: bytes = field(default=b"", repr=False)
    tls: TlsContexts | None = None


def read_settings(environ: Mapping[str, str], rendezvous: Endpoint | None) -> Settings:
    """Settings from the environment. `rendezvous`: where c10d's store listens, if it does.

    ConfigError lists every variable that is wrong, and how to mend it.
    """
    reader = _Reader(environ)
    settings = Settings(
        hosts=reader.hosts(rendezvous),
        port=reader.port(),
        buffer_bytes=int(reader.number("SMOL_BUFFER_MB", 8.0) * (1 << 20)),
        timeout_s=reader.number("SMOL_TIMEOUT_S", 60.0),
        generation=reader.count("TORCHELASTIC_RESTART_COUNT"),
        keep_memory=reader.switch("SMOL_KEEP_MEMORY"),
        secret=reader.secret(),
        tls=reader.tls(),
    )
    if reader.problems:
        raise ConfigError(reader.problems)
    return settings


class _Reader:
    """Reads variable by variable and keeps what is wrong."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[Problem] = []

    def _wrong(self, key: str, what: str, fix: str) -> None:
        self.problems.append(Problem("environment", 0, key, what, fix))

    def hosts(self, rendezvous: Endpoint | None) -> tuple[str, ...]:
        given = tuple(host.strip() for host in self._environ.get("SMOL_ADDRESS", "").split(",") if host.strip())
        for host in given:
            try:
                for opened in listen((host,), 0):
                    opened.close()
            except PeerError as error:
                self._wrong("SMOL_ADDRESS", str(error).split(" Fix: ")[0], "give an address of this machine")
        return given or (self._default_host(rendezvous),)

    def _default_host(self, rendezvous: Endpoint | None) -> str:
        """The address of the route to the rendezvous; loopback where nobody beyond this machine takes part."""
        local, world = (self._environ.get(name) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        if local is not None and local == world:
            return LOOPBACK
        if rendezvous is None and self._environ.get("MASTER_ADDR"):
            rendezvous = Endpoint(self._environ["MASTER_ADDR"], self.count("MASTER_PORT"))
        if rendezvous is None:  # a FileStore or a HashStore: ranks that share memory or a disk
            return LOOPBACK
        try:
            found = address_towards(rendezvous)
        except PeerError as error:
            what = f"this machine's own address cannot be found out: {str(error).split(' Fix: ')[0]}"
            self._wrong("SMOL_ADDRESS", what, "set it to this machine's address on a network that all machines share")
            return LOOPBACK
        return LOOPBACK if is_loopback(found) and ":" not in found else found

    def port(self) -> int:
        """The variable names the port of the machine's first rank; each other one takes the next."""
        first = self.count("SMOL_PORT")
        port = first + self.count("LOCAL_RANK") if first else 0
        if port > 65535:
            self._wrong("SMOL_PORT", f"{port} is no port", "a number from 1024 to 65535, or 0 for any free one")
        return port

    def number(self, key: str, default: float) -> float:
        """A number above zero."""
        text = self._environ.get(key, "")
        try:
            value = float(text) if text else default
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            self._wrong(key, f"{text!r} is not a number above zero", f"leave it out for {default:g}")
            return default
        return value

    def count(self, key: str) -> int:
        """A whole number, 0 if nothing was said."""
        text = self._environ.get(key, "")
        if text and not text.isdecimal():
            self._wrong(key, f"{text!r} is not a whole number", "leave it out, or give a number from 0")
            return 0
        return int(text or 0)

    def switch(self, key: str) -> bool:
        """1 or 0, 1 if nothing was said."""
        text = self._environ.get(key, "")
        if text not in ("", "0", "1"):
            self._wrong(key, f"{text!r} is neither 0 nor 1", "leave it out for 1")
        return text != "0"

    def secret(self) -> bytes:
        key = "SMOL_SECRET_FILE"
        path = self._environ.get(key, "")
        if not path:
            return b""
        try:
            return read_secret(Path(path), key, "give every machine a copy of the same file with a few random bytes")
        except ConfigError as error:
            self.problems.extend(error.problems)
            return b""

    def tls(self) -> TlsContexts | None:
        keys = (*_TLS, _CRL) if self._environ.get(_CRL) else _TLS
        paths = [Path(self._environ[key]) for key in keys if self._environ.get(key)]
        if not paths:
            return None
        missing = [key for key in _TLS if not self._environ.get(key)]
        for key in missing:
            self._wrong(key, "is not set, though other variables of TLS are", f"set all of {', '.join(_TLS)}, or none")
        if missing:
            return None
        for key, path in zip(keys, paths, strict=True):
            if not path.is_file():
                self._wrong(key, f"there is no file {path}", "give the path of a PEM file")
        try:
            return TlsContexts.from_files(*paths) if all(path.is_file() for path in paths) else None
        except (ssl.SSLError, OSError, ValueError) as error:
            what = f"these files make no TLS: {getattr(error, 'reason', None) or error}"
            fix = "PEM files: a certificate, its key, and the CA that signed it"
            self._wrong(", ".join(keys), what, fix + (", and its list of revoked ones" if _CRL in keys else ""))
            return None
