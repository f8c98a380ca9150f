"""The slices of a checkpoint that a rank needs: read from files it sees, or received from a rank that sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from smolcluster.runtime.checkpoint.manifest import Manifest
from smolcluster.runtime.checkpoint.snapshot import TORCH_DTYPES
from smolcluster.runtime.checkpoint.talk import send_tensor
from smolcluster.runtime.slices import Box, Slice

Entries = dict[int, list[int]]  # by file of a manifest, numbers of its entries


@dataclass(frozen=True)
class Schedule:
    """How a rank comes by what it needs: `read` from files it sees, `lacking` of files it does not.

    `sent` is the same everywhere: by file the rank that sends, and the entries it sends to all.
    """

    read: Entries
    lacking: Entries
    sent: dict[int, tuple[int, list[int]]]

    def files_of(self, rank: int) -> list[int]:
        """The files that this rank reads from."""
        return sorted({*self.read, *(file for file, (sender, _) in self.sent.items() if sender == rank)})


def slices_of(manifest: Manifest, schedule: Schedule, rank: int, path_of: Callable[[int], Path]) -> Iterator[Slice]:
    """What this rank needs, one slice at a time. All ranks must take all of theirs: some travel between them."""
    mine = set(schedule.files_of(rank))
    for number, file in enumerate(manifest.files):
        sender, sent = schedule.sent.get(number, (-1, []))
        needed = {*schedule.read.get(number, ()), *schedule.lacking.get(number, ())}
        with ExitStack() as stack:
            reader = stack.enter_context(safe_open(path_of(number), "pt")) if number in mine else None
            for index in sorted({*needed, *sent}):
                entry = file.entries[index]
                if reader is not None and (rank == sender or index in needed):
                    tensor = reader.get_tensor(entry.key)
                else:
                    tensor = torch.empty(entry.sizes, dtype=TORCH_DTYPES[entry.dtype])
                if index in sent:
                    send_tensor(tensor, sender)
                if index in needed:
                    yield Slice(entry.name, entry.shape, Box(entry.offset, entry.sizes), tensor)
