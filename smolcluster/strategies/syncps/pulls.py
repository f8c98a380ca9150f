"""The server's weights on their way to workers.

float32 travels whole. Every other format carries the **change**: the server keeps what each worker has been told (its
shadow, as long as the model), encodes how far its weights are from that, and both ends add what that decodes to. What a
frame did not hold is still missing in the next one's difference: error feedback without a residual. Who joins is told
all in float32; a link that breaks is joined anew, so a shadow and what its worker has never differ.

A worker's pull is w <- alpha x server + (1 - alpha) x w (Polyak's average of what it has seen); its first one is the
server's weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from smolcluster.comm.codec import codec_of
from smolcluster.errors import ProtocolError
from smolcluster.spec.run import WireFormat


def bytes_of(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """A copy of the tensors one after the other, as a 1-D uint8 tensor on the CPU."""
    parts = [tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    return torch.cat(parts)


def fill_from(tensors: Iterable[torch.Tensor], body: torch.Tensor) -> None:
    """The other way round. ProtocolError if it is not as long as they are."""
    at = 0
    for tensor in tensors:
        part = body[at : at + tensor.nbytes]
        if part.numel() != tensor.nbytes:
            break
        # A copy: a part need not begin where its dtype may.
        tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))
        at += tensor.nbytes
    if at != body.numel() or at != sum(tensor.nbytes for tensor in tensors):
        raise ProtocolError(f"weights of {body.numel()} bytes are not those of this model")


class Shipping:
    """The server's end. `params`: its weights, 1-D float32; `rest`: what is not trained."""

    def __init__(self, params: torch.Tensor, rest: Sequence[torch.Tensor], wire: WireFormat) -> None:
        self._params = params
        self._rest = list(rest)
        self._wire = wire
        self._codec = codec_of(wire)
        self._shadows: dict[int, torch.Tensor] = {}
        self._copy: torch.Tensor | None = None

    def changed(self) -> None:
        """The weights are others now. Letters under way keep the bytes that they were made with."""
        self._copy = None

    def whole(self, worker: int) -> torch.Tensor:
        """All of it, for one who joins."""
        if self._wire != "fp32":
            self._shadows[worker] = self._params.clone()
        return bytes_of([self._params, *self._rest])

    def newer(self, worker: int) -> torch.Tensor:
        """The weights as they are now, for one who has had them before."""
        if self._wire == "fp32":
            if self._copy is None:  # one for all who take this version
                self._copy = bytes_of([self._params])
            return self._copy
        shadow = self._shadows[worker]
        frame = torch.empty(self._codec.frame_bytes(shadow.numel()), dtype=torch.uint8, device=shadow.device)
        self._codec.encode(self._params - shadow, frame)
        self._codec.add(frame, shadow)
        return frame.to("cpu")

    def forget(self, worker: int) -> None:
        """It is gone."""
        self._shadows.pop(worker, None)

    def memory(self) -> list[torch.Tensor]:
        """What is kept for the workers."""
        return list(self._shadows.values())


class Weights:
    """The worker's end. `params`: what it computes with."""

    def __init__(self, params: torch.Tensor, rest: Sequence[torch.Tensor], wire: WireFormat, alpha: float) -> None:
        self._params = params
        self._rest = list(rest)
        self._wire = wire
        self._codec = codec_of(wire)
        self._alpha = alpha
        # What the server believes is here. With alpha 1 that is what is computed with.
        self._told = params if alpha == 1 or wire == "fp32" else params.clone()

    def take_whole(self, body: torch.Tensor) -> None:
        """The first pull: the server's weights, whatever was here."""
        fill_from([self._params, *self._rest], body)
        if self._told is not self._params:
            self._told.copy_(self._params)

    def take_newer(self, body: torch.Tensor) -> None:
        """A later one. ProtocolError if its length is another model's."""
        if self._wire == "fp32":
            newer = torch.empty_like(self._params)
            fill_from([newer], body)
            self._mix(newer)
            return
        if body.numel() != self._codec.frame_bytes(self._told.numel()):
            raise ProtocolError(f"a change of weights of {body.numel()} bytes is not of this model")
        self._codec.add(body.to(self._told.device), self._told)
        if self._told is not self._params:
            self._mix(self._told)

    def _mix(self, newer: torch.Tensor) -> None:
        if self._alpha == 1:
            self._params.copy_(newer)
        else:
            self._params.lerp_(newer, self._alpha)

    def memory(self) -> list[torch.Tensor]:
        """What is kept for the wire format."""
        return [] if self._told is self._params else [self._told]
