"""How weights travel from the server to a worker: whole, or as the change since the last time, rounded.

In fp32 they are sent whole. In another wire format the server keeps a shadow per worker: what that worker has. It sends
q(W - shadow) and adds what that decodes to to the shadow, as the worker does to its own copy: both stay the same to the
bit, and what the rounding left out is in the next difference (error feedback). A shadow costs the server as much memory
as the parameters. Who joins gets all of W, untrained parameters and buffers too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smolcluster.comm.codec import Codec, codec_of
from smolcluster.comm.letter import Letter
from smolcluster.errors import ProtocolError
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.star.messages import Weights


class Outgoing:
    """The server's side: `params` is the live line of all trained parameters, `rest` what is not trained."""

    def __init__(self, params: Tensor, rest: Sequence[Tensor], wire: WireFormat) -> None:
        self._params = params
        self._rest = tuple(rest)
        self._codec: Codec | None = codec_of(wire) if wire != "fp32" else None
        self._shadows: dict[int, Tensor] = {}
        self._scratch = torch.empty_like(params) if self._codec is not None else None
        self._whole: tuple[int, Tensor] | None = None

    def full(self, member: int, version: int) -> tuple[Weights, Tensor]:
        """All of the weights, for a member that has none yet. The same bytes for all who ask at one version."""
        if self._codec is not None:
            shadow = self._shadows.setdefault(member, torch.empty_like(self._params))
            shadow.copy_(self._params)
        if self._whole is None or self._whole[0] != version:
            parts = [self._params, *self._rest]
            self._whole = (version, torch.cat([_bytes_of(part) for part in parts]))
        return "full", self._whole[1]

    def pull(self, member: int, version: int) -> tuple[Weights, Tensor]:
        """What a member lacks that has had the full ones."""
        if self._codec is None or member not in self._shadows:
            return self.full(member, version)
        assert self._scratch is not None
        shadow = self._shadows[member]
        torch.sub(self._params, shadow, out=self._scratch)
        frame = torch.empty(self._codec.frame_bytes(shadow.numel()), dtype=torch.uint8, device=shadow.device)
        self._codec.encode(self._scratch, frame)
        self._codec.add(frame, shadow)
        return "change", frame.cpu()

    def forget(self, member: int) -> None:
        """It is gone, and gets the full ones when it comes again."""
        self._shadows.pop(member, None)

    def state_bytes(self) -> int:
        """What is kept beside the parameters."""
        kept = [*self._shadows.values(), *([self._scratch] if self._scratch is not None else [])]
        return sum(tensor.nbytes for tensor in kept)


class Incoming:
    """A worker's side. `base` is what the server thinks it has: what was pulled last."""

    def __init__(self, params: Tensor, rest: Sequence[Tensor], wire: WireFormat) -> None:
        self.base = torch.empty_like(params)
        self._rest = tuple(rest)
        self._codec = codec_of(wire)

    def take(self, letter: Letter) -> bool:
        """Bring `base` up to date with what an answer brings. Whether it brings any. ProtocolError if it cannot be."""
        weights = letter.say("weights", str)
        if weights == "":
            return False
        expected = _lengths(self.base, self._rest) if weights == "full" else [self._codec.frame_bytes(len(self.base))]
        if weights not in ("full", "change") or letter.body.numel() != sum(expected):
            raise ProtocolError(
                f"weights {weights[:20]!r} of {letter.body.numel()} bytes came; {sum(expected)} were due"
            )
        if weights == "change":
            self._codec.add(letter.body.to(self.base.device), self.base)
            return True
        for part, values in zip(torch.split(letter.body, expected), (self.base, *self._rest), strict=True):
            values.copy_(_as(part, values))
        return True


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)


def _as(part: Tensor, like: Tensor) -> Tensor:
    """Bytes as numbers of the type and shape of another tensor. Pieces begin anywhere, numbers do not: hence a copy."""
    return part.clone().view(like.dtype).view(like.shape)


def _lengths(params: Tensor, rest: Sequence[Tensor]) -> list[int]:
    return [tensor.nbytes for tensor in (params, *rest)]
