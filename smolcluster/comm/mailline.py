"""One link with letters in both directions, and the two threads that read and write it. See mailbox.py, caller.py."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable

from smolcluster.comm.letter import Letter, receive_letter, send_letter
from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import PeerError


class Line:
    """Owns the link. `take` gets every letter, on the reading thread, which waits while it does; it may raise a
    PeerError, which ends the link. `gone` is called once, last, with why: None if the peer said goodbye.
    """

    def __init__(
        self,
        link: Link,
        mesh: Mesh,
        most_bytes: int,
        take: Callable[[Letter], None],
        gone: Callable[[PeerError | None], None],
    ) -> None:
        self.link = link
        self._mesh = mesh
        self._most_bytes = most_bytes
        self._take = take
        self._gone = gone
        self._changed = threading.Condition()
        self._waiting: deque[Letter] = deque()
        self._leaving = False
        self._over = False
        self._error: PeerError | None = None
        self._writer = threading.Thread(target=self._write, name=f"smol-mail-out-{link.peer}", daemon=True)
        self._reader = threading.Thread(target=self._read, name=f"smol-mail-in-{link.peer}", daemon=True)

    def start(self) -> None:
        """Begin to read and to write."""
        self._writer.start()
        self._reader.start()

    def put(self, letter: Letter) -> None:
        """Have it sent, in order. Never waits; nothing happens if the link is over."""
        with self._changed:
            if not self._over and not self._leaving:
                self._waiting.append(letter)
                self._changed.notify_all()

    def cut(self) -> None:
        """End the link at once, from any thread. Does not wait."""
        self.link.abort()

    def leave(self) -> None:
        """Say goodbye once all is sent that waits. Does not wait; `join` does."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()

    def join(self, patience_s: float) -> None:
        """Wait for the end, so long; then make it."""
        self._reader.join(patience_s)
        self.link.abort()
        self._reader.join()

    def _write(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._leaving or self._over)
                    if self._over:
                        return
                    letter = self._waiting.popleft() if self._waiting else None
                if letter is None:
                    self.link.say_fin()
                    return
                send_letter(self.link, letter)
        except PeerError as error:
            with self._changed:
                self._error = self._error or error
            self.link.abort()  # the reader ends the line

    def _read(self) -> None:
        error: PeerError | None = None
        try:
            while True:
                letter = receive_letter(self.link, self.link.timeout_s, self._most_bytes)
                if letter is None:
                    break
                self._take(letter)
        except PeerError as broken:
            error = broken
            self.link.abort()
        with self._changed:
            self._over = True
            self._waiting.clear()
            error = error and (self._error or error)
            self._changed.notify_all()
        self._writer.join()
        if error is None:
            with contextlib.suppress(PeerError):
                self.link.answer_fin()
        # Let go of at once: the peer's next process could not come in while this link is there.
        self._mesh.drop(self.link)
        self._gone(error)
