"""The head's side of the chain: its own stage, the links to the others, and one inbox for all that comes back.

    open     give out an epoch to the ranks of a layout, and wait until they are ready; again after a loss
    send     a message through the own stage into the chain        put    takes Traffic, Lost, Pinged as they come

The thread that calls `send` computes the head's layers; `open` is for another thread, while nothing is sent. The loss
of any stage of the layout is one Lost; until the next `open` nothing more is sent. It knows nothing of requests.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

from smolcluster.comm.announce import announce
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.link import Link
from smolcluster.comm.opening import open_mesh
from smolcluster.comm.pulse import Pulse, heartbeat_s
from smolcluster.errors import PeerError, PeerLostError
from smolcluster.infer.control import Control, Gone, Lost, Pinged, StageError
from smolcluster.infer.layout import Assignment, Layout, back_channel, hop_channel, is_stale, say
from smolcluster.infer.messages import MOST_BYTES, Op, Reset, Traffic, decode
from smolcluster.infer.outlet import Outlet
from smolcluster.infer.roster import Roster
from smolcluster.infer.stage import Stage, StageState
from smolcluster.infer.worker import Load
from smolcluster.models.partition import LayerRange
from smolcluster.runtime.process import give_back_memory

Incoming = Traffic | Lost | Pinged


def never() -> bool:
    """Do not stop."""
    return False


class Pipeline:
    """Made, it listens, and lets the ranks of `layout` in. `put` takes what comes back, from several threads."""

    def __init__(self, config: GroupConfig, layout: Layout, load: Load, put: Callable[[Incoming], None]) -> None:
        self.layout = layout
        self.epoch = 0
        self._life = secrets.token_hex(4)
        self._config = config
        self._load = load
        self._put = put
        self._stage: Stage | None = None
        self._vocabulary = 0
        self._onward: Outlet | None = None
        self._back: Link | None = None
        self._receiver: threading.Thread | None = None
        self._broken = True
        self._lock = threading.Lock()
        self.mesh = open_mesh(config)
        self._pulse = Pulse(self.mesh.pulse, heartbeat_s(config.timeout_s))
        self.roster = Roster(self.mesh, [place.rank for place in layout.places[1:]], self._from_control)
        if config.endpoint_file is not None and self.mesh.listener is not None:
            announce(config.endpoint_file, self.mesh.listener.endpoint, config.run_id, config.generation)

    @property
    def stage(self) -> Stage:
        """The head's own."""
        assert self._stage is not None, "open first"
        return self._stage

    @property
    def vocabulary(self) -> int:
        """Its size, once there has been an epoch."""
        return self._vocabulary

    @property
    def alive(self) -> bool:
        """Whether there is a chain that was not seen to break."""
        return not self._broken

    @property
    def slots(self) -> int:
        """How many steps can be under way at once without waiting for each other."""
        return len(self.layout.places)

    def own_state(self) -> StageState:
        """Of the head's own stage; nothing while it has none."""
        stage = self._stage
        return stage.state() if stage is not None else StageState(0, 0, 0, 0.0)

    def open(self, layout: Layout, deadline: Deadline, stop: Callable[[], bool] = never) -> None:
        """Begin the next epoch with the ranks of the layout, who must be there. Try again when it fails.

        StageError tells who is to blame; PeerLostError once `stop` says so, looked at when the roster changes.
        """
        self.close_epoch()
        self.layout = layout
        self.epoch += 1
        epoch, life, places = self.epoch, self._life, layout.places
        self.mesh.sweep(lambda channel: is_stale(channel, life, epoch))
        here = self.roster.here()
        for place in places[1:]:
            if place.rank not in here:
                raise StageError(place.rank, f"rank {place.rank} has gone")
        controls = {place.rank: here[place.rank] for place in places[1:]}
        self._assign(controls, deadline)
        self._take_place(LayerRange(places[0].start, places[0].stop, layout.layers))
        # READY first: a stage that cannot load says so at once, and no link is waited for in vain.
        self.roster.await_ready(controls, epoch, deadline, stop)
        if controls:
            onward = self.mesh.link(places[1].rank, hop_channel(life, epoch), deadline=deadline)
            self._onward = Outlet(onward, lambda error: self._lose(epoch, self._verdict(error)))
            self._back = self.mesh.link(layout.tail, back_channel(life, epoch), deadline=deadline)
            arguments = (self._back, epoch)
            self._receiver = threading.Thread(target=self._receive, args=arguments, name="smol-back", daemon=True)
            self._receiver.start()
        with self._lock:
            self._broken = False
        # Whoever went between being ready and now was nobody's loss yet.
        for control in controls.values():
            if control.error is not None:
                self._lose(epoch, control.error)

    def send(self, message: Traffic) -> None:
        """Compute the head's part of a message and send it on. A broken chain drops it: Lost was put, or will be."""
        if self._broken:
            return
        try:
            for out in self.stage.handle(message):
                if self._onward is not None:
                    self._onward.send(out)
                else:
                    self._put(out)
        except PeerError as error:
            self._lose(self.epoch, self._verdict(error))

    def lose(self, reason: str) -> None:
        """Give this epoch up."""
        self._lose(self.epoch, PeerLostError(reason))

    def forget(self) -> None:
        """Have all stages forget all sessions: for the thread that sends, once the epoch is over."""
        if self._stage is not None:
            list(self._stage.handle(Reset(self.epoch)))
        if self._broken:
            # A stage with nothing to send would not notice, and keep its caches until the next epoch.
            for link in (self._onward.link if self._onward is not None else None, self._back):
                if link is not None:
                    link.abort()

    def close_epoch(self) -> None:
        """End the chain of this epoch; the stages stay and wait."""
        with self._lock:
            was_broken, self._broken = self._broken, True
        if self._onward is not None:
            if not was_broken:
                self._onward.link.say_fin()  # an end, and no loss
            self._onward.close()
        if self._back is not None:
            self._back.abort()
        if self._receiver is not None:
            self._receiver.join()
        self.mesh.drop(self._onward.link if self._onward is not None else None, self._back)
        self._onward = self._back = self._receiver = None

    def close(self) -> None:
        """End everything; the stages' processes end too. Idempotent."""
        self.close_epoch()
        self._pulse.close()
        self.roster.close()
        if self.mesh.listener is not None:
            self.mesh.listener.close()

    def _take_place(self, part: LayerRange) -> None:
        if self._stage is None or self._stage.decoder.range != part:
            self._stage = None  # two sets of weights at once may not fit
            self._stage = Stage(self._load(part, self.layout.precision))
            self._vocabulary = self._stage.decoder.shape.vocab_size
            give_back_memory()
        self.forget()

    def _assign(self, controls: dict[int, Control], deadline: Deadline) -> None:
        places = self.layout.places
        listener = self.mesh.listener
        for number, place in enumerate(places[1:], 1):
            before = places[number - 1].rank
            if before:
                told = controls[before].here
                port = told.port if told is not None else 0
            else:
                assert listener is not None, "a head with stages listens"
                port = listener.endpoint.port
            word = Assignment(
                life=self._life,
                epoch=self.epoch,
                place=place,
                layers=self.layout.layers,
                precision=self.layout.precision,
                upstream=before,
                port=port,
                after=places[number + 1].rank if number + 1 < len(places) else None,
                within_s=max(0.1, deadline.left()),
            )
            try:
                say(controls[place.rank].link, Op.ASSIGN, word)
            except PeerError as error:
                raise StageError(place.rank, str(error)) from error

    def _receive(self, back: Link, epoch: int) -> None:
        try:
            while True:
                self._put(decode(back.receive(self._config.timeout_s, MOST_BYTES), back.who))
        except PeerError as error:
            self._lose(epoch, self._verdict(error))

    def _verdict(self, seen: PeerError) -> PeerError:
        """The one who has really gone, if somebody has; else what was seen."""
        if self._broken:
            return seen
        return self.roster.verdict([place.rank for place in self.layout.places], seen)

    def _from_control(self, what: Gone | Lost | Pinged) -> None:
        if isinstance(what, Lost):
            self._lose(what.epoch, self._verdict(what.error))
        elif isinstance(what, Pinged):
            self._put(what)
        elif any(place.rank == what.rank for place in self.layout.places):
            self._lose(self.epoch, what.error)

    def _lose(self, epoch: int, error: PeerError) -> None:
        with self._lock:
            if self._broken or epoch != self.epoch:
                return
            self._broken = True
        self._put(Lost(epoch, error))
