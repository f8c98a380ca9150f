"""The engine: one thread moves an operation's frames both ways at once, over two wires that never block.

A frame goes out when the frames it depends on have come in (`need`), one comes in when the memory it lands in is free
(`hold`). So every collective is two lists of frames (schedule.py makes them) and this loop. One thread, because a
second one only adds hand-offs, and because no order of sends and receives can deadlock it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from smolcluster.comm.backend.arithmetic import Fold, dtype_name
from smolcluster.comm.clock import Deadline
from smolcluster.comm.frame import HEADER_BYTES, MAX_PAYLOAD, Header, Kind, pack, unpack
from smolcluster.comm.wire import Wire, await_ready
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


class Outgoing(NamedTuple):
    """Bytes to send once `need` frames have come in."""

    view: memoryview
    need: int


class Incoming(Protocol):
    """Where a frame's `size` bytes go. It may come in once `hold` frames have gone out."""

    size: int
    hold: int

    def window(self, got: int) -> memoryview:
        """Where to put what comes next, `got` bytes being there."""

    def filled(self, got: int) -> None:
        """`got` bytes are there now."""


class Landing:
    """A frame that lands where it stays."""

    __slots__ = ("hold", "size", "view")

    def __init__(self, view: memoryview, hold: int = 0) -> None:
        self.view = view
        self.size = len(view)
        self.hold = hold

    def window(self, got: int) -> memoryview:
        """The rest of its place."""
        return self.view[got:]

    def filled(self, got: int) -> None:
        """Nothing to do: it is in its place."""


class Folding:
    """A frame that is folded, block by block, with our own numbers: target = fold(own, incoming)."""

    __slots__ = ("_finish", "_fold", "_owns", "_scratch", "_scratch_view", "_targets", "hold", "size")

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
        # The size is that on the wire; the target may be wider.
        self.size = target.numel() * scratch.element_size()
        self.hold = hold
        # Views are made in one call: one by one they would cost as much as a small addition.
        cuts = tuple(range(block, target.numel(), block))
        self._targets = target.tensor_split(cuts) if cuts else (target,)
        self._owns = self._targets if own is target else own.tensor_split(cuts) if cuts else (own,)
        self._scratch = scratch
        self._scratch_view = scratch_view
        self._fold = fold
        self._finish = finish

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


def flow(
    out: Wire, inward: Wire, sends: Sequence[Outgoing], receives: Sequence[Incoming], stamp: Stamp, timeout_s: float
) -> None:
    """Move everything. DeadlineError when nothing moves for `timeout_s`; ProtocolError when the other end does
    something else; PeerLostError when it goes.
    """
    sent = received = 0
    went = 0  # bytes of the frame that is going out, header included
    came = -HEADER_BYTES  # bytes of the frame that is coming in; negative while its header is
    head = b""
    head_in = bytearray(HEADER_BYTES)
    head_view = memoryview(head_in)
    outs, ins = len(sends), len(receives)
    while sent < outs or received < ins:
        moved = False
        may_send = sent < outs and sends[sent].need <= received
        if may_send:
            view = sends[sent].view
            if not went:
                head = pack(Kind.DATA, len(view), stamp.dtype, stamp.op, stamp.seq, sent)
            if went < HEADER_BYTES:
                count = out.send(head[went:] if went else head, view)
            else:
                count = out.send(view[went - HEADER_BYTES :])
            if count:
                moved = True
                went += count
                if went == HEADER_BYTES + len(view):
                    sent += 1
                    went = 0
        may_receive = received < ins and receives[received].hold <= sent
        if may_receive:
            frame = receives[received]
            if came < 0:
                count = inward.recv(head_view[came + HEADER_BYTES :])
                came += count
                if count and not came:
                    header = unpack(head_in, MAX_PAYLOAD, inward.who)
                    if header.kind is not Kind.DATA:
                        _refuse(header, stamp, frame.size, received, inward.who)
                    if (header.length, header.op, header.dtype) != (frame.size, stamp.op, stamp.dtype) or (
                        header.seq != stamp.seq or header.part != received
                    ):
                        _refuse(header, stamp, frame.size, received, inward.who)
            else:
                count = inward.recv(frame.window(came))
                if count:
                    came += count
                    frame.filled(came)
                    if came == frame.size:
                        received += 1
                        came = -HEADER_BYTES
            moved = moved or count > 0
        if not moved:
            reader = inward if may_receive else None
            writer = out if may_send else None
            await_ready(reader, writer, Deadline(timeout_s))


def _refuse(header: Header, stamp: Stamp, size: int, part: int, who: str) -> None:
    if header.kind is Kind.FIN:
        raise ProtocolError(f"{who} has left the group, this rank still waits for it in {stamp.name}")
    raise ProtocolError(
        f"the ranks do not do the same: {who} is at operation {header.seq} (code {header.op}, piece {header.part}, "
        f"{header.length} bytes of {dtype_name(header.dtype)}), this rank at {stamp.seq} ({stamp.name}, code "
        f"{stamp.op}, piece {part}, {size} bytes of {dtype_name(stamp.dtype)}). "
        "Fix: every rank must call the same collectives in the same order with tensors of the same size."
    )
