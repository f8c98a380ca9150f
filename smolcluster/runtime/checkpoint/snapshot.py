"""A rank's slices at one moment, copied into memory that is used again, laid out as the safetensors file they become.

The file is written from the copy as it lies, hashed on the way, while the training goes on: no second copy is made, as
safetensors' own save would. It is read with safetensors (load.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from smolcluster.runtime.checkpoint.files import CHUNK_BYTES
from smolcluster.runtime.checkpoint.manifest import Entry
from smolcluster.runtime.slices import Box, Slice

# https://github.com/huggingface/safetensors#format
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TORCH_DTYPES = {word: dtype for dtype, word in DTYPES.items()}
_ALIGN = 8


@dataclass(frozen=True)
class Snapshot:
    """`header` and then `body` (uint8, on the CPU) are the file; `entries` say what is in it."""

    entries: tuple[Entry, ...]
    header: bytes
    body: torch.Tensor

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The file from beginning to end."""
        yield self.header
        view = self.body.numpy().data
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]


class Camera:
    """Takes snapshots into one buffer: a snapshot is good until the next is taken."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def take(self, slices: Iterable[Slice]) -> Snapshot:
        """Copy them, from whatever device."""
        # The widest first: every tensor then begins on a multiple of its size, and safetensors allows no gaps.
        given = sorted(slices, key=lambda s: -s.tensor.element_size())
        size = sum(part.tensor.nbytes for part in given)
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=torch.uint8)
        body = self._buffer[:size]
        at, ends = 0, []
        for part in given:
            end = at + part.tensor.nbytes
            room = body[at:end].view(part.tensor.dtype).view(part.tensor.shape)
            room.copy_(part.tensor.detach())
            ends.append(end)
            at = end
        entries = tuple(entry_of(part) for part in given)
        return Snapshot(entries, _header(entries, ends), body)


def entry_of(part: Slice) -> Entry:
    """How a slice stands in the manifest."""
    key = part.name if part.box.sizes == part.shape else f"{part.name}[{_ranges(part.box)}]"
    return Entry(
        name=part.name,
        key=key,
        dtype=DTYPES[part.tensor.dtype],
        shape=part.shape,
        offset=part.box.offset,
        sizes=part.box.sizes,
    )


def _ranges(box: Box) -> str:
    return ",".join(f"{start}:{start + size}" for start, size in zip(box.offset, box.sizes, strict=True))


def _header(entries: Sequence[Entry], ends: Sequence[int]) -> bytes:
    starts = [0, *ends][: len(ends)]
    table = {
        entry.key: {"dtype": entry.dtype, "shape": list(entry.sizes), "data_offsets": [start, end]}
        for entry, start, end in zip(entries, starts, ends, strict=True)
    }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    return len(text).to_bytes(8, "little") + text
