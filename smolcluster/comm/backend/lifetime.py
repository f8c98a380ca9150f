"""What a group is made of, how its jobs run and how it ends; group.py adds c10d's operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from smolcluster.comm.alarm import copy_of
from smolcluster.comm.backend.attendance import Attendance
from smolcluster.comm.backend.collectives import Collectives
from smolcluster.comm.backend.flat import Flat, arrive, write_back
from smolcluster.comm.backend.lane import Lane, Work
from smolcluster.comm.backend.ownership import Ownership
from smolcluster.comm.backend.p2p import PointToPoint
from smolcluster.comm.backend.pairs import Pairs
from smolcluster.comm.backend.profiling import run_on_thread, traced
from smolcluster.comm.control import Control
from smolcluster.comm.link import Link
from smolcluster.comm.membership import Membership
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import DeadlineError, PeerError, PeerLostError

# How long a group that is destroyed waits for its neighbours to say the same.
GOODBYE_S = 2.0


class GroupLifetime(dist.ProcessGroup):
    """`members` are the global ranks in group order. Links are the group's own, so groups never mix their traffic.

    Collectives share one lane; point-to-point traffic has a lane and a link per peer and direction. `owned` is a
    membership that nobody else closes: it ends with this group.
    """

    def __init__(
        self,
        mesh: Mesh,
        control: Control,
        name: str,
        rank: int,
        members: Sequence[int],
        buffer_bytes: int,
        timeout_s: float,
        owned: Membership | None = None,
    ) -> None:
        super().__init__(rank, len(members))  # type: ignore[call-arg]
        self._name = name
        self._description = "undefined"
        self._mesh = mesh
        self._control = control
        self._closing = False
        self._timeout_s = timeout_s
        self._lane = Lane(f"collectives-{name}")
        self._ring_links: list[Link] = []
        self._pairs = Pairs(mesh, f"pairs/{name}", members, timeout_s)
        self._messages = Pairs(mesh, f"p2p/{name}", members, timeout_s)
        size = len(members)
        self._point_to_point = PointToPoint(self._messages, rank, size, f"p2p-{name}", timeout_s, self._guard)
        self._ring: Collectives | None = None
        self._works: list[Work] | None = None  # those of the coalescing that is open
        if size > 1:
            following, previous = members[(rank + 1) % size], members[(rank - 1) % size]
            onward = self._open(following, f"ring/{name}")
            backward = onward if following == previous else self._open(previous, f"ring/{name}")
            self._ring = Collectives(rank, size, onward, backward, self._pairs, buffer_bytes, timeout_s)
        self._attendance = Attendance(control, name, rank, members)
        self._owned = Ownership(owned) if owned is not None else None

    @property
    def lives_on(self) -> tuple[Mesh, Control]:
        """What a sub-group of this group is made of."""
        return self._mesh, self._control

    def _open(self, peer: int, channel: str) -> Link:
        # A rank may come to create the group as late as to any operation of it.
        patience = self._mesh.patience(peer, max(self._mesh.timeout_s, self._timeout_s))
        try:
            link = self._mesh.link(peer, channel, deadline=patience)
        except PeerError as error:
            raise self._control.verdict(error) from error
        self._ring_links.append(link)
        return link

    def _do(
        self,
        name: str,
        job: Callable[[Collectives], None],
        ins: Sequence[Flat],
        outs: Sequence[Flat],
        result: list[Tensor],
        opts: Any,
        alone: Callable[[], None] | None = None,
    ) -> Work:
        """Run a collective: here when it is synchronous, else on the group's thread.

        `ins` are read, `outs` written, `result` is what the caller gave for them. `alone`: in a group of one.
        """
        ring = self._ring
        timeout_s = self._timeout_s
        if opts is not None and opts.timeout.total_seconds() > 0:  # c10d leaves it negative if nobody set it
            timeout_s = opts.timeout.total_seconds()

        def work() -> None:
            arrive(ins)
            if ring is not None:
                ring.set_timeout(timeout_s)
                self._attendance.begun += 1
                self._guard(lambda: job(ring), name, timeout_s)
            elif alone is not None:
                alone()
            write_back(outs)

        def run() -> None:
            run_on_thread(name, work)

        synchronous = opts is not None and not opts.asyncOp
        begun = traced(name, lambda: (self._lane.run if synchronous else self._lane.submit)(run, result))
        if self._works is not None:
            self._works.append(begun)
        return begun

    def _guard(self, job: Callable[[], None], name: str = "", timeout_s: float = 0.0) -> None:
        """Run a job; its failure becomes the run's, the same on every rank. `name` and timeout are a collective's."""
        known = self._control.alarm.error
        if known is not None:
            raise copy_of(known)
        try:
            job()
        except PeerError as error:
            if self._closing:
                raise PeerLostError("the group was destroyed while this operation waited") from error
            cause = error
            if name and isinstance(error, DeadlineError):
                cause = self._attendance.explain(error, name, timeout_s)
            raise self._control.verdict(cause) from error

    def _check_size(self, whole: Tensor, part: Tensor, name: str) -> None:
        if whole.numel() != part.numel() * self.size():
            raise ValueError(
                f"{name}: the whole has {whole.numel()} numbers, {self.size()} times {part.numel()} are needed"
            )

    def shutdown(self) -> None:
        """Finish what is queued, say goodbye to the neighbours, close the links, join the threads. Idempotent."""
        if self._control.alarm.error is None and not self._closing:
            self._lane.drain()
            self._point_to_point.drain()
        self._closing = True
        self._attendance.leave()
        self._lane.close()
        messages = self._messages.take_all()
        for link in messages:  # a receive that nobody answered must not hold us up
            link.say_fin()
            link.inward.shutdown()
        self._point_to_point.close()
        ring_links, self._ring_links = self._ring_links, []
        polite = ring_links + self._pairs.take_all()
        for link in polite:
            if self._control.alarm.error is None:
                link.say_fin()
            else:
                link.abort()
        for link in polite:
            link.close(GOODBYE_S if self._control.alarm.error is None else 0.0)
        for link in messages:
            link.discard()
        for link in polite + messages:
            self._mesh.forget(link)
        if self._owned is not None:
            self._owned.close()

    def abort(self) -> None:
        """End all operations now; they fail with PeerLostError."""
        for link in self._ring_links:
            link.abort()
        self._pairs.abort()
        self._messages.abort()
        if self._owned is not None:
            self._owned.abort()

    @property
    def timeout_s(self) -> float:
        """How long nothing may move."""
        return self._timeout_s

    def set_timeout(self, timeout: timedelta) -> None:
        """How long nothing may move, for operations that begin from now on."""
        self._timeout_s = timeout.total_seconds()
        for part in (self._point_to_point, self._pairs, self._messages):
            part.timeout_s = self._timeout_s

    def receive_within(self, tensor: Tensor, source: int, tag: int, timeout_s: float) -> Work:
        """`recv` with a deadline of its own: so long that rank may send nothing."""
        part = Flat(tensor, fill=False)
        return traced("recv", lambda: self._point_to_point.receive(part, source, tag, [tensor], timeout_s))

    def verdict(self, error: PeerError) -> PeerError:
        """What to raise for a wait above this group that ran out: it ends the run, on every rank with one culprit."""
        return self._control.verdict(error)

    def monitored_barrier(self, timeout: timedelta | None = None, wait_all_ranks: bool = False) -> None:
        """A barrier whose DeadlineError names, on every rank that came, the first rank that did not, or all of them.

        `torch.distributed.monitored_barrier` refuses every backend but gloo by its name: call this one.
        """
        timeout_s = self._timeout_s if timeout is None else timeout.total_seconds()
        self._attendance.monitored_barrier(timeout_s, wait_all_ranks)

    def getBackendName(self) -> str:
        """For c10d's C++."""
        return "smol"

    def getGroupName(self) -> str:
        """For c10d's C++, which keeps a group's name in its backends, and this group has none."""
        return self._name

    def setGroupName(self, name: str) -> None:
        """For c10d's C++."""
        self._name = name

    def getGroupDesc(self) -> str:
        """For c10d's C++."""
        return self._description

    def setGroupDesc(self, description: str) -> None:
        """For c10d's C++."""
        self._description = description

    def name(self) -> str:
        """For c10d's Python."""
        return "smol"

    @property
    def _device_types(self) -> list[torch.device]:
        # DCP's async_save looks here for a CPU backend.
        return [torch.device("cpu")]
