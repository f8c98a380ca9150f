"""One epoch at a later stage: take the layers, open the links to the neighbours, then receive, compute, send.

All in one thread: the kernel's socket buffers are the queue between stages, and a thread of its own for receiving or
sending would cost a hand-over for every message. Nothing here waits longer than a moment once the epoch is over.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Literal

from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.endpoint import REDIAL_S, Endpoint
from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Mesh
from smolcluster.comm.opening import dial_rank_0
from smolcluster.errors import PeerError, PeerLostError, SmolError
from smolcluster.infer.layout import Assignment, Report, back_channel, hop_channel, is_stale, say
from smolcluster.infer.messages import MOST_BYTES, Op, Reset, decode, send
from smolcluster.infer.stage import Stage

log = logging.getLogger("smolcluster.infer")
# How long a neighbour is waited for before it is looked whether the epoch is over.
_ATTEMPT_S = 1.0


class Chain:
    """Made, it begins; `end` it before the next one. `stage_of` loads the layers of an assignment.

    `error`: the layers cannot be had, which would be the same in the next epoch; the control link is cut then.
    """

    def __init__(
        self, config: GroupConfig, mesh: Mesh, control: Link, word: Assignment, stage_of: Callable[[Assignment], Stage]
    ) -> None:
        self.error: SmolError | None = None
        self._config = config
        self._mesh = mesh
        self._control = control
        self._word = word
        self._stage_of = stage_of
        self._links: list[Link] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="smol-stage", daemon=True)
        self._thread.start()

    @property
    def epoch(self) -> int:
        """Which one it is."""
        return self._word.epoch

    def end(self) -> None:
        """Break it off, and join."""
        with self._lock:
            self._ending.set()
            links = tuple(self._links)
        for link in links:
            link.abort()
        self._thread.join()
        self._mesh.drop(*links)

    def _run(self) -> None:
        stage: Stage | None = None
        try:
            stage = self._stage_of(self._word)
            list(stage.handle(Reset(self._word.epoch)))
            upstream, onward = self._connect()
            self._say(Op.READY)
            self._compute(stage, upstream, onward)
        except Exception as error:  # a bug or a lack of memory ends this epoch as well
            if isinstance(error, SmolError) and not isinstance(error, PeerError):
                self.error = error
            # The reason first: hung up links alone would look as if this rank had died.
            if not self._ending.is_set():
                log.error("epoch %d ended: %s", self._word.epoch, error, exc_info=not isinstance(error, SmolError))
                self._say(Op.FAILED, f"rank {self._config.rank}: {error}")
            for link in self._links:
                link.abort()
            if self.error is not None:
                self._control.abort()
        finally:
            if stage is not None:
                list(stage.handle(Reset(self._word.epoch)))  # no session outlives its epoch

    def _connect(self) -> tuple[Link, Link]:
        word, mesh = self._word, self._mesh
        deadline = Deadline(word.within_s)
        mesh.sweep(lambda channel: is_stale(channel, word.life, word.epoch))
        hop = hop_channel(word.life, word.epoch)
        host = self._config.peers.get(word.upstream)
        if host is None:
            raise PeerLostError(f"the plan knows no way from here to rank {word.upstream}")
        upstream = self._link(word.upstream, hop, deadline, Endpoint(host, word.port))
        if word.after is not None:
            return upstream, self._link(word.after, hop, deadline)
        back = back_channel(word.life, word.epoch)
        return upstream, self._keep(dial_rank_0(mesh, self._config, back, deadline, self._ending))

    def _link(self, peer: int, channel: str, deadline: Deadline, where: Endpoint | None = None) -> Link:
        while True:
            attempt = Deadline(min(_ATTEMPT_S, deadline.left()))
            try:
                return self._keep(self._mesh.link(peer, channel, where, attempt))
            except PeerError:
                if self._ending.is_set() or deadline.left() <= REDIAL_S:
                    raise
            self._ending.wait(REDIAL_S)

    def _keep(self, link: Link) -> Link:
        with self._lock:
            self._links.append(link)
            if not self._ending.is_set():
                return link
        link.abort()
        raise PeerLostError("the epoch is over")

    def _compute(self, stage: Stage, upstream: Link, onward: Link) -> None:
        while True:
            frame = upstream.receive(self._config.timeout_s, MOST_BYTES)
            if frame.header.kind is Kind.FIN:
                onward.say_fin()
                return
            for out in stage.handle(decode(frame, upstream.who)):
                send(onward, out)

    def _say(self, op: Literal[Op.READY, Op.FAILED], reason: str = "") -> None:
        with contextlib.suppress(PeerError):
            say(self._control, op, Report(epoch=self._word.epoch, reason=reason[:1000]))
