"""The engine: one thread moves an operation's frames both ways at once, over wires that never block.

A frame goes out when what it depends on has come in, one comes in when the memory it lands in is free (`ready`). So
every collective is two lists of frames per peer (schedule.py makes the ring's) and this loop. One thread, because a
second one only adds hand-offs, and because no order of sends and receives can deadlock it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from smolcluster.comm.backend.arithmetic import Fold, dtype_name
from smolcluster.comm.clock import Patience
from smolcluster.comm.frame import HEADER_BYTES, MAX_PAYLOAD, Header, Kind, pack, unpack
from smolcluster.comm.wire import Wire, await_any
from smolcluster.errors import ProtocolError

# What is folded at once: small enough to be still in a cache when it is added, large enough that Python's part of it
# does not count. (All-reduce of 96 MB, N=2, CPU ms of both ranks: 256 KB 105, 512 KB 95, 1 MB 90; gloo 103.)
BLOCK_BYTES = 1 << 20


class Stamp(NamedTuple):
    """What the headers of one operation say: its code and name, the dtype's code, the group's count of operations."""

    op: int
    name: str
    dtype: int
    seq: int


class Outgoing(Protocol):
    """A frame's bytes."""

    @property
    def view(self) -> memoryview:
        """What to send."""

    def ready(self, received: int) -> bool:
        """Whether it may go out, `received` frames having come in from that peer."""


class Sending(NamedTuple):
    """Bytes to send once `need` frames have come in."""

    view: memoryview
    need: int = 0

    def ready(self, received: int) -> bool:
        """Once `need` frames have come in."""
        return self.need <= received


class Incoming(Protocol):
    """Where a frame's `size` bytes go."""

    size: int

    def ready(self, sent: int) -> bool:
        """Whether it may come in, `sent` frames having gone out to that peer."""

    def window(self, got: int) -> memoryview:
        """Where to put what comes next, `got` bytes being there."""

    def filled(self, got: int) -> None:
        """`got` bytes are there now."""


class Landing:
    """A frame that lands where it stays."""

    __slots__ = ("size", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.size = len(view)

    def ready(self, sent: int) -> bool:  # noqa: ARG002
        """At any time."""
        return True

    def window(self, got: int) -> memoryview:
        """The rest of its place."""
        return self.view[got:]

    def filled(self, got: int) -> None:
        """Nothing to do: it is in its place."""


class Folding:
    """A frame that is folded, block by block, with our own numbers: target = fold(own, incoming)."""

    __slots__ = ("_finish", "_fold", "_hold", "_owns", "_scratch", "_scratch_view", "_targets", "size")

    def __init__(
        self,
        target: Tensor,
        own: Tensor,
        scratch: Tensor,
        scratch_view: memoryview,
        fold: Fold,
        finish: Callable[[Tensor], None] | None = None,
        hold: int = 0,
    ) -> None:
        block = scratch.numel()
        self.size = target.numel() * target.element_size()
        self._hold = hold
        # Views are made in one call: one by one they would cost as much as a small addition.
        cuts = tuple(range(block, target.numel(), block))
        self._targets = target.tensor_split(cuts) if cuts else (target,)
        self._owns = self._targets if own is target else own.tensor_split(cuts) if cuts else (own,)
        self._scratch = scratch
        self._scratch_view = scratch_view
        self._fold = fold
        self._finish = finish

    def ready(self, sent: int) -> bool:
        """Once `hold` frames have gone out."""
        return self._hold <= sent

    def window(self, got: int) -> memoryview:
        """The rest of the scratch block."""
        at = got % BLOCK_BYTES
        return self._scratch_view[at : min(BLOCK_BYTES, at + self.size - got)]

    def filled(self, got: int) -> None:
        """Fold the block if it is complete."""
        if got % BLOCK_BYTES and got < self.size:
            return
        index = (got - 1) // BLOCK_BYTES
        target = self._targets[index]
        count = target.numel()
        incoming = self._scratch if count == self._scratch.numel() else self._scratch.narrow(0, 0, count)
        self._fold(target, self._owns[index], incoming)
        if self._finish is not None:
            self._finish(target)


class Traffic(NamedTuple):
    """What an operation moves to and from one neighbour; the two wires may lead to different ranks, as in a ring."""

    out: Wire
    inward: Wire
    sends: Sequence[Outgoing]
    receives: Sequence[Incoming]


class _Moving:
    """One traffic under way."""

    __slots__ = (
        "_came", "_head", "_head_in", "_head_view", "_received", "_receives", "_sends", "_sent", "_stamp", "_went",
        "inward", "out",
    )  # fmt: skip

    def __init__(self, traffic: Traffic, stamp: Stamp) -> None:
        self.out, self.inward, self._sends, self._receives = traffic
        self._stamp = stamp
        self._sent = self._received = 0
        self._went = 0  # bytes of the frame that is going out, header included
        self._came = -HEADER_BYTES  # bytes of the frame that is coming in; negative while its header is
        self._head = b""
        self._head_in = bytearray(HEADER_BYTES)
        self._head_view = memoryview(self._head_in)

    def may_send(self) -> bool:
        """Whether there is a frame that may go out."""
        return self._sent < len(self._sends) and self._sends[self._sent].ready(self._received)

    def may_receive(self) -> bool:
        """Whether there is a frame that may come in."""
        return self._received < len(self._receives) and self._receives[self._received].ready(self._sent)

    @property
    def done(self) -> bool:
        """Whether everything has been moved."""
        return self._sent == len(self._sends) and self._received == len(self._receives)

    def advance(self) -> bool:
        """Move what can be moved now; whether anything was."""
        sent = self.may_send() and self._send()
        received = self.may_receive() and self._receive()
        return sent or received

    def _send(self) -> bool:
        out, view = self.out, self._sends[self._sent].view
        went = self._went
        if not went:
            stamp = self._stamp
            self._head = pack(Kind.DATA, len(view), stamp.dtype, stamp.op, stamp.seq, self._sent)
        if went < HEADER_BYTES:
            count = out.send(self._head[went:] if went else self._head, view)
        else:
            count = out.send(view[went - HEADER_BYTES :])
        went += count
        if went == HEADER_BYTES + len(view):
            self._sent += 1
            went = 0
        self._went = went
        return count > 0

    def _receive(self) -> bool:
        frame = self._receives[self._received]
        if self._came < 0:
            count = self.inward.recv(self._head_view[self._came + HEADER_BYTES :])
            self._came += count
            if count and not self._came:
                self._check(frame)
            return count > 0
        count = self.inward.recv(frame.window(self._came))
        if not count:
            return False
        self._came += count
        frame.filled(self._came)
        if self._came == frame.size:
            self._received += 1
            self._came = -HEADER_BYTES
        return True

    def _check(self, frame: Incoming) -> None:
        who, stamp = self.inward.who, self._stamp
        header = unpack(self._head_in, MAX_PAYLOAD, who)
        said = (header.kind, header.length, header.op, header.dtype, header.seq, header.part)
        if said != (Kind.DATA, frame.size, stamp.op, stamp.dtype, stamp.seq, self._received):
            _refuse(header, stamp, frame.size, self._received, who)


def flow_all(traffics: Sequence[Traffic], stamp: Stamp, timeout_s: float) -> None:
    """Move everything. DeadlineError when nothing moves for `timeout_s`; ProtocolError when another end does
    something else; PeerLostError when one goes.
    """
    under_way = [_Moving(traffic, stamp) for traffic in traffics]
    patience = Patience(timeout_s)
    while under_way := [moving for moving in under_way if not moving.done]:
        moved = False
        for moving in under_way:
            moved = moving.advance() or moved
        if moved:
            patience.moved()
        else:
            readers = [moving.inward for moving in under_way if moving.may_receive()]
            writers = [moving.out for moving in under_way if moving.may_send()]
            await_any(readers, writers, patience)


def flow(
    out: Wire, inward: Wire, sends: Sequence[Outgoing], receives: Sequence[Incoming], stamp: Stamp, timeout_s: float
) -> None:
    """flow_all with one neighbour before and one behind."""
    flow_all([Traffic(out, inward, sends, receives)], stamp, timeout_s)


def _refuse(header: Header, stamp: Stamp, size: int, part: int, who: str) -> None:
    if header.kind is Kind.FIN:
        raise ProtocolError(f"{who} has left the group, this rank still waits for it in {stamp.name}")
    raise ProtocolError(
        f"the ranks do not do the same: {who} is at operation {header.seq} (code {header.op}, piece {header.part}, "
        f"{header.length} bytes of {dtype_name(header.dtype)}), this rank at {stamp.seq} ({stamp.name}, code "
        f"{stamp.op}, piece {part}, {size} bytes of {dtype_name(stamp.dtype)}). "
        "Fix: every rank must call the same collectives in the same order with tensors of the same size."
    )
