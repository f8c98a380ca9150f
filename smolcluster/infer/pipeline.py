"""The head's side of the chain: its own stage, the links to the others, and one inbox for all that comes back.

    open     wait for every stage, give out an epoch; again after a loss, with who is there then
    send     a message through the own stage into the chain        put    takes Traffic, Lost, Pinged as they come

The thread that calls `send` computes the head's layers. The loss of any stage is one Lost; until the next `open`
nothing more is sent. It knows nothing of requests.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from smolcluster.comm.announce import announce
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.link import Link
from smolcluster.comm.opening import open_mesh
from smolcluster.comm.pulse import Pulse, heartbeat_s
from smolcluster.errors import PeerError, PeerLostError, ProtocolError
from smolcluster.infer.control import Control, Lost, Pinged
from smolcluster.infer.layout import (
    CONTROL,
    Assignment,
    Here,
    Layout,
    back_channel,
    heard,
    hop_channel,
    say,
)
from smolcluster.infer.messages import MOST_BYTES, Op, Reset, Traffic, decode, send
from smolcluster.infer.stage import Stage, StageState
from smolcluster.infer.worker import Load
from smolcluster.models.partition import LayerRange
from smolcluster.runtime.process import give_back_memory

# A broken chain is seen by its neighbours first. So long we wait for the control link of the one who caused it to end.
VERDICT_S = 0.5


Incoming = Traffic | Lost | Pinged


class Pipeline:
    """Made, it listens; `open` brings the chain up. `put` takes what comes back, from several threads."""

    def __init__(self, config: GroupConfig, layout: Layout, load: Load, put: Callable[[Incoming], None]) -> None:
        self.layout = layout
        self.epoch = 0
        self._config = config
        self._load = load
        self._put = put
        self._mesh = open_mesh(config)
        self._controls: dict[int, Control] = {}
        self._stage: Stage | None = None
        self._onward: Link | None = None
        self._back: Link | None = None
        self._receiver: threading.Thread | None = None
        self._broken = True
        self._gone = threading.Event()
        self._lock = threading.Lock()
        if config.endpoint_file is not None and self._mesh.listener is not None:
            announce(config.endpoint_file, self._mesh.listener.endpoint, config.run_id, config.generation)
        self._pulse = Pulse(self._mesh.pulse, heartbeat_s(config.timeout_s))

    @property
    def stage(self) -> Stage:
        """The head's own."""
        assert self._stage is not None, "open first"
        return self._stage

    def own_state(self) -> StageState:
        """Of the head's own stage; nothing while it has none."""
        return self._stage.state() if self._stage is not None else StageState(0, 0, 0, 0.0)

    @property
    def slots(self) -> int:
        """How many steps can be under way at once without waiting for each other."""
        return len(self.layout.places)

    def missing(self) -> tuple[int, ...]:
        """Ranks of the layout whose control link is not there."""
        return tuple(
            place.rank
            for place in self.layout.places[1:]
            if (known := self._controls.get(place.rank)) is None or known.error is not None
        )

    def open(self, within_s: float) -> None:
        """Begin the next epoch with all ranks of the layout. PeerError tells who did not come or failed; try again."""
        deadline = Deadline(within_s)
        self.close_epoch()
        self.epoch += 1
        epoch, places = self.epoch, self.layout.places
        self._gone.clear()
        for rank in self.missing():
            self._greet(rank, deadline)
        self._assign(deadline)
        head = LayerRange(places[0].start, places[0].stop, self.layout.layers)
        if self._stage is None or self._stage.decoder.range != head:
            self._stage = None
            self._stage = Stage(self._load(head, self.layout.precision))
            give_back_memory()
        list(self._stage.handle(Reset(epoch)))
        # READY first: a stage that cannot load says so at once, and no link is waited for in vain.
        for place in places[1:]:
            self._controls[place.rank].ready(epoch, deadline)
        if len(places) > 1:
            self._onward = self._mesh.link(places[1].rank, hop_channel(epoch), deadline=deadline)
            self._back = self._mesh.link(self.layout.tail, back_channel(epoch), deadline=deadline)
            arguments = (self._back, epoch)
            self._receiver = threading.Thread(target=self._receive, args=arguments, name="smol-back", daemon=True)
            self._receiver.start()
        with self._lock:
            self._broken = False

    def send(self, message: Traffic) -> None:
        """Compute the head's part of a message and send it on. A broken chain drops it: Lost was put, or will be."""
        if self._broken:
            return
        try:
            for out in self.stage.handle(message):
                if self._onward is not None:
                    send(self._onward, out)
                else:
                    self._put(out)
        except PeerError as error:
            self._lose(self.epoch, self._verdict(error))

    def ping(self) -> None:
        """Ask every stage for its state; Pinged comes."""
        for control in tuple(self._controls.values()):
            with contextlib.suppress(PeerError):
                say(control.link, Op.PING, None)

    def lose(self, reason: str) -> None:
        """Give this epoch up."""
        self._lose(self.epoch, PeerLostError(reason))

    def close_epoch(self) -> None:
        """End the chain of this epoch; the stages stay and wait."""
        with self._lock:
            was_broken, self._broken = self._broken, True
        if self._onward is not None and not was_broken:
            self._onward.say_fin()  # an end, and no loss
        for link in (self._onward, self._back):
            if link is not None:
                link.abort()
        if self._receiver is not None:
            self._receiver.join()
        self._mesh.drop(self._onward, self._back)
        self._onward = self._back = self._receiver = None

    def close(self) -> None:
        """End everything; the stages' processes end too. Idempotent."""
        self.close_epoch()
        self._pulse.close()
        for control in self._controls.values():
            control.end()
            self._mesh.drop(control.link)
        self._controls.clear()
        if self._mesh.listener is not None:
            self._mesh.listener.close()

    def _greet(self, rank: int, deadline: Deadline) -> None:
        old = self._controls.pop(rank, None)
        if old is not None:
            old.end()
            self._mesh.drop(old.link)
        link = self._mesh.link(rank, CONTROL, deadline=deadline)
        _, word = heard(link.receive(self._config.timeout_s), link.who)
        if not isinstance(word, Here):
            self._mesh.drop(link)
            raise ProtocolError(f"rank {rank} did not say where it is")
        self._controls[rank] = Control(rank, link, word.port, self._config.timeout_s, self._from_control)

    def _assign(self, deadline: Deadline) -> None:
        places = self.layout.places
        listener = self._mesh.listener
        for number, place in enumerate(places[1:], 1):
            before = places[number - 1].rank
            if before:
                port = self._controls[before].port
            else:
                assert listener is not None, "a head with stages listens"
                port = listener.endpoint.port
            word = Assignment(
                epoch=self.epoch,
                place=place,
                layers=self.layout.layers,
                precision=self.layout.precision,
                upstream=before,
                port=port,
                after=places[number + 1].rank if number + 1 < len(places) else None,
                within_s=max(0.1, deadline.left()),
            )
            say(self._controls[place.rank].link, Op.ASSIGN, word)

    def _receive(self, back: Link, epoch: int) -> None:
        try:
            while True:
                self._put(decode(back.receive(self._config.timeout_s, MOST_BYTES), back.who))
        except PeerError as error:
            self._lose(epoch, self._verdict(error))

    def _verdict(self, seen: PeerError) -> PeerError:
        """The one who has really gone, if somebody has; else what was seen."""
        if not self._broken and self._gone.wait(VERDICT_S):
            return next((known.error for known in self._controls.values() if known.error is not None), seen)
        return seen

    def _from_control(self, what: object) -> None:
        if isinstance(what, Lost):
            self._lose(what.epoch, self._verdict(what.error))
        elif isinstance(what, PeerError):
            self._gone.set()
            self._lose(self.epoch, what)
        elif isinstance(what, Pinged):
            self._put(what)

    def _lose(self, epoch: int, error: PeerError) -> None:
        with self._lock:
            if self._broken or epoch != self.epoch:
                return
            self._broken = True
        self._put(Lost(epoch, error))
