"""One-time keys for links: whoever has the API's key makes them, the API can tell them from others, and nobody needs to
tell the other of one.

A one-time key says until when it is good, has a number of its own, and is signed with the API's key, which it does not
give away. That each is used once is the API's to see to.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

# How long a link is good for, seconds.
LINK_S = 3600.0
_HEAD = struct.Struct("!Q16s")
_SIGNED = b"smolcluster link"
_SIGNATURE_BYTES = 16


class OneTime(NamedTuple):
    """A one-time key that was made with our key. `until`: seconds since 1970, by the clock of the API's machine."""

    number: str
    until: int


def make_onetime(key: str, now: float) -> str:
    """A new one, good for LINK_S from `now` on by the clock of the API's machine. Safe in a URL as it is."""
    head = _HEAD.pack(int(now + LINK_S), secrets.token_bytes(16))
    return urlsafe_b64encode(head + _signature(key, head)).decode()


def read_onetime(key: str, shown: str) -> OneTime | None:
    """What a one-time key says; None if it was not made with this key. A near miss takes as long as any other."""
    try:
        raw = urlsafe_b64decode(shown.encode("ascii"))
    except ValueError:
        return None
    head, signature = raw[: _HEAD.size], raw[_HEAD.size :]
    if not hmac.compare_digest(signature, _signature(key, head)) or urlsafe_b64encode(raw).decode() != shown:
        return None
    until, number = _HEAD.unpack(head)
    return OneTime(number.hex(), until)


def _signature(key: str, head: bytes) -> bytes:
    return hmac.digest(key.encode(), _SIGNED + head, "sha256")[:_SIGNATURE_BYTES]
