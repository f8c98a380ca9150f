"""Faults on purpose: what a config's `faults` (spec/faults.py) asks for is done to this process and its links.

    crash       the process is gone, without a word: kill -9 where there is one
    freeze      no thread of its Python runs for `seconds`, heartbeats included
    slow        a step's computing takes `factor` times as long: the rank waits, and leaves its core to others
    delay       every byte to and from a rank arrives `ms` later, and up to `jitter_ms` more; never out of order
    throttle    a link carries no more than `mbps` each way
    drop        the links of a rank are cut, as if a cable were pulled and both ends saw it
    partition   between `ranks` and the others nothing passes for `seconds`; nobody is told, and nothing is lost

Each begins at a step of the rank that does it: what concerns a link is done by both its ends, each to what it sends, so
one fault in the plan that all have is enough. The same seed gives the same delays, byte for byte sent. A restarted run
is another generation, and is left alone unless a fault names it.

It costs nothing where no fault is asked for: then there is no object of this file, and the links that the mesh hands
out are the sockets themselves. Where a fault touches a link, its sending wire is led through a `Relay`, once, when the
link is made: wire.py, link.py and the backend do not know of it.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import random
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from smolcluster.comm.clock import Deadline
from smolcluster.comm.link import Link
from smolcluster.comm.wire import Wire
from smolcluster.errors import PeerError
from smolcluster.spec.faults import FaultSpec

log = logging.getLogger(__name__)

# What is read, delayed and sent as one. Under way are at most so many bytes: more would be another kind of network.
_CHUNK_BYTES = 32 << 10
_UNDER_WAY_BYTES = 8 << 20
# How long a relay sends what it has when its link was closed, and how long a peer may take nothing.
_FLUSH_S = 10.0
_STUCK_S = 3600.0
# A wait that nothing can interrupt is looked up from so often, for whoever asks the rank to stop.
_LOOK_UP_S = 0.2
CRASH_EXIT = 137


class Faults:
    """All faults of one rank. `generation` and step count from what `enter` and `begin_step` were told last."""

    def __init__(self, specs: Sequence[FaultSpec], rank: int, seed: int) -> None:
        self._specs = tuple(specs)
        self._rank = rank
        self._seed = seed
        self._lock = threading.Lock()
        self._generation: int | None = None
        self._step = 0
        self._held: list[tuple[FaultSpec, float]] = []
        self._relays: list[Relay] = []
        self._over = threading.Event()

    def enter(self, generation: int) -> None:
        """The run's ranks have met: from now on steps count."""
        self._generation = generation

    def attach(self, link: Link) -> None:
        """Lead the link through a relay if any fault, whenever it begins, is of it."""
        if not any(spec.touches(self._rank, link.peer) for spec in self._specs):
            return
        relay = Relay(link, random.Random(f"{self._seed}/{self._rank}/{link.peer}/{link.channel}"))
        with self._lock:
            self._relays.append(relay)
            self._shape(relay)

    def begin_step(self, step: int) -> None:
        """This rank is about to take a step. Does not return from a crash."""
        with self._lock:
            self._step = step
            due = [spec for spec in self._specs if spec.step == step and spec.generation == self._generation]
            for spec in due:
                log.warning("fault, as the config asks: %s", spec.told())
            now = time.monotonic()
            self._held += [(spec, now + (spec.seconds or 0.0)) for spec in due if spec.kind == "partition"]
            for relay in self._relays:
                self._shape(relay)
                if any(spec.kind == "drop" and spec.touches(self._rank, relay.peer) for spec in due):
                    relay.cut()
        for spec in due:
            if spec.kind == "freeze" and spec.rank == self._rank:
                freeze(spec.seconds or 0.0)
            if spec.kind == "crash" and spec.rank == self._rank:
                crash()

    def slowed(self, compute_s: float, stop: Callable[[], bool]) -> float:
        """Wait after a step that computed so long, until it is as slow as it should be. Seconds waited.

        `stop` answers whether somebody wants this rank to end, and `end` from another thread ends the wait too.
        """
        factors = [spec.factor for spec in self._now_on() if spec.rank == self._rank and spec.factor is not None]
        began = time.monotonic()
        deadline = began + compute_s * (math.prod(factors) - 1)
        while (left_s := deadline - time.monotonic()) > 0 and not stop():
            if self._over.wait(min(left_s, _LOOK_UP_S)):
                break
        return time.monotonic() - began if factors else 0.0

    def end(self) -> None:
        """Nobody waits here any longer. From any thread."""
        self._over.set()

    def _now_on(self) -> list[FaultSpec]:
        """Those that last over steps, this one among them."""
        return [
            spec
            for spec in self._specs
            if spec.generation == self._generation
            and spec.step <= self._step
            and (spec.until is None or self._step < spec.until)
        ]

    def _shape(self, relay: Relay) -> None:
        """Tell a relay what its link is like in this step."""
        now_on = [spec for spec in self._now_on() if spec.touches(self._rank, relay.peer)]
        rates = [spec.mbps * 1e6 / 8 for spec in now_on if spec.mbps is not None]
        relay.shape(
            delay_s=sum(spec.ms or 0.0 for spec in now_on) / 1000,
            jitter_s=sum(spec.jitter_ms or 0.0 for spec in now_on) / 1000,
            bytes_per_s=min(rates, default=None),
            held_until=max((end for spec, end in self._held if spec.touches(self._rank, relay.peer)), default=0.0),
        )


class Relay:
    """A worse network between a link and its peer, for what this end sends. Two threads, gone when the link is.

    The link gets one end of a local pair of sockets as its `out`; what comes through it is sent on when it is time.
    """

    def __init__(self, link: Link, chance: random.Random) -> None:
        self.peer = link.peer
        self._real = link.out
        self._inward = link.inward
        near, self._far = socket.socketpair()
        link.out = Wire(near, self._real.who)
        link.out.bytes = self._real.bytes
        self._chance = chance
        self._state = threading.Condition()
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._last_due = self._free_at = 0.0
        self._gone = False
        self._delay_s = self._jitter_s = self._held_until = 0.0
        self._bytes_per_s: float | None = None
        self._sender = threading.Thread(target=self._send, name=f"fault-send-{self.peer}", daemon=True)
        self._sender.start()
        threading.Thread(target=self._take, name=f"fault-take-{self.peer}", daemon=True).start()

    def shape(self, delay_s: float, jitter_s: float, bytes_per_s: float | None, held_until: float) -> None:
        """What the network is like from now on. `held_until` (monotonic clock): until then nothing passes."""
        with self._state:
            self._delay_s, self._jitter_s = delay_s, jitter_s
            self._bytes_per_s, self._held_until = bytes_per_s, held_until
            self._state.notify_all()

    def cut(self) -> None:
        """The connection is broken, both ways, and what was under way is lost."""
        with self._state:
            self._gone = True
            self._state.notify_all()
        self._inward.shutdown()
        self._let_go()

    def _take(self) -> None:
        """Read what the link sends and note when it is due, until the link is closed."""
        with self._far:
            while True:
                data = self._read()
                with self._state:
                    self._state.wait_for(lambda: self._bytes < _UNDER_WAY_BYTES or self._gone)
                    if self._gone:
                        return
                    late_s = self._delay_s + self._jitter_s * self._chance.random()
                    self._last_due = max(self._last_due, time.monotonic() + late_s)
                    self._waiting.append((self._last_due, data))
                    self._bytes += len(data)
                    self._state.notify_all()
                if not data:
                    self._sender.join(_FLUSH_S + late_s)
                    self._let_go()
                    return

    def _read(self) -> bytes:
        try:
            return self._far.recv(_CHUNK_BYTES)
        except OSError:
            return b""

    def _send(self) -> None:
        """Send on what is due, in order."""
        while data := self._next():
            try:
                self._real.send_all(data, None, Deadline(_STUCK_S))
            except PeerError:  # the link learns it from its own end
                break
        self._let_go()
        self._real.close()

    def _next(self) -> bytes:
        """Wait for the next bytes that may pass. Empty at the end."""
        with self._state:
            self._state.wait_for(lambda: self._waiting or self._gone)
            while not self._gone:
                left_s = max(self._waiting[0][0], self._free_at, self._held_until) - time.monotonic()
                if left_s <= 0:
                    break
                self._state.wait(left_s)
            if self._gone:
                return b""
            _, data = self._waiting.popleft()
            self._bytes -= len(data)
            if self._bytes_per_s is not None:
                self._free_at = max(time.monotonic(), self._free_at) + len(data) / self._bytes_per_s
            self._state.notify_all()
            return data

    def _let_go(self) -> None:
        """Whoever waits on either socket wakes, and finds it gone."""
        with self._state:
            self._gone = True
            self._state.notify_all()
        self._real.shutdown()
        try:
            self._far.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # closed already


def freeze(seconds: float) -> None:
    """Hold the interpreter: no thread of this process runs Python meanwhile, as if it were stopped."""
    milliseconds = round(seconds * 1000)
    if os.name == "nt":
        ctypes.PyDLL("kernel32").Sleep(milliseconds)
    else:
        ctypes.PyDLL(None).poll(None, 0, milliseconds)  # PyDLL keeps the lock that other calls into C give up


def crash() -> None:
    """End this process at once; the kernel closes its sockets."""
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(CRASH_EXIT)
