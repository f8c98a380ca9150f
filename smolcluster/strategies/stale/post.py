"""The way of these messages: from any thread to any rank, in the order they were given; a thread per rank takes them.

They travel as torch.distributed's messages between two ranks, which have links of their own: collectives go on beside
them. Nothing is awaited while all ranks rest: what a rank waits for then would keep it from ending in order.

A rank that waits for another is silent itself. So whoever waits for a certain rank has the group's deadline and names
it (replica.py, `rest`); those who listen are more patient than any of these waits, and never name one that only waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import torch
import torch.distributed as dist

from smolcluster.errors import DeadlineError
from smolcluster.runtime.device import Collectives
from smolcluster.strategies.stale.messages import HEAD_BYTES, Fence, Message, head_of, read_head
from smolcluster.strategies.stale.owner import Push, Reply

_TAG = 21

Take = Callable[[int, Message, torch.Tensor | None], None]


class Post:
    """`take(sender, message, body)` is called on the sender's thread; bodies are uint8 of `body_bytes`, on the CPU.

    What it raises, or a lost rank, ends that thread and is given to `failed`.
    """

    def __init__(
        self, collectives: Collectives, bound: int, body_bytes: int, take: Take,
        failed: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        self._collectives = collectives
        self._peers = [peer for peer in range(collectives.world_size) if peer != collectives.rank]
        # A peer that waits for a slow one sees it take bound + 1 steps at most, each within a deadline, then a fence.
        self._silences = bound + 3
        self._body_bytes = body_bytes
        self._take = take
        self._failed = failed
        self._going: dict[int, deque[tuple[dist.Work, torch.Tensor]]] = {peer: deque() for peer in self._peers}
        self._sending = {peer: threading.Lock() for peer in self._peers}
        self._readers: list[threading.Thread] = []
        self._state = threading.Condition()
        self._talking: list[int] = []  # ranks that have not said that they rest
        self._broken = False

    def open(self) -> None:
        """Listen to all ranks, each until it rests."""
        if not self._readers:
            self._talking = [*self._peers]
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
        """Tell all that this rank rests after `step`; return when all have said so, and all that was sent has left.

        DeadlineError, which names it, if a rank does not within the group's deadline. At once if something has failed.
        """
        for peer in self._peers:
            self.send(peer, Fence(step))
        timeout_s = self._collectives.timeout_s
        with self._state:
            self._state.wait_for(lambda: self._broken or not self._talking, timeout_s)
            if self._broken:
                return
            late = tuple(self._talking)
        if late:
            what = f"rank {late[0]} has not said that it rests after step {step}"
            raise self._collectives.verdict(DeadlineError(f"{what}; that was waited for {timeout_s:g} s"))
        for reader in self._readers:
            reader.join()  # they have nothing left to do
        self._readers = []
        for going in self._going.values():
            while going:
                going.popleft()[0].wait()  # a send has the group's deadline

    def _read(self, peer: int) -> None:
        try:
            message: Message | None = None
            while not isinstance(message, Fence):
                message, has_body = read_head(self._receive(peer, HEAD_BYTES), peer)
                self._take(peer, message, self._receive(peer, self._body_bytes) if has_body else None)
        except BaseException as error:  # noqa: BLE001  whatever it is, the training has to end with it
            self._failed(error)
            with self._state:
                self._broken = True
                self._state.notify_all()
        else:
            with self._state:
                self._talking.remove(peer)
                self._state.notify_all()

    def _receive(self, peer: int, size: int) -> torch.Tensor:
        room = torch.empty(size, dtype=torch.uint8)
        self._collectives.receive(room, peer, _TAG, self._silences * self._collectives.timeout_s)
        return room
