"""The first failure of a run, as this process knows it. Every operation that fails ends with the same error."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError, ProtocolError, RunOverError

_CLASSES: dict[str, type[PeerError]] = {
    kind.__name__: kind
    for kind in (PeerError, PeerLostError, DeadlineError, ProtocolError, HandshakeError, RunOverError)
}


_MOST_WORDS = 2000


class Alarm:
    """Rings once. `on_ring` callbacks run in the ringing thread, before any waiter is released."""

    def __init__(self) -> None:
        self.error: PeerError | None = None
        self._lock = threading.Lock()
        self._rung = threading.Event()
        self._callbacks: list[Callable[[PeerError], None]] = []

    def on_ring(self, callback: Callable[[PeerError], None]) -> None:
        """Call this when the alarm rings; at once if it has."""
        with self._lock:
            if self.error is None:
                self._callbacks.append(callback)
                return
            error = self.error
        callback(error)

    def ring(self, error: PeerError) -> PeerError:
        """Declare the run failed with this error, unless another came first; the one that counts is returned."""
        with self._lock:
            if self.error is not None:
                return self.error
            # A copy: the traceback of the original keeps the frames of the operation that failed, and their tensors.
            self.error = error = copy_of(error)
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            callback(error)
        self._rung.set()
        return error

    def wait(self, seconds: float) -> PeerError | None:
        """The failure, once there is one; None if there is none within `seconds`."""
        self._rung.wait(seconds)
        return self.error


def encode_error(error: PeerError) -> bytes:
    """An error for the wire: its class and its text."""
    kind = next((name for name, known in reversed(_CLASSES.items()) if isinstance(error, known)), "PeerError")
    return json.dumps({"kind": kind, "text": str(error)[:_MOST_WORDS]}).encode()


def plain(text: str, most: int) -> str:
    """What a peer said, fit for a log or a terminal: at most `most` characters, none that is not printable."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text[:most])


def decode_error(payload: bytes | bytearray, seen_by: int | None = None) -> PeerError:
    """The error a peer told of. A text that cannot be read still gives an error."""
    try:
        fields = json.loads(payload)
        kind, text = _CLASSES.get(str(fields["kind"]), PeerError), plain(str(fields["text"]), _MOST_WORDS)
    except (ValueError, KeyError, TypeError, RecursionError):
        kind, text = ProtocolError, "a peer reported a failure in words that cannot be read"
    witness = seen_by is not None and not text.startswith(f"rank {seen_by} ")
    return kind(f"{text} (seen by rank {seen_by})" if witness else text)


def failure_of(error: BaseException) -> PeerError | None:
    """The peer's failure inside whatever torch made of it: the error itself, its causes, or its text.

    DDP's C++ and autograd wrap a failed operation into a RuntimeError that ends with our class and words.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, PeerError):
            return seen
        for name, kind in reversed(_CLASSES.items()):
            at = str(seen).find(f"{name}: ")
            if at >= 0:
                return kind(str(seen)[at + len(name) + 2 :].split("\n\nAt:")[0].strip())
        seen = seen.__cause__ or seen.__context__
    return None


def copy_of(error: PeerError) -> PeerError:
    """A new exception of the same class and text: one exception must not be raised in several threads."""
    return type(error)(str(error))
