"""Which stages are there. They are let in whenever they come, again and again, whatever the chain does meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection

from smolcluster.comm.clock import Deadline
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import PeerError, PeerLostError
from smolcluster.infer.control import Control, Gone, Lost, Pinged, StageError
from smolcluster.infer.layout import CONTROL, say
from smolcluster.infer.messages import Op

# A broken chain is seen by its neighbours first. So long we wait for the control link of the one who caused it to end.
VERDICT_S = 0.5


class Roster:
    """The control links to `ranks`. `changed` is notified whenever one comes, goes or says something."""

    def __init__(self, mesh: Mesh, ranks: Collection[int], put: Callable[[Gone | Lost | Pinged], None]) -> None:
        self.changed = threading.Condition()
        self.ranks = tuple(ranks)
        self._mesh = mesh
        self._put = put
        self._controls: dict[int, Control] = {}
        self._closed = False
        mesh.watch(CONTROL, self._come)
        self._come()

    def here(self) -> dict[int, Control]:
        """Those who are there and have said so."""
        with self.changed:
            return {
                rank: known
                for rank, known in sorted(self._controls.items())
                if known.error is None and known.here is not None
            }

    def missing(self) -> tuple[int, ...]:
        """Those who are not."""
        here = self.here()
        return tuple(rank for rank in self.ranks if rank not in here)

    def alive(self, rank: int) -> bool:
        """Whether it was heard of a moment ago."""
        with self.changed:
            known = self._controls.get(rank)
            return known is not None and known.alive

    def not_come(self, rank: int, deadline: Deadline) -> PeerError:
        """That a rank did not come, and who was refused meanwhile, once the deadline is over."""
        try:
            self._mesh.drop(self._mesh.link(rank, CONTROL, deadline=deadline))
        except PeerError as error:
            return error
        return PeerLostError(f"rank {rank} came a moment too late")

    def ping(self) -> None:
        """Ask every stage for its state; Pinged comes."""
        for control in self.here().values():
            with contextlib.suppress(PeerError):
                say(control.link, Op.PING, None)

    def await_ready(
        self, controls: dict[int, Control], epoch: int, deadline: Deadline, stop: Callable[[], bool]
    ) -> None:
        """Wait until all are ready for the epoch. StageError if one says that it failed, or goes, or is late.

        PeerLostError once `stop` says so.
        """

        def failed() -> bool:
            return any(one.error is not None or _said(one, epoch) is Op.FAILED for one in controls.values())

        def settled() -> bool:
            return stop() or failed() or all(_said(one, epoch) is Op.READY for one in controls.values())

        with self.changed:
            self.changed.wait_for(settled, deadline.left())
            if stop():
                raise PeerLostError("it was broken off")
            if failed():
                # The neighbours of one who has died may be faster to say so than its own link.
                self.changed.wait_for(lambda: any(one.error is not None for one in controls.values()), VERDICT_S)
            for one in controls.values():
                if one.error is not None:
                    raise StageError(one.rank, str(one.error))
            for one in controls.values():
                if _said(one, epoch) is Op.FAILED and one.report is not None:
                    raise StageError(one.rank, f"rank {one.rank} could not take its layers: {one.report[1].reason}")
            for one in reversed(controls.values()):
                if _said(one, epoch) is None:
                    raise StageError(one.rank, f"rank {one.rank} was not ready within {deadline.seconds:g} s")

    def verdict(self, ranks: Collection[int], seen: PeerError) -> PeerError:
        """The end of the one of these ranks who has really gone, if somebody has; else what was seen."""

        def gone() -> PeerError | None:
            errors = (known.error for rank, known in self._controls.items() if rank in ranks)
            return next((error for error in errors if error is not None), None)

        with self.changed:
            self.changed.wait_for(lambda: gone() is not None or self._closed, VERDICT_S)
            return gone() or seen

    def close(self) -> None:
        """Hang up on all of them; their processes end. Idempotent."""
        self._mesh.unwatch(CONTROL)
        with self.changed:
            self._closed = True
            controls = tuple(self._controls.values())
            self._controls.clear()
            self.changed.notify_all()
        for control in controls:
            control.end()

    def _come(self) -> None:
        """Somebody is at the door. Called in a thread of the listener's."""
        with self.changed:
            for rank in self.ranks:
                if self._closed or not self._mesh.has_come(rank, CONTROL):
                    continue
                with contextlib.suppress(PeerError):
                    link = self._mesh.link(rank, CONTROL, deadline=Deadline(0.0))
                    self._controls[rank] = Control(link, self._mesh, self.changed, self._put)


def _said(control: Control, epoch: int) -> Op | None:
    """What it said of that epoch."""
    if control.report is None or control.report[1].epoch != epoch:
        return None
    return control.report[0]
