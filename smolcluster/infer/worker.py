"""The process of a later stage. It follows its control link to the head and computes for one epoch after the other.

    control thread   ASSIGN -> load layers, open this epoch's links, READY; PING -> PONG. The end of it ends the process
    chain thread     receive, compute, send, in one thread: the kernel's socket buffers are the queue between stages

A thread of its own for receiving or sending would cost a hand-over for every message. When a neighbour dies the stage
tells the head, forgets its sessions, and waits for the next epoch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable

import psutil

from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.endpoint import Endpoint
from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link
from smolcluster.comm.opening import open_mesh, where_is_rank_0
from smolcluster.comm.pulse import Pulse, heartbeat_s
from smolcluster.errors import PeerError, SmolError
from smolcluster.infer.layout import CONTROL, Assignment, Here, Pong, Report, back_channel, heard, hop_channel, say
from smolcluster.infer.messages import MOST_BYTES, Op, Reset, decode, send
from smolcluster.infer.stage import Stage
from smolcluster.models.decoder import Decoder
from smolcluster.models.dense import Precision
from smolcluster.models.partition import LayerRange
from smolcluster.runtime.process import give_back_memory

log = logging.getLogger("smolcluster.infer")
Load = Callable[[LayerRange, Precision], Decoder]


class Worker:
    """A later stage's process. `load` reads layers at a precision from this machine's copy of the model."""

    def __init__(self, config: GroupConfig, load: Load) -> None:
        self._config = config
        self._load = load
        self._mesh = open_mesh(config)
        self._stage: Stage | None = None
        self._loaded: tuple[LayerRange, Precision] | None = None
        self._links: tuple[Link, Link] | None = None
        self._chain: threading.Thread | None = None
        self._ending = threading.Event()

    def run(self) -> None:
        """Serve until the head goes. PeerError tells how it went, or why it was never found; SmolError for the rest."""
        config, mesh = self._config, self._mesh
        deadline = Deadline(config.join_s or config.timeout_s)
        control: Link | None = None
        pulse = Pulse(mesh.pulse, heartbeat_s(config.timeout_s))
        try:
            control = mesh.link(0, CONTROL, where_is_rank_0(config, deadline), deadline)
            listener = mesh.listener
            say(control, Op.HERE, Here(port=listener.endpoint.port if listener is not None else 0))
            self._follow(control)
        finally:
            self._leave_chain()
            pulse.close()
            if mesh.listener is not None:
                mesh.listener.close()
            mesh.drop(control)

    def _follow(self, control: Link) -> None:
        while True:
            message = control.receive(self._config.timeout_s)
            if message.header.kind is Kind.FIN:
                control.answer_fin()
                return
            op, word = heard(message, control.who)
            if op is Op.PING:
                say(control, Op.PONG, self._pong())
            elif isinstance(word, Assignment):
                self._leave_chain()
                try:
                    self._enter_chain(word, control)
                    say(control, Op.READY, Report(epoch=word.epoch))
                except PeerError as error:
                    say(control, Op.FAILED, Report(epoch=word.epoch, reason=str(error)))
                except SmolError as error:
                    say(control, Op.FAILED, Report(epoch=word.epoch, reason=str(error)))
                    raise

    def _enter_chain(self, word: Assignment, control: Link) -> None:
        deadline = Deadline(word.within_s)
        part = LayerRange(word.place.start, word.place.stop, word.layers)
        if self._stage is None or self._loaded != (part, word.precision):
            self._stage = None  # two sets of weights at once may not fit
            self._stage = Stage(self._load(part, word.precision))
            self._loaded = (part, word.precision)
            give_back_memory()
        stage = self._stage
        list(stage.handle(Reset(word.epoch)))
        where = Endpoint(self._config.peers[word.upstream], word.port)
        upstream = self._mesh.link(word.upstream, hop_channel(word.epoch), where, deadline)
        try:
            if word.after is None:
                onward = self._mesh.link(0, back_channel(word.epoch), where_is_rank_0(self._config, deadline), deadline)
            else:
                onward = self._mesh.link(word.after, hop_channel(word.epoch), deadline=deadline)
        except BaseException:
            self._mesh.drop(upstream)
            raise
        self._links = (upstream, onward)
        self._ending.clear()
        arguments = (stage, upstream, onward, control, word.epoch)
        self._chain = threading.Thread(target=self._compute, args=arguments, name="smol-stage", daemon=True)
        self._chain.start()

    def _compute(self, stage: Stage, upstream: Link, onward: Link, control: Link, epoch: int) -> None:
        try:
            while True:
                frame = upstream.receive(self._config.timeout_s, MOST_BYTES)
                if frame.header.kind is Kind.FIN:
                    onward.say_fin()
                    return
                for out in stage.handle(decode(frame, upstream.who)):
                    send(onward, out)
        except Exception as error:  # a bug or a lack of memory ends this epoch as well
            # The reason first: hung up links alone would look as if this rank had died.
            if not self._ending.is_set():
                log.error("epoch %d ended: %s", epoch, error, exc_info=not isinstance(error, PeerError))
                with contextlib.suppress(PeerError):
                    say(control, Op.FAILED, Report(epoch=epoch, reason=f"rank {self._config.rank}: {error}"))
            upstream.abort()
            onward.abort()

    def _leave_chain(self) -> None:
        self._ending.set()
        for link in self._links or ():
            link.abort()
        if self._chain is not None:
            self._chain.join()
        self._mesh.drop(*(self._links or ()))
        self._links = self._chain = None

    def _pong(self) -> Pong:
        state = self._stage.state() if self._stage is not None else None
        return Pong(
            sessions=state.sessions if state else 0,
            cache_bytes=state.cache_bytes if state else 0,
            steps=state.steps if state else 0,
            busy_s=state.busy_s if state else 0.0,
            rss_mb=psutil.Process(os.getpid()).memory_info().rss / 1e6,
        )
