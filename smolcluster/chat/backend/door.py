"""Who may come in: the key, the cookie, the names this machine is asked by, and the pages of other origins.

A page of another site can have a browser send requests to us. What keeps it out: without a key only names of this
machine are answered (a name of the page's own, made to mean 127.0.0.1, is not); anything but reading needs the same
origin; the cookie does not travel from other sites.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.requests import cookie_parser

from smolcluster.chat.backend.refusals import ApiError
from smolcluster.chat.backend.settings import ApiSettings

COOKIE = "smolcluster_key"
_COOKIE_S = 30 * 24 * 3600
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class Door:
    """Made from the settings; asked for each request. `headers` have lower-case names; `cookie` is what its own is
    called.
    """

    def __init__(self, settings: ApiSettings, cookie: str = COOKIE) -> None:
        self._cookie = cookie
        key = settings.key
        self._key = key.get_secret_value() if key is not None else None
        # Who reads a cookie off a disk has not got the key.
        self._ticket = hmac.digest(self._key.encode(), b"smolcluster cookie", "sha256").hex() if self._key else ""
        names = (*_LOCAL_NAMES, *settings.listen, *settings.names)
        # Beyond loopback a key is asked for, and the names that a network gives a machine are not ours to know.
        self._names = frozenset(name.lower() for name in names) if settings.local else None

    def check_host(self, headers: Mapping[str, str]) -> None:
        """ApiError unless the Host header may be one of ours."""
        host = headers.get("host", "")
        if self._names is not None and _name(host) not in self._names:
            message = f"this machine is not known as {host!r:.200}; names besides its addresses are set by the server"
            raise ApiError(403, message, code="unknown_host")

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """ApiError if a page of another origin has sent this. Programs send no Origin."""
        origin = headers.get("origin")
        if origin is not None and not _same(origin, headers.get("host", "")):
            raise ApiError(403, "requests from pages of other origins are not served", code="cross_origin")

    def open_to(self, headers: Mapping[str, str]) -> bool:
        """Whether no key is needed, or it was shown."""
        if self._key is None:
            return True
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_key(shown.strip()):
            return True
        # Not the standard library's parser: another server of this machine, whose cookies come along whatever its
        # port, may set one that it cannot read, and then it reads none.
        ticket = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        return hmac.compare_digest(ticket.encode("utf-8", "replace"), self._ticket.encode())

    def check_key(self, headers: Mapping[str, str]) -> None:
        """ApiError unless it is open."""
        if self.open_to(headers):
            return
        given = "authorization" in headers
        message = "Incorrect API key provided." if given else "You did not provide an API key."
        raise ApiError(
            401,
            f"{message} Send it as `Authorization: Bearer KEY`.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def is_key(self, shown: str) -> bool:
        """Whether it is the key. Takes as long for a near miss as for any other."""
        return self._key is not None and hmac.compare_digest(shown.encode("utf-8", "replace"), self._key.encode())

    def cookie(self, secure: bool) -> str:
        """The Set-Cookie header for a browser that was let in. `secure`: by https, and it comes by nothing else."""
        cookie = f"{self._cookie}={self._ticket}; Path=/; Max-Age={_COOKIE_S}; HttpOnly; SameSite=Strict"
        return f"{cookie}; Secure" if secure else cookie


def _name(host: str) -> str:
    """The name in a Host header, without its port; "" if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
    except ValueError:
        return False
