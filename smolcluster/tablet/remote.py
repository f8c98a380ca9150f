"""A stage that a tablet computes, seen from the cluster: `forward` and `forget`, as of any stage.

The tablet holds the sessions' caches, and a connection that ends takes them with it. Whoever asks for a token of such a
session is told so (SessionGoneError) and sends the whole text again from position 0: a tablet that slept, was carried
out of the Wi-Fi or loaded its page anew costs a pause, no answer. Every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from smolcluster.comm.clock import Deadline, Patience
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError, ProtocolError
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.greeting import refused
from smolcluster.tablet.messages import (
    MOST_BYTES,
    NUMBERS,
    Assign,
    Code,
    Failure,
    Fetch,
    Forget,
    Forward,
    Message,
    Open,
    Ping,
    Pong,
    Ready,
    Result,
)
from smolcluster.tablet.packages import NoFileError, Packages

# Besides the values.
_FRAME = 64


class SessionGoneError(PeerError):
    """The tablet does not hold that session, or not at that position: prefill it again from position 0."""


@dataclass(frozen=True)
class Waits:
    """Seconds. `ready_s`: until a tablet has its layers, anew with every piece of them that it fetches; `forward_s`:
    for one answer.

    A tablet of which nothing is heard for `silence_s` is gone; it is asked for a sign of life every `heartbeat_s`.
    """

    connect_s: float = 30.0
    ready_s: float = 300.0
    forward_s: float = 60.0
    heartbeat_s: float = 2.0
    silence_s: float = 10.0


class TabletStage:
    """Layers on a tablet. `connect` gives a proven connection: Door.take, or a dial. Any thread may call; one at a time
    is served. Made, it does nothing yet; the first call connects, and so does the first one after a loss.

    `packages`: by format the folder of an export, for a tablet that lacks it. They are hashed at once; InputError for
    one that is no export, ValueError for another one than `assign` names.
    """

    def __init__(
        self,
        connect: Callable[[Deadline], Channel],
        assign: Assign,
        waits: Waits | None = None,
        packages: Mapping[str, Path] | None = None,
    ) -> None:
        self.assign = assign
        self._packages = Packages(packages or {})
        for name, found in self._packages.hashes.items():
            if assign.packages.get(name) != found:
                raise ValueError(f"the package for {name} is {found[:12]}, and the assignment names another one")
        self.ready: Ready | None = None
        # Why the last connection, or the last try, ended; and who is told that there is one, before the layers are.
        self.ended = ""
        self.on_connected: Callable[[], None] = lambda: None
        self._connect = connect
        self._waits = waits or Waits()
        self._channel: Channel | None = None
        self._sessions: set[int] = set()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="smol-tablet", daemon=True)
        self._pulse.start()

    @property
    def connected(self) -> bool:
        """Whether there is a connection that was not seen to end."""
        return self._channel is not None

    def open(self) -> Ready:
        """Connect now, if there is no connection; what the tablet said. The errors of forward, but of sessions."""
        with self._lock, self._dropping():
            self._connected()
            assert self.ready is not None
            return self.ready

    def forward(self, session: int, x: Tensor, position: int, capacity: int | None = None) -> Tensor:
        """(T, width) of a session's tokens from `position` on -> (T, width) float32, or (1, vocabulary) of the last
        layers. Position 0 begins the session, anew if there is one, with room for `capacity` tokens (None: the stage's
        context).

        SessionGoneError: prefill again. DeadlineError, PeerLostError: no answer came, and the sessions are gone.
        """
        values = np.ascontiguousarray(x.detach().float().numpy().astype(NUMBERS[self.assign.dtype]))
        if values.ndim != 2 or values.shape[1] != self.assign.width or not len(values):
            raise ValueError(f"hidden states {tuple(x.shape)}, the stage takes (T, {self.assign.width})")
        if values.nbytes + _FRAME > MOST_BYTES:
            raise ValueError(f"{len(values)} tokens at once are too many for one message; prefill in pieces")
        with self._lock, self._dropping():
            channel = self._connected()
            waits = self._waits
            if position == 0:
                if session in self._sessions:
                    channel.send(Forget(session), Deadline(waits.silence_s))
                channel.send(Open(session, capacity or self.assign.context), Deadline(waits.silence_s))
                self._sessions.add(session)
            elif session not in self._sessions:
                raise SessionGoneError(f"{channel.who} does not hold session {session}: prefill it again")
            request = next(self._numbers) & 0xFFFFFFFF
            channel.send(Forward(request, session, position, values), Deadline(waits.silence_s))
            result = self._answer(channel, request, session)
            rows = 1 if self.assign.last else len(values)
            if result.values.shape != (rows, self.assign.out_width) or result.session != session:
                raise ProtocolError(f"{channel.who} gave {result.values.shape} for {len(values)} tokens")
            return torch.from_numpy(result.values.astype(np.float32))

    def forget(self, session: int) -> None:
        """End a session. Never raises: a tablet that is gone has forgotten it."""
        with self._lock, contextlib.suppress(PeerError), self._dropping():
            if session in self._sessions and self._channel is not None:
                self._sessions.discard(session)
                self._channel.send(Forget(session), Deadline(self._waits.silence_s))

    def close(self) -> None:
        """Hang up, once. A call that waits for an answer ends in PeerLostError; one that connects, with its try."""
        self._closing.set()
        channel = self._channel
        if channel is not None:
            channel.abort()
        with self._lock:
            self._drop()
        self._pulse.join()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        """After an error that is of no single session the connection is worth nothing."""
        try:
            yield
        except SessionGoneError:
            raise
        except PeerError as error:
            self.ended = str(error)
            self._drop()
            raise

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        self._sessions.clear()
        if channel is not None:
            channel.abort()
            channel.close()

    def _connected(self) -> Channel:
        if self._closing.is_set():
            raise PeerLostError("the stage on the tablet is closed")
        if self._channel is None:
            self._channel = channel = self._connect(Deadline(self._waits.connect_s))
            if self._closing.is_set():  # `close` saw no connection yet: nobody else would end the wait for layers
                raise PeerLostError("the stage on the tablet is closed")
            self.on_connected()
            channel.send(self.assign, Deadline(self._waits.silence_s))
            self.ready = self._expect_ready(channel)
        return self._channel

    def _expect_ready(self, channel: Channel) -> Ready:
        patience = Patience(self._waits.ready_s)
        delivery = self._packages.delivery()

        def given(message: Message) -> bool:
            if not isinstance(message, Fetch):
                return False
            try:
                piece, further = delivery.answer(message)
            except ProtocolError as error:
                channel.refuse(error, Code.NO_FILE if isinstance(error, NoFileError) else Code.BAD_MESSAGE)
                raise
            channel.send(piece, Deadline(self._waits.silence_s))
            if further:
                patience.moved()
            return True

        ready = self._wait(channel, patience, lambda message: isinstance(message, Ready), given)
        assert isinstance(ready, Ready)
        wanted = self.assign.packages.get(ready.format)
        if ready.layers != self.assign.layers or wanted is None or ready.hash != wanted:
            mine = f"layers {ready.layers} as {ready.format} {ready.hash[:12]}"
            what = f"layers {self.assign.layers} as {wanted[:12] if wanted else ' or '.join(self.assign.packages)}"
            error = HandshakeError(f"{channel.who} has {mine}, and is to have {what}: load the stage again there")
            channel.refuse(error, Code.WRONG_STAGE)
            raise error
        return ready

    def _answer(self, channel: Channel, request: int, session: int) -> Result:
        def mine(message: Message) -> bool:
            if isinstance(message, Failure) and message.code.of_session and message.request == request:
                self._sessions.discard(session)
                raise SessionGoneError(f"{channel.who} gave session {session} up: {message.reason}")
            return isinstance(message, Result) and message.request == request

        result = self._wait(channel, Deadline(self._waits.forward_s), mine)
        assert isinstance(result, Result)
        return result

    def _wait(
        self,
        channel: Channel,
        deadline: Deadline,
        wanted: Callable[[Message], bool],
        answered: Callable[[Message], bool] | None = None,
    ) -> Message:
        """The message that is wanted. Meanwhile the tablet is asked for signs of life, which it gives at work too, and
        gets answers to what else may be asked.
        """
        silence = Deadline(self._waits.silence_s)
        while True:
            turn = Deadline(min(self._waits.heartbeat_s, silence.left(), deadline.left()))
            try:
                message = channel.receive(turn)
            except DeadlineError:
                self._still(channel, silence, deadline)
                channel.send(Ping(next(self._numbers) & 0xFFFFFFFF), silence)
                continue
            except ProtocolError as garbage:
                channel.refuse(garbage)
                raise
            silence = Deadline(self._waits.silence_s)
            if wanted(message):
                return message
            if isinstance(message, Failure) and not message.code.of_session:
                raise refused(message, channel.who)
            if isinstance(message, Ping):
                channel.send(Pong(message.number), silence)
            elif answered is not None and answered(message):
                pass
            elif not isinstance(message, (Pong, Result, Failure)):  # those may be late
                error = ProtocolError(f"{channel.who} sent {message.kind.name}, which nobody waits for")
                channel.refuse(error)
                raise error
            self._still(channel, deadline)  # who talks of other things gets no more time

    def _still(self, channel: Channel, *deadlines: Deadline) -> None:
        """DeadlineError once one of them is over."""
        for deadline in deadlines:
            if deadline.expired:
                raise DeadlineError(f"{channel.who} did not answer within {deadline.seconds:g} s")

    def _beat(self) -> None:
        """While nothing is asked: a tablet that is gone is found out before the next token is."""
        while not self._closing.wait(self._waits.heartbeat_s):
            if not self._lock.acquire(blocking=False):
                continue  # somebody waits for the tablet, and asks by itself
            try:
                if self._channel is not None:
                    with contextlib.suppress(PeerError), self._dropping():
                        self._sign_of_life(self._channel)
            finally:
                self._lock.release()

    def _sign_of_life(self, channel: Channel) -> None:
        number = next(self._numbers) & 0xFFFFFFFF
        channel.send(Ping(number), Deadline(self._waits.silence_s))
        asked = Deadline(self._waits.silence_s)
        self._wait(channel, asked, lambda message: isinstance(message, Pong) and message.number == number)
