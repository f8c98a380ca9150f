"""Texts and tensors between all ranks of a run, on the thread that trains, before it does."""

from __future__ import annotations

import torch
import torch.distributed as dist


def gather(text: str, world_size: int) -> list[str]:
    """Every rank's text, in rank order. All ranks call it."""
    if world_size == 1:
        return [text]
    mine = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
    lengths = torch.empty(world_size, dtype=torch.int64)
    dist.all_gather_single(lengths, torch.tensor([mine.numel()], dtype=torch.int64))
    longest = int(lengths.max())
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: mine.numel()] = mine
    table = torch.empty(world_size * longest, dtype=torch.uint8)
    dist.all_gather_single(table, padded)
    rows = table.view(world_size, longest)
    return [bytes(row[:length].numpy()).decode() for row, length in zip(rows, lengths.tolist(), strict=True)]


def send_text(text: str | None, source: int, rank: int, world_size: int) -> str:
    """The text of rank `source`, everywhere. The others give None."""
    if world_size == 1:
        assert text is not None
        return text
    data = bytearray((text or "").encode()) if rank == source else bytearray()
    length = torch.tensor([len(data)], dtype=torch.int64)
    dist.broadcast(length, source)
    room = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(room, source)
    return bytes(room.numpy()).decode()


def send_tensor(tensor: torch.Tensor, source: int) -> None:
    """A CPU tensor of rank `source`, in place everywhere else; any dtype, as bytes."""
    dist.broadcast(tensor.view(-1).view(torch.uint8), source)
