"""Wire formats: how float32 numbers look on a wire that is too slow for them. fp32, bf16, fp16, int8 in blocks.

int8: every BLOCK numbers share a float32 scale, their largest magnitude over 127, and each is rounded to the nearest
multiple of it (ties to even). A frame is the scales, then the numbers, then zeros up to a multiple of ALIGN bytes:
1.016 bytes a number. float16 scales would save 0.8 % of that, and could hold neither the gradients of a summed loss
(beyond 65504) nor those of a nearly trained weight (below 6e-8).

What is not finite is told, not hidden: a block that contains it (or the very largest float32, whose scale times 127 is
not) decodes to NaN altogether, so that every rank sees that the step was bad. A block too small for a scale of normal
size (its largest number below 1.5e-36) is sent as zeros. Decoding is one multiplication, rounded alike on every device:
ranks that decode the same frame hold the same bits.

It works in place, chunk by chunk, each of them small enough for a cache, with torch's own loops, on the device where
the numbers are. It knows nothing of links.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from smolcluster.spec.run import WireFormat

BLOCK = 256
LEVELS = 127
ALIGN = 4
# float32 numbers that are worked on at once: with what belongs to them still in a core's own cache.
CHUNK = 256 * BLOCK
_SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


class Codec(Protocol):
    """Between 1-D float32 tensors and frames: 1-D uint8 tensors of `frame_bytes(count)` bytes, on the same device.

    One thread at a time. The frame of no numbers is empty.
    """

    def frame_bytes(self, count: int) -> int:
        """How long the frame of so many numbers is."""
        ...

    def encode(self, values: Tensor, frame: Tensor) -> None:
        """Write the numbers into the frame."""
        ...

    def decode(self, frame: Tensor, out: Tensor) -> None:
        """Read the numbers of the frame into `out`."""
        ...

    def add(self, frame: Tensor, out: Tensor) -> None:
        """Add the numbers of the frame to `out`."""
        ...

    def seal(self, values: Tensor, residual: Tensor, frame: Tensor) -> None:
        """Encode values + residual; what the frame does not hold of the sum becomes the residual.

        The residual of what is not finite is 0: nothing of a bad step goes on into the next.
        """
        ...


def codec_of(wire: WireFormat) -> Codec:
    """The codec of a format, with memory of its own."""
    match wire:
        case "int8":
            return Int8Blocks()
        case "bf16":
            return Cast(torch.bfloat16)
        case "fp16":
            return Cast(torch.float16)
        case "fp32":
            return Cast(torch.float32)


class Cast:
    """Numbers as another type of floating point, each rounded to nearest by itself."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._scratch = _Scratch()

    def frame_bytes(self, count: int) -> int:
        """The numbers alone, up to a multiple of ALIGN."""
        return -(-count * self._dtype.itemsize // ALIGN) * ALIGN

    def encode(self, values: Tensor, frame: Tensor) -> None:
        """See Codec."""
        self._numbers(frame, values.numel()).copy_(values)
        frame[values.numel() * self._dtype.itemsize :].zero_()

    def decode(self, frame: Tensor, out: Tensor) -> None:
        """See Codec."""
        out.copy_(self._numbers(frame, out.numel()))

    def add(self, frame: Tensor, out: Tensor) -> None:
        """See Codec."""
        numbers = self._numbers(frame, out.numel())
        for at, stop in _chunks(out.numel()):
            # torch adds two dtypes far slower than it converts the one and adds.
            out[at:stop].add_(self._scratch.like(out[at:stop]).copy_(numbers[at:stop]))

    def seal(self, values: Tensor, residual: Tensor, frame: Tensor) -> None:
        """See Codec."""
        numbers = self._numbers(frame, values.numel())
        for at, stop in _chunks(values.numel()):
            wanted, sent = residual[at:stop].add_(values[at:stop]), numbers[at:stop]
            sent.copy_(wanted)
            wanted.sub_(self._scratch.like(wanted).copy_(sent))
        residual.nan_to_num_(0.0, 0.0, 0.0)
        frame[values.numel() * self._dtype.itemsize :].zero_()

    def _numbers(self, frame: Tensor, count: int) -> Tensor:
        return frame[: count * self._dtype.itemsize].view(self._dtype)


class Int8Blocks:
    """int8 with a float32 scale for every BLOCK numbers; the last block may be shorter."""

    def __init__(self) -> None:
        self._scratch = _Scratch()

    def frame_bytes(self, count: int) -> int:
        """Scales and numbers, up to a multiple of ALIGN."""
        return -(-count // BLOCK) * 4 + -(-count // ALIGN) * ALIGN

    def encode(self, values: Tensor, frame: Tensor) -> None:
        """See Codec."""
        scales, numbers = self._parts(frame, values.numel())
        for blocks, at, stop, width in _rows(values.numel()):
            self._round(values[at:stop].view(-1, width), scales[blocks], numbers[at:stop])
        self._tell_bad(scales, numbers)

    def decode(self, frame: Tensor, out: Tensor) -> None:
        """See Codec."""
        scales, numbers = self._parts(frame, out.numel())
        for blocks, at, stop, width in _rows(out.numel()):
            rows = out[at:stop].view(-1, width)
            torch.mul(numbers[at:stop].view(-1, width), scales[blocks].unsqueeze(1), out=rows)

    def add(self, frame: Tensor, out: Tensor) -> None:
        """See Codec."""
        scales, numbers = self._parts(frame, out.numel())
        for blocks, at, stop, width in _rows(out.numel()):
            rows = out[at:stop].view(-1, width)
            # Not addcmul: it may skip the rounding of the product, and devices would differ.
            decoded = self._scratch.like(rows)
            torch.mul(numbers[at:stop].view(-1, width), scales[blocks].unsqueeze(1), out=decoded)
            rows.add_(decoded)

    def seal(self, values: Tensor, residual: Tensor, frame: Tensor) -> None:
        """See Codec."""
        scales, numbers = self._parts(frame, values.numel())
        for blocks, at, stop, width in _rows(values.numel()):
            wanted = residual[at:stop].add_(values[at:stop]).view(-1, width)
            rounded = self._round(wanted, scales[blocks], numbers[at:stop])
            wanted.sub_(rounded.mul_(scales[blocks].unsqueeze(1)))
        bad = self._tell_bad(scales, numbers)
        if bad is not None:
            residual.masked_fill_(bad, 0.0)

    def _round(self, rows: Tensor, scales: Tensor, numbers: Tensor) -> Tensor:
        """Scales and int8 numbers of whole rows; the numbers once more as floats, in scratch memory."""
        scratch = self._scratch.like(rows)
        torch.amax(torch.abs(rows, out=scratch), 1, out=scales)
        scales.div_(LEVELS)
        scales.mul_(scales >= _SMALLEST_NORMAL)  # what is NaN or infinite stays not finite
        torch.mul(rows, scales.reciprocal().nan_to_num_(0.0, 0.0).unsqueeze(1), out=scratch)
        numbers.view(rows.shape).copy_(scratch.round_())
        return scratch

    @staticmethod
    def _tell_bad(scales: Tensor, numbers: Tensor) -> Tensor | None:
        """Give blocks with something that is not finite a scale of NaN, and zeros: the same bytes on every device.

        Which numbers are in such blocks; None if none is.
        """
        bad = ~(scales * LEVELS).isfinite()
        if not bad.any():
            return None
        scales[bad] = torch.nan
        members = bad.repeat_interleave(BLOCK)[: numbers.numel()]
        numbers.masked_fill_(members, 0)
        return members

    @staticmethod
    def _parts(frame: Tensor, count: int) -> tuple[Tensor, Tensor]:
        head = -(-count // BLOCK) * 4
        frame[head + count :].zero_()
        return frame[:head].view(torch.float32), frame[head : head + count].view(torch.int8)


class _Scratch:
    """Memory for one chunk, kept."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def like(self, part: Tensor) -> Tensor:
        """Room of that shape, on that device."""
        if self._memory.device != part.device or self._memory.numel() < part.numel():
            self._memory = torch.empty(max(CHUNK, part.numel()), device=part.device)
        return self._memory[: part.numel()].view(part.shape)


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    for at in range(0, count, CHUNK):
        yield at, min(at + CHUNK, count)


def _rows(count: int) -> Iterator[tuple[slice, int, int, int]]:
    """Chunks of whole blocks, then the shorter block if there is one: (its scales, start, stop, width of a row)."""
    whole = count // BLOCK * BLOCK
    for at, stop in _chunks(whole):
        yield slice(at // BLOCK, stop // BLOCK), at, stop, BLOCK
    if whole < count:
        yield slice(whole // BLOCK, whole // BLOCK + 1), whole, count, count - whole
