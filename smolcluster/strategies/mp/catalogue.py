"""Which parameters every stage holds: told once, as JSON, so that rank 0 can send and collect them by name."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
import torch.distributed as dist

from smolcluster.runtime.device import Collectives

Shapes = dict[str, tuple[int, ...]]


def tell_shapes(mine: Mapping[str, tuple[int, ...]], collectives: Collectives) -> list[Shapes]:
    """Every rank's parameters with their shapes, in rank order. All ranks must call it."""
    if collectives.world_size == 1:
        return [dict(mine)]
    text = torch.frombuffer(bytearray(json.dumps({k: list(v) for k, v in mine.items()}).encode()), dtype=torch.uint8)
    lengths = [int(row[0]) for row in collectives.exchange([len(text)])]
    room = torch.zeros(max(lengths), dtype=torch.uint8)
    room[: len(text)] = text
    everybody = torch.empty(collectives.world_size * len(room), dtype=torch.uint8)
    dist.all_gather_single(everybody, room)
    told = []
    for row, length in zip(everybody.view(collectives.world_size, -1), lengths, strict=True):
        said = json.loads(row[:length].numpy().tobytes())
        told.append({str(name): tuple(int(size) for size in shape) for name, shape in said.items()})
    return told
