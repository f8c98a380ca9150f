"""A tablet in Python: the other end of the protocol, over a torch stage. Tests use it, and who writes an app reads it.

One thread reads and answers signs of life, another computes, so that a long prompt is no silence. Caches belong to the
connection: they end with it, and so does everything when nothing is heard of the cluster for `silence_s`.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from smolcluster.comm.clock import Deadline
from smolcluster.errors import HandshakeError, PeerError, ProtocolError
from smolcluster.models.cache import KVCache
from smolcluster.models.decoder import Decoder, Row
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.manifest import fingerprint
from smolcluster.tablet.messages import (
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

FORMAT = "torch"
MOST_SESSIONS = 64
_KINDS = {"fp32": np.float32, "fp16": np.float16}


class ReferenceTablet:
    """Layers of `decoder`, under the hash `hash_of` its weights unless another is said. `serve` one connection."""

    def __init__(
        self, decoder: Decoder, context: int, device: str = "Python", stage_hash: str = "", silence_s: float = 10.0
    ) -> None:
        self.hash = stage_hash or torch_hash(decoder)
        self._decoder = decoder
        self._context = context
        self._device = device
        self._silence_s = silence_s

    def serve(self, channel: Channel) -> None:
        """Compute until the other end goes, which is a PeerError: PeerLostError, or DeadlineError if it went silent."""
        sessions: dict[int, KVCache] = {}
        with ThreadPoolExecutor(1, "smol-reference") as worker:
            try:
                assign = self._assigned(channel)
                while True:
                    message = channel.receive(self._silence())
                    if isinstance(message, Ping):
                        channel.send(Pong(message.number), self._silence())
                    elif isinstance(message, (Open, Forward, Forget)):
                        # In order, and after what came before them.
                        worker.submit(self._handle, channel, sessions, assign, message)
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
        mine = str(self._decoder.range)
        if assign.layers != mine or assign.packages.get(FORMAT) != self.hash:
            wanted = ", ".join(f"{name} {one[:12]}" for name, one in sorted(assign.packages.items()))
            raise HandshakeError(
                f"this tablet has layers {mine} as {FORMAT} {self.hash[:12]}, and not {assign.layers} as {wanted}"
            )
        channel.send(Ready(device=self._device, format=FORMAT, hash=self.hash, layers=mine), self._silence())
        return assign

    def _handle(
        self, channel: Channel, sessions: dict[int, KVCache], assign: Assign, message: Open | Forward | Forget
    ) -> None:
        with contextlib.suppress(PeerError):  # whoever reads hears of it too
            answer = self._answer(sessions, assign, message)
            if answer is not None:
                channel.send(answer, self._silence())

    def _answer(self, sessions: dict[int, KVCache], assign: Assign, message: Open | Forward | Forget) -> Message | None:
        number = message.session
        if isinstance(message, Forget):
            sessions.pop(number, None)
            return None
        if isinstance(message, Open):
            # A session that has no room is unknown to its first FORWARD, which is answered.
            if len(sessions) < MOST_SESSIONS and 1 <= message.capacity <= self._context:
                sessions[number] = self._decoder.new_cache(message.capacity)
            return None
        cache, count = sessions.get(number), len(message.values)
        code, reason = Code.OUT_OF_ORDER, ""
        if cache is None:
            code, reason = Code.UNKNOWN_SESSION, "it is not open here"
        elif message.values.shape[1] != assign.width:
            code, reason = Code.FAILED, f"hidden states are {message.values.shape[1]} wide, not {assign.width}"
        elif cache.length != message.position:
            reason = f"position {message.position} after {cache.length} tokens"
        elif message.position + count > cache.layers[0].capacity:
            code, reason = Code.FULL, f"{message.position + count} tokens, with room for {cache.layers[0].capacity}"
        if cache is None or reason:
            sessions.pop(number, None)
            return Failure(code, reason, message.request, number)
        hidden = torch.from_numpy(message.values.astype(np.float32))
        try:
            out = self._decoder(hidden, [Row(cache, count, True)]).numpy().astype(_KINDS[assign.dtype])
        except (RuntimeError, MemoryError) as error:
            sessions.pop(number, None)
            return Failure(Code.FAILED, str(error), message.request, number)
        return Result(message.request, number, message.position, out)

    def _silence(self) -> Deadline:
        return Deadline(self._silence_s)


def torch_hash(decoder: Decoder) -> str:
    """What a torch stage goes by: its weights and layers."""
    return fingerprint(decoder, {"format": FORMAT, "layers": str(decoder.range)})


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
