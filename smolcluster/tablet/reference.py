"""A tablet in Python: the other end of the protocol. Tests use it, and who writes an app reads it.

One thread reads and answers signs of life, another computes, so that a long prompt is no silence. Caches belong to the
connection: they end with it, and so does everything when nothing is heard of the cluster for `silence_s`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from smolcluster.comm.clock import Deadline
from smolcluster.errors import HandshakeError, InputError, PeerError, ProtocolError
from smolcluster.models.decoder import Decoder
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.computing import TORCH, Layers, OnnxLayers, Session, TorchLayers, torch_hash
from smolcluster.tablet.fetching import fetch_package
from smolcluster.tablet.messages import (
    NUMBERS,
    Assign,
    Code,
    Failure,
    Forget,
    Forward,
    Message,
    Open,
    Ping,
    Pong,
    Ready,
    Result,
)

FORMAT = TORCH
MOST_SESSIONS = 64
SILENCE_S = 10.0


class Tablet:
    """`fetch` gives what loads the layers that an assignment asks for, and may use the connection. `serve` one."""

    def __init__(
        self, fetch: Callable[[Channel, Assign], Callable[[], Layers]], device: str, silence_s: float = SILENCE_S
    ) -> None:
        self._fetch = fetch
        self._device = device
        self._silence_s = silence_s

    def serve(self, channel: Channel) -> None:
        """Compute until the other end goes, which is a PeerError: PeerLostError, or DeadlineError if it went silent."""
        with ThreadPoolExecutor(1, "smol-reference") as worker:
            try:
                assign = self._assigned(channel)
                work = _Work(channel, assign, self._silence_s)
                worker.submit(work.begin, self._fetch(channel, assign), self._device)
                while True:
                    message = channel.receive(self._silence())
                    if isinstance(message, Ping):
                        channel.send(Pong(message.number), self._silence())
                    elif isinstance(message, (Open, Forward, Forget)):
                        worker.submit(work.handle, message)
                    elif not isinstance(message, Pong):
                        raise ProtocolError(f"{channel.who} sent {message.kind.name}, which is no question")
            except (ProtocolError, HandshakeError) as error:
                wrong = isinstance(error, HandshakeError)
                channel.refuse(error, Code.WRONG_STAGE if wrong else Code.BAD_MESSAGE)
                raise
            finally:
                channel.abort()

    def _assigned(self, channel: Channel) -> Assign:
        assign = channel.receive(self._silence())
        if isinstance(assign, Failure):
            raise HandshakeError(f"{channel.who} refused: {assign.reason}")
        if not isinstance(assign, Assign):
            raise ProtocolError(f"{channel.who} sent {assign.kind.name} where ASSIGN was due")
        return assign

    def _silence(self) -> Deadline:
        return Deadline(self._silence_s)


class ReferenceTablet(Tablet):
    """Layers of `decoder`, which it has; under the hash of its weights unless another is said."""

    def __init__(
        self,
        decoder: Decoder,
        context: int,
        device: str = "Python",
        stage_hash: str = "",
        silence_s: float = SILENCE_S,
    ) -> None:
        layers = TorchLayers(decoder, context, stage_hash)
        self.hash = layers.hash

        def fetch(_channel: Channel, _assign: Assign) -> Callable[[], Layers]:
            return lambda: layers

        super().__init__(fetch, device, silence_s)


class OnnxTablet(Tablet):
    """Fetches the ONNX package that it is assigned into the folder `cache`, and computes with it."""

    def __init__(self, cache: Path, device: str = "Python, onnxruntime", silence_s: float = SILENCE_S) -> None:
        def fetch(channel: Channel, assign: Assign) -> Callable[[], Layers]:
            folder = fetch_package(channel, assign, OnnxLayers.format, cache, silence_s)
            return lambda: OnnxLayers(folder)

        super().__init__(fetch, device, silence_s)


class _Work:
    """What one connection has computed, in one thread and in the order in which it was asked."""

    def __init__(self, channel: Channel, assign: Assign, silence_s: float) -> None:
        self._channel = channel
        self._assign = assign
        self._silence_s = silence_s
        self._sessions: dict[int, Session] = {}
        self._layers: Layers | None = None

    def begin(self, load: Callable[[], Layers], device: str) -> None:
        """Load the layers and say so, or why not."""
        assign = self._assign
        try:
            mine = load()
            if assign.layers != mine.layers or assign.packages.get(mine.format) != mine.hash:
                wanted = ", ".join(f"{name} {one[:12]}" for name, one in sorted(assign.packages.items()))
                has = f"layers {mine.layers} as {mine.format} {mine.hash[:12]}"
                raise HandshakeError(f"this tablet has {has}, and not {assign.layers} as {wanted}")
        except (HandshakeError, InputError, RuntimeError, MemoryError) as error:
            self._channel.refuse(HandshakeError(str(error)), Code.WRONG_STAGE)
            return
        self._layers = mine
        self._send(Ready(device=device, format=mine.format, hash=mine.hash, layers=mine.layers))

    def handle(self, message: Open | Forward | Forget) -> None:
        """Do it; a FORWARD is answered."""
        if self._layers is None:
            return  # the connection was refused
        if isinstance(message, Forward):
            self._send(self._forward(message))
        elif isinstance(message, Forget):
            self._sessions.pop(message.session, None)
        # A session that has no room is unknown to its first FORWARD, which is answered.
        elif len(self._sessions) < MOST_SESSIONS and 1 <= message.capacity <= self._layers.context:
            self._sessions[message.session] = self._layers.open(message.capacity)

    def _forward(self, message: Forward) -> Result | Failure:
        session, width = self._sessions.get(message.session), self._assign.width
        end = message.position + message.tokens
        if session is None:
            return self._failure(message, Code.UNKNOWN_SESSION, "it is not open here")
        if message.width != width:
            return self._failure(message, Code.FAILED, f"hidden states are {message.width} wide, not {width}")
        if session.length != message.position:
            what = f"position {message.position} after {session.length} tokens"
            return self._failure(message, Code.OUT_OF_ORDER, what)
        if end > session.capacity:
            return self._failure(message, Code.FULL, f"{end} tokens, with room for {session.capacity}")
        try:
            out = session.forward(message.values.astype(np.float32)).astype(NUMBERS[self._assign.dtype])
        except (RuntimeError, MemoryError) as error:
            return self._failure(message, Code.FAILED, str(error))
        return Result(message.request, message.session, message.position, out)

    def _failure(self, message: Forward, code: Code, reason: str) -> Failure:
        """The session has ended."""
        self._sessions.pop(message.session, None)
        return Failure(code, reason, message.request, message.session)

    def _send(self, message: Message) -> None:
        with contextlib.suppress(PeerError):  # whoever reads hears of it too
            self._channel.send(message, Deadline(self._silence_s))


def assignment(decoder: Decoder, model: str, context: int, dtype: str = "fp32") -> Assign:
    """What the cluster says to a tablet that computes these layers with torch."""
    shape = decoder.shape
    return Assign.model_validate(
        {
            "model": model,
            "layers": str(decoder.range),
            "width": shape.width,
            "out_width": shape.vocab_size if decoder.range.last else shape.width,
            "last": decoder.range.last,
            "context": context,
            "dtype": dtype,
            "packages": {FORMAT: torch_hash(decoder)},
        }
    )
