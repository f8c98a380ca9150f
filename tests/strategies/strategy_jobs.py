"""What the pool's processes run, on the small models and batches of strategy_models.py."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from strategy_models import LENGTH, VOCAB, ChainLM, TinyLM, model_of, samples_of, shares_of
from torch.nn.functional import cross_entropy, linear

from smolcluster.comm.link import Link
from smolcluster.plan import buckets
from smolcluster.plan.types import MemoryEstimate, Plan, RankPlan
from smolcluster.runtime.context import Alone, RunContext
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.run import (
    CommSpec,
    DataSpec,
    GPTSpec,
    Participant,
    RunSpec,
    ScheduleSpec,
    TrainingSpec,
    WireFormat,
)
from smolcluster.strategies import replica, synchronous
from smolcluster.strategies.base import NotFiniteError, Strategy, build_strategy
from tests.live_bytes import LiveBytes


def context_of(
    strategy: str,
    rank: int,
    world_size: int,
    *,
    stage: int = 1,
    clip: float | None = 1.0,
    seed: int = 0,
    samples: int = 5,
    wire: WireFormat = "fp32",
    **training: Any,
) -> RunContext:
    spec = GPTSpec(model_dim=16, num_layers=2, num_heads=2, ff_dim=32, dropout=0, max_seq_len=LENGTH, vocab_size=VOCAB)
    run = RunSpec(
        strategy=strategy,
        participants=tuple(Participant(node=f"node{r}", port=0) for r in range(world_size)),
        model=spec,
        training=TrainingSpec(
            batch_size=2, epochs=1, learning_rate=1e-2, weight_decay=0.01, grad_clip_norm=clip, **training
        ),
        schedule=ScheduleSpec(warmup_iters=0, min_lr=0),
        data=DataSpec(dataset="pydoc", tokenizer="bpe:64"),
        comm=CommSpec(),
        seed=seed,
        fsdp_stage=stage,
        project_name="test",
    )
    ranks = tuple(
        RankPlan(
            rank=r, node=f"node{r}", local_rank=0, role="worker", device="cpu", listen=("127.0.0.1",), port=0,
            peers={p: "127.0.0.1" for p in range(world_size) if p != r}, samples=samples, buffer_mb=1, threads=1,
        )
        for r in range(world_size)
    )  # fmt: skip
    memory = tuple(MemoryEstimate(rank=r, params_bytes=0, grads_bytes=0, optimizer_bytes=0) for r in range(world_size))
    plan = Plan(
        cluster="test", run=run, world_size=world_size, transport="smol", shape="MESH", global_batch=2 * world_size,
        ranks=ranks, params=1, memory=memory, wire=wire,
    )  # fmt: skip
    nowhere = Path("nowhere")
    return RunContext("test", 0, plan, ranks[rank], torch.device("cpu"), RunFolder(nowhere), nowhere, Alone())


def steps_of(strategy: Strategy, shares: tuple[int, ...], rank: int, count: int, micro: int = 64) -> list[Any]:
    """Every second step's norms by parameter are asked for."""
    results = []
    for step in range(count):
        if step % 2 == 0:
            strategy.ask_layer_norms()
        results.append(strategy.train_step(shares_of(step, shares, rank, micro), 1e-2))
    return results


@contextlib.contextmanager
def buckets_of(size: int) -> Iterator[None]:
    """Replicas built meanwhile cut their parameters into buckets of so many bytes."""
    usual, buckets.BUCKET_BYTES = buckets.BUCKET_BYTES, size
    yield
    buckets.BUCKET_BYTES = usual


@contextlib.contextmanager
def collectives_through_the_cpu() -> Iterator[None]:
    """Strategies built meanwhile copy what travels, as on a device whose tensors cannot."""
    usual = synchronous.Collectives
    synchronous.Collectives = functools.partial(usual, staged=True)  # type: ignore[assignment,misc]
    yield
    synchronous.Collectives = usual  # type: ignore[misc]


def train(
    rank: int,
    world_size: int,
    name: str,
    stage: int,
    shares: tuple[int, ...],
    count: int,
    kind: str = "tiny",
    micro: int = 64,
    bucket: int = buckets.BUCKET_BYTES,
    staged: bool = False,
) -> dict[str, Any]:
    """Losses, norms and final parameters of a run. Ranks start from different weights: rank 0's must win."""
    model = model_of(kind, seed=5 + rank)
    with buckets_of(bucket), collectives_through_the_cpu() if staged else contextlib.nullcontext():
        strategy = build_strategy(context_of(name, rank, world_size, stage=stage), model)
    results = steps_of(strategy, shares, rank, count, micro)
    evaluated = strategy.eval_loss(*samples_of(99, 1 + rank))
    exported = strategy.export() or {}
    # A replica is looked at on every rank, what is sharded where it is exported to.
    whole = dict(model.named_parameters()) if isinstance(strategy, replica.Replica) else exported
    assert all(torch.equal(whole[key], value) for key, value in exported.items())
    strategy.close()
    return {
        "losses": [r.loss for r in results],
        "norms": [r.grad_norm for r in results],
        "layers": [r.layer_norms for r in results],
        "tokens": [r.tokens for r in results],
        "evaluated": evaluated,
        "state": {key: value.detach().clone() for key, value in whole.items()},
    }


def no_heartbeat(link: Link, every_s: float) -> None:
    """They leave by the clock: on a busy machine there would be one among the bytes now and then."""


@mock.patch.object(Link, "pulse", no_heartbeat)
def account(
    rank: int, world_size: int, name: str, stage: int, kind: str = "wide", micros: int = 1, wire: WireFormat = "fp32"
) -> dict[str, Any]:
    """Bytes sent per step and bytes of state held, of a rank, and the sizes of the model's parameters.

    `rows`: the bytes of looked up rows that travel apart, of a rank.
    """
    from strategy_pool import FABRICS

    model = model_of(kind, seed=0)
    sizes = {key: parameter.nbytes for key, parameter in model.named_parameters()}
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage, wire=wire), model)
    shares = (micros,) * world_size
    strategy.train_step(shares_of(0, shares, rank, 1), 1e-3)
    before = FABRICS[rank].counters()
    steps = 3
    for step in range(steps):
        strategy.train_step(shares_of(step, shares, rank, 1), 1e-3)
    after = FABRICS[rank].counters()
    lookups = strategy.lookups
    buckets = [bucket.stop - bucket.start for bucket in strategy.layout.buckets]
    rows = lookups._most_rows * (lookups._width + 1) * 4 if lookups is not None else 0
    strategy.close()
    return {
        "rows": rows,
        "buckets": buckets,
        "out": (after.bytes_out - before.bytes_out) / steps,
        "in": (after.bytes_in - before.bytes_in) / steps,
        "state": strategy.state_bytes(),
        "sizes": sizes,
    }


def slices_after(
    rank: int, world_size: int, name: str, stage: int, count: int, kind: str
) -> list[tuple[str, Any, Any, torch.Tensor]]:
    """What a rank owns after some steps."""
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage), model_of(kind, seed=5 + rank))
    steps_of(strategy, (2,) * world_size, rank, count)
    return [(s.name, s.shape, s.box, s.tensor.clone()) for s in strategy.named_slices()]


def resume(
    rank: int,
    world_size: int,
    name: str,
    stage: int,
    shares: tuple[int, ...],
    given: list[Any],
    first: int,
    count: int,
    kind: str,
) -> list[float]:
    """Losses of the steps first.. of a run that starts from somebody else's slices."""
    from smolcluster.runtime.slices import Slice

    strategy = build_strategy(context_of(name, rank, world_size, stage=stage), model_of(kind, seed=99))
    strategy.load_slices(Slice(*fields) for fields in given)
    results = [strategy.train_step(shares_of(s, shares, rank, 64), 1e-2) for s in range(first, first + count)]
    return [result.loss for result in results]


def drift(rank: int, world_size: int, name: str, stage: int) -> tuple[bool, list[str]]:
    """Make rank 1's replica wrong, compare; whether all are equal again, and what was logged."""
    import logging

    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("smolcluster.strategies.replica").addHandler(handler)
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage), TinyLM(seed=1))
    if rank == 1:
        strategy.flat.params[3] += 1e-6
    strategy.mend_drift()
    total = float(strategy.flat.params.double().sum())
    same = all(row == [total] for row in strategy.exchange([total]))
    strategy.mend_drift()
    return same, messages


def poisoned(rank: int, world_size: int, name: str, stage: int) -> str:
    """Rank 1's loss is not a number: what each rank says, and that nothing was updated."""
    model = TinyLM(seed=1)
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage), model)
    before = [piece.values.clone() for piece in strategy.params]
    plain = model.loss
    if rank == 1:
        model.loss = lambda x, y: plain(x, y) * float("nan")  # type: ignore[method-assign]
    try:
        strategy.train_step(shares_of(0, (2,) * world_size, rank, 64), 1e-2)
    except NotFiniteError as error:
        assert all(torch.equal(piece.values, old) for piece, old in zip(strategy.params, before, strict=True))
        return f"{error.rank}: {error}"
    return "no error"


def asked_to_stop(rank: int, world_size: int, name: str, stage: int) -> list[bool]:
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage), TinyLM(seed=1))
    shares = (2,) * world_size
    return [
        strategy.train_step(shares_of(step, shares, rank, 64), 1e-2, stop=rank == 1 and step == 1).stop
        for step in range(3)
    ]


def staged_sums(rank: int, world_size: int) -> tuple[list[float], list[float], list[float], list[float]]:
    """Every collective through CPU buffers, as on a device whose tensors cannot travel."""
    from smolcluster.runtime.device import Collectives

    ours = Collectives(rank, world_size, torch.device("cpu"), staged=True)
    reduced = torch.arange(4.0) + rank
    ours.all_reduce(reduced).wait()
    whole = torch.arange(2.0 * world_size) * (rank + 1)
    part = torch.zeros(2)
    ours.reduce_scatter(part, whole).wait()
    gathered = torch.zeros(2 * world_size)
    ours.all_gather(gathered, torch.full((2,), float(rank))).wait()
    sent = torch.full((3,), float(rank + 5))
    ours.broadcast(sent)
    return reduced.tolist(), part.tolist(), gathered.tolist(), sent.tolist()


def peaks(rank: int, world_size: int, stage: int) -> tuple[int, int]:
    """Bytes alive of tensors made by a strategy between steps, and at most in a step."""
    with LiveBytes() as live, buckets_of(100_000):
        strategy = build_strategy(context_of("fsdp", rank, world_size, stage=stage), model_of("deep gpt", 0))
        strategy.train_step(shares_of(0, (1,) * world_size, rank, 1), 1e-3)
        torch.zeros(())  # an operation: what was let go is counted out
        held = live.now
        live.peak = 0
        strategy.train_step(shares_of(1, (1,) * world_size, rank, 1), 1e-3)
    strategy.close()
    return held, live.peak


def dies_in_a_block(rank: int, world_size: int, victim: int) -> None:
    """A rank is killed in the backward of its second step, between two collectives."""
    import os
    import signal

    model = model_of("wide gpt", 0)
    strategy = build_strategy(context_of("fsdp", rank, world_size, stage=3), model)
    strategy.train_step(shares_of(0, (1,) * world_size, rank, 1), 1e-3)
    if rank == victim:
        block = model.transformer.h[1]
        block.register_full_backward_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    strategy.train_step(shares_of(1, (1,) * world_size, rank, 1), 1e-3)


def broken_units(rank: int, world_size: int, how: str) -> str:
    """A model whose units are not as it says: what comes of it."""

    class Broken(ChainLM):
        def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            hidden = self.embed(x)
            if how == "backward reads the embedding":
                hidden = hidden @ self.embed.weight.T @ self.embed.weight
            hidden = self.layers[0](hidden)
            if how == "forward reads a weight that is not there":
                hidden = hidden + self.norm.weight.detach()
            if how == "a gradient comes late":
                hidden = hidden + self.norm.weight
            hidden = self.layers[1](hidden)
            return cross_entropy(linear(self.norm(hidden), self.embed.weight).mT, y)

    strategy = build_strategy(context_of("fsdp", rank, world_size, stage=3), Broken(0))
    try:
        strategy.train_step(shares_of(0, (2,) * world_size, rank, 64), 1e-3)
    except (RuntimeError, NotFiniteError) as error:
        return str(error)
    return "no error"
