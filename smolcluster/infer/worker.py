"""The process of a later stage. It follows its control link to the head and computes for one epoch after the other.

    control thread   ASSIGN -> end the epoch, begin the next one (chain.py); PING -> PONG. Its end ends the process
    chain thread     READY or FAILED, and the work

When a neighbour dies the stage tells the head, forgets its sessions, and waits for the next epoch.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

import psutil

from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.endpoint import REDIAL_S
from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link
from smolcluster.comm.opening import dial_rank_0, open_mesh
from smolcluster.comm.pulse import Pulse, heartbeat_s
from smolcluster.errors import PeerError
from smolcluster.infer.chain import Chain
from smolcluster.infer.layout import CONTROL, Assignment, Here, Pong, Report, heard, say
from smolcluster.infer.messages import Op
from smolcluster.infer.stage import Layers, Stage
from smolcluster.models.dense import Precision
from smolcluster.models.partition import LayerRange
from smolcluster.runtime.process import give_back_memory

Load = Callable[[LayerRange, Precision], Layers]
_MB = 1 << 20


class Worker:
    """A later stage's process. `load` gives layers at a precision: of the model's copy here, or a tablet's."""

    def __init__(self, config: GroupConfig, load: Load) -> None:
        self._config = config
        self._load = load
        self.mesh = open_mesh(config)
        self._stage: Stage | None = None
        self._loaded: tuple[LayerRange, Precision] | None = None
        self._chain: Chain | None = None
        self._control: Link | None = None
        self._heard = False
        self._closing = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Serve until the head goes. PeerError tells how it went, or why it was never found; SmolError for the rest."""
        config, mesh = self._config, self.mesh
        deadline = Deadline(config.join_s or config.timeout_s)
        pulse = Pulse(mesh.pulse, heartbeat_s(config.timeout_s))
        try:
            while not self._closing.is_set():
                try:
                    self._follow(dial_rank_0(mesh, config, CONTROL, deadline, self._closing))
                    return
                except PeerError:
                    if self._chain is not None and self._chain.error is not None:
                        raise self._chain.error from None
                    if self._closing.is_set():
                        return
                    # A head that has not said a word may not have noticed yet that our last process is gone.
                    if self._heard or deadline.left() <= REDIAL_S:
                        raise
                finally:
                    self._hang_up()
                self._closing.wait(REDIAL_S)
        finally:
            pulse.close()
            if mesh.listener is not None:
                mesh.listener.close()

    def close(self, reason: str = "") -> None:
        """Have `run` return, from any thread. `reason`: why nothing more is computed here, for the head to tell."""
        with self._lock:
            self._closing.set()
            control, chain = self._control, self._chain
        if control is not None:
            if reason and chain is not None:
                with contextlib.suppress(PeerError):
                    say(control, Op.FAILED, Report(epoch=chain.epoch, reason=reason[:1000]))
            control.say_fin()
            control.abort()

    def _follow(self, control: Link) -> None:
        with self._lock:
            self._control = control
            if self._closing.is_set():
                return
        listener = self.mesh.listener
        port = listener.endpoint.port if listener is not None else 0
        say(control, Op.HERE, Here(port=port, memory_mb=psutil.virtual_memory().total // _MB))
        while True:
            message = control.receive(self._config.timeout_s)
            self._heard = True
            if message.header.kind is Kind.FIN:
                with contextlib.suppress(PeerError):
                    control.say_fin()
                return
            op, word = heard(message, control.who)
            if op is Op.PING:
                say(control, Op.PONG, self._pong())
            elif isinstance(word, Assignment):
                if self._chain is not None:
                    self._chain.end()
                self._chain = Chain(self._config, self.mesh, control, word, self._stage_of)

    def _hang_up(self) -> None:
        with self._lock:
            control, self._control = self._control, None
        if control is not None:
            control.abort()  # the chain may be about to say something on it
        if self._chain is not None:
            self._chain.end()
        self.mesh.drop(control)

    def _stage_of(self, word: Assignment) -> Stage:
        """In the chain's thread; there is one at a time."""
        part = LayerRange(word.place.start, word.place.stop, word.layers)
        stage = self._stage
        if stage is None or self._loaded != (part, word.precision):
            self._stage = stage = None  # two sets of weights at once may not fit
            self._stage = stage = Stage(self._load(part, word.precision))
            self._loaded = (part, word.precision)
            give_back_memory()
        return stage

    def _pong(self) -> Pong:
        state = self._stage.state() if self._stage is not None else None
        return Pong(
            sessions=state.sessions if state else 0,
            cache_bytes=state.cache_bytes if state else 0,
            steps=state.steps if state else 0,
            busy_s=state.busy_s if state else 0.0,
            rss_mb=psutil.Process(os.getpid()).memory_info().rss / 1e6,
        )
