"""The loss of a small model after the same tokens, for each of benchmarks.entrants: what a method's bytes cost.

It reads bytes of the language reference inside Python, over loopback: speeds do not matter here.

What averages seldom needs rounds before it comes into its own: after 20 of them (400 steps) diloco with its defaults is
well behind whoever averages every step, after 80 within a few parts in a hundred.

At a rate that does not fall the loss of the last step alone is a draw: it moves by about a hundredth from step to step,
which is all that int8 may cost. So it is the mean over the last steps, EVERY apart, where diloco's rounds end.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.entrants import DILOCO_EVERY, READ_SAMPLES, TEAMS, Contestant, entrants_of
from benchmarks.ranks import Team, Transport
from smolcluster.spec.run import GPTSpec

# Learns in seconds. Its tokens are bytes of text.
READER = GPTSpec(
    model_dim=64, num_layers=2, num_heads=2, ff_dim=256, dropout=0, max_seq_len=32, tie_embeddings=True, vocab_size=256
)  # fmt: skip
RATES = (1e-3, 2e-3, 3e-3)
# The loss is the mean after each of these last steps of a run: diloco's rounds are as long.
EVERY, LAST = DILOCO_EVERY, 10


def readers(
    rank: int, world_size: int, _: Any, transport: Transport, names: Sequence[str], steps: int
) -> dict[str, Callable[[], Any]]:
    """For each contestant and learning rate: train the small model, give its loss on text it has not read."""
    tasks: dict[str, Callable[[], Any]] = {}
    for contestant in entrants_of(transport, names):
        for rate in RATES:
            tasks[f"{contestant.name} {rate}"] = partial(_read, contestant, rate, steps, rank, world_size)
    return tasks


def _read(contestant: Contestant, rate: float, steps: int, rank: int, world_size: int) -> float:
    from pydoc_data.topics import topics

    text = torch.frombuffer(bytearray("\n".join(topics.values()).encode()), dtype=torch.uint8).long()
    held_out, kept = text[: len(text) // 20], text[len(text) // 20 :]
    unread = _pairs(_rows(held_out, torch.Generator().manual_seed(2), 512))
    model, step = (contestant.learner or contestant.build)(rank, world_size, READER, rate)
    chance = torch.Generator().manual_seed(1)
    found = []
    for left in reversed(range(steps)):
        rows = _rows(kept, chance, world_size * READ_SAMPLES)
        # Each rank its own part of the same batch.
        step(*_pairs(rows[rank::world_size]))
        if left % EVERY == 0 and left < EVERY * LAST:
            found.append(_loss(model, unread))
    return statistics.fmean(found)


def _loss(model: torch.nn.Module, unread: tuple[torch.Tensor, torch.Tensor]) -> float:
    model.eval()
    with torch.no_grad():
        found = float(model.loss(*unread))  # type: ignore[operator]
    model.train()
    return found


def _rows(text: torch.Tensor, chance: torch.Generator, count: int) -> torch.Tensor:
    length = READER.max_seq_len + 1
    starts = torch.randint(0, len(text) - length, (count,), generator=chance)
    return torch.stack([text[start : start + length] for start in starts.tolist()])


def _pairs(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def losses(names: Sequence[str], ranks: int, steps: int) -> dict[str, dict[float, float]]:
    """By contestant and learning rate, the loss of rank 0's model after the same tokens."""
    found: dict[str, dict[float, float]] = {}
    for transport in TEAMS:
        mine = [each.name for each in entrants_of(transport, names)]
        if not mine:
            continue
        setup = partial(readers, transport=transport, names=mine, steps=steps)
        with Team(ranks, transport, setup, keep_memory=False) as team:
            for name in mine:
                found[name] = {rate: team.do(f"{name} {rate}")[0].value for rate in RATES}
    print("  losses", file=sys.stderr, flush=True)
    return found
