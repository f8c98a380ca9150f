"""Links that let a browser in: GET /?key=ONE-TIME-KEY, once each, for a cookie. What was used is remembered on disk.

Without that file a used link would be good again after a restart, until its time is over. Servers with the same key
(two dashboards of one run) share it: what one of them has let in is used for the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from smolcluster.chat.backend.refusals import ApiError
from smolcluster.runtime.onetime import OneTime, make_onetime, read_onetime
from smolcluster.runtime.runfolder import write_atomic

log = logging.getLogger("smolcluster.chat")


class Links:
    """Of one server, whose key they are made with. Used in one event loop."""

    def __init__(self, key: str, used_file: Path | None) -> None:
        self._key = key
        self._file = used_file
        self._used = _read(used_file) if used_file is not None else {}
        self._writing = asyncio.Lock()

    def make(self) -> str:
        """A new one-time key."""
        return make_onetime(self._key, time.time())

    async def use(self, shown: str) -> None:
        """Use one up. ApiError, each its own: it is none of ours, it was used, its time is over."""
        now = time.time()
        found = read_onetime(self._key, shown)
        if found is None:
            raise ApiError(
                401,
                "This link's key is not one of this server's. Perhaps a part of the link is missing, or the model has "
                "been served anew since: then there is a new link.",
                code="link_wrong",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if found.until <= now:
            raise ApiError(410, "This link has expired: each is good for an hour.", code="link_expired")
        if found.number in self._used:
            raise _was_used()
        # Before anything is awaited: of two at once one is too late.
        self._used = {number: until for number, until in self._used.items() if until > now} | {
            found.number: found.until
        }
        if self._file is not None:
            async with self._writing:  # else an older text could come to lie over a newer one
                elsewhere = await asyncio.to_thread(_note, self._file, found, now)
            if elsewhere:
                raise _was_used()


def _was_used() -> ApiError:
    return ApiError(
        409,
        "This link was used already: each lets one browser in. If that was this one, open the address without the key.",
        code="link_used",
    )


def _note(file: Path, link: OneTime, now: float) -> bool:
    """Add it to the file; whether it stood there already."""
    noted = {number: until for number, until in _read(file).items() if until > now}
    if link.number in noted:
        return True
    _write(file, noted | {link.number: link.until})
    return False


def _read(file: Path) -> dict[str, int]:
    """The numbers of those that were used, and until when they would have been good."""
    try:
        lines = file.read_text(encoding="ascii").split("\n")
        return {number: int(until) for number, _, until in (line.partition(" ") for line in lines if line)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.error("%s cannot be read, links that were used may work once more: %s", file, error)
        return {}


def _write(file: Path, used: dict[str, int]) -> None:
    try:
        file.parent.stat()  # a run that was deleted meanwhile stays so
        write_atomic(file, "".join(f"{number} {until}\n" for number, until in used.items()), mode=0o600)
    except OSError as error:
        log.error("%s cannot be written, links that were used work again after a restart: %s", file, error.strerror)
