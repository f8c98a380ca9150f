"""The way of these messages: from any thread to any rank, in the order they were given; a thread per rank takes them.

They travel as torch.distributed's messages between two ranks, which have links of their own: collectives go on beside
them. Nothing is awaited while all ranks rest: what a rank waits for then would keep it from ending in order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import torch
import torch.distributed as dist

from smolcluster.strategies.stale.messages import HEAD_BYTES, Fence, Message, head_of, read_head
from smolcluster.strategies.stale.owner import Push, Reply

_TAG = 21

Take = Callable[[int, Message, torch.Tensor | None], None]


class Post:
    """`take(sender, message, body)` is called on the sender's thread; bodies are uint8 of `body_bytes`, on the CPU.

    What it raises, or a lost rank, ends that thread and is given to `failed`, once.
    """

    def __init__(
        self, rank: int, world_size: int, body_bytes: int, take: Take, failed: Callable[[BaseException], None]
    ) -> None:
        self._peers = [peer for peer in range(world_size) if peer != rank]
        self._body_bytes = body_bytes
        self._take = take
        self._failed = failed
        self._going: dict[int, deque[tuple[dist.Work, torch.Tensor]]] = {peer: deque() for peer in self._peers}
        self._sending = {peer: threading.Lock() for peer in self._peers}
        self._readers: list[threading.Thread] = []

    def open(self) -> None:
        """Listen to all ranks, each until it rests."""
        if not self._readers:
            self._readers = [
                threading.Thread(target=self._read, args=(peer,), name=f"stale-from-{peer}", daemon=True)
                for peer in self._peers
            ]
            for reader in self._readers:
                reader.start()

    def send(self, peer: int, message: Push | Reply | Fence, body: torch.Tensor | None = None) -> None:
        """Send it, and come back at once. The body must not be written to any more."""
        with self._sending[peer]:
            going = self._going[peer]
            while going and going[0][0].is_completed():
                going.popleft()[0].wait()
            for part in (head_of(message, body is not None), body):
                if part is not None:
                    work = dist.isend(part, peer, tag=_TAG)
                    assert work is not None, "torch gives a work for every message of a group this rank belongs to"
                    going.append((work, part))

    def rest(self, step: int) -> None:
        """Tell all that this rank rests after `step`; return when all have said so, and all that was sent has left."""
        for peer in self._peers:
            self.send(peer, Fence(step))
        for reader in self._readers:
            reader.join()  # each wait of theirs has the group's deadline
        self._readers = []
        for going in self._going.values():
            while going:
                going.popleft()[0].wait()

    def _read(self, peer: int) -> None:
        try:
            message: Message | None = None
            while not isinstance(message, Fence):
                message, has_body = read_head(self._receive(peer, HEAD_BYTES), peer)
                self._take(peer, message, self._receive(peer, self._body_bytes) if has_body else None)
        except BaseException as error:  # noqa: BLE001  whatever it is, the training has to end with it
            self._failed(error)

    @staticmethod
    def _receive(peer: int, size: int) -> torch.Tensor:
        room = torch.empty(size, dtype=torch.uint8)
        work = dist.irecv(room, peer, tag=_TAG)
        assert work is not None, "torch gives a work for every message of a group this rank belongs to"
        work.wait()
        return room
