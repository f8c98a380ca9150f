"""What the pool's processes run, and the small models and batches they run it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from smolcluster.plan.types import MemoryEstimate, Plan, RankPlan
from smolcluster.runtime.context import Alone, RunContext
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.run import CommSpec, DataSpec, GPTSpec, Participant, RunSpec, ScheduleSpec, TrainingSpec
from smolcluster.strategies.base import Strategy, build_strategy

VOCAB, LENGTH = 61, 8


def context_of(
    strategy: str, rank: int, world_size: int, *, stage: int = 1, clip: float | None = 1.0, seed: int = 0
) -> RunContext:
    spec = GPTSpec(model_dim=16, num_layers=2, num_heads=2, ff_dim=32, dropout=0, max_seq_len=LENGTH, vocab_size=VOCAB)
    run = RunSpec(
        strategy=strategy,
        participants=tuple(Participant(node=f"node{r}", port=0) for r in range(world_size)),
        model=spec,
        training=TrainingSpec(batch_size=2, epochs=1, learning_rate=1e-2, weight_decay=0.01, grad_clip_norm=clip),
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
            peers={p: "127.0.0.1" for p in range(world_size) if p != r}, samples=2, buffer_mb=1, threads=1,
        )
        for r in range(world_size)
    )  # fmt: skip
    memory = tuple(MemoryEstimate(rank=r, params_bytes=0, grads_bytes=0, optimizer_bytes=0) for r in range(world_size))
    plan = Plan(
        cluster="test", run=run, world_size=world_size, transport="smol", shape="MESH", global_batch=2 * world_size,
        ranks=ranks, params=1, memory=memory,
    )  # fmt: skip
    nowhere = Path("nowhere")
    return RunContext("test", 0, plan, ranks[rank], torch.device("cpu"), RunFolder(nowhere), nowhere, Alone())


class TinyLM(nn.Module):
    """Tied embeddings, a frozen parameter, a buffer, one parameter nobody uses and one that only some batches use."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(VOCAB, 24)
        self.unused = nn.Parameter(torch.randn(7))
        self.sometimes = nn.Parameter(torch.randn(24))
        self.frozen = nn.Parameter(torch.randn(24), requires_grad=False)
        self.register_buffer("offset", torch.randn(24))
        self.up = nn.Linear(24, 50)
        self.down = nn.Linear(50, 24)
        self.head = nn.Linear(24, VOCAB, bias=False)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(x) + self.frozen + self.offset
        marked = x[:, :1] == 0
        if bool(marked.any()):
            hidden = torch.where(marked[:, :, None], hidden * self.sometimes, hidden)
        return self.head(hidden + self.down(functional.gelu(self.up(hidden))))

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self(x).flatten(0, 1), y.flatten())


def samples_of(step: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(1, VOCAB, (count, LENGTH + 1), generator=generator)
    rows[0, 0] = 0  # one sample of each step takes the model's other way: only one rank sees it
    return rows[:, :-1], rows[:, 1:]


def shares_of(step: int, shares: tuple[int, ...], rank: int, micro: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x, y = samples_of(step, sum(shares))
    start = sum(shares[:rank])
    x, y = x[start : start + shares[rank]], y[start : start + shares[rank]]
    return list(zip(x.split(micro), y.split(micro), strict=True)) if len(x) else []


def steps_of(strategy: Strategy, shares: tuple[int, ...], rank: int, count: int, micro: int = 64) -> list[Any]:
    return [strategy.train_step(shares_of(s, shares, rank, micro), 1e-2) for s in range(count)]


def train(
    rank: int,
    world_size: int,
    name: str,
    stage: int,
    shares: tuple[int, ...],
    count: int,
    bucket: int = 0,
    micro: int = 64,
) -> dict[str, Any]:
    """Losses, norms and final parameters of a run. Ranks start from different weights: rank 0's must win."""
    context = context_of(name, rank, world_size, stage=stage)
    model = TinyLM(seed=5 + rank)
    if bucket:
        from smolcluster.strategies import replica

        replica.BUCKET_BYTES = bucket
    strategy = build_strategy(context, model)
    results = steps_of(strategy, shares, rank, count, micro)
    strategy.close()
    return {
        "losses": [r.loss for r in results],
        "norms": [r.grad_norm for r in results],
        "tokens": [r.tokens for r in results],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
    }


class WideLM(nn.Module):
    """A model of a quarter of a million parameters: big enough that headers do not count."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, 256)
        self.hidden = nn.Sequential(nn.Linear(256, 500), nn.GELU(), nn.Linear(500, 256))

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = functional.linear(self.hidden(self.embed(x)), self.embed.weight)
        return functional.cross_entropy(out.flatten(0, 1), y.flatten())


def account(rank: int, world_size: int, name: str, stage: int) -> dict[str, Any]:
    """Bytes sent per step and bytes of state held, of a rank."""
    from strategy_pool import FABRICS

    model = WideLM()
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage), model)
    strategy.train_step(shares_of(0, (2,) * world_size, rank, 64), 1e-3)
    before = FABRICS[rank].counters()
    steps = 3
    for step in range(steps):
        strategy.train_step(shares_of(step, (2,) * world_size, rank, 64), 1e-3)
    after = FABRICS[rank].counters()
    strategy.close()
    return {
        "out": (after.bytes_out - before.bytes_out) / steps,
        "in": (after.bytes_in - before.bytes_in) / steps,
        "state": strategy.state_bytes(),
        "params_bytes": sum(p.nbytes for p in model.parameters()),
    }


def slices_after(
    rank: int, world_size: int, name: str, stage: int, count: int
) -> list[tuple[str, Any, Any, torch.Tensor]]:
    """What a rank owns after some steps."""
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage), TinyLM(seed=5 + rank))
    steps_of(strategy, (2,) * world_size, rank, count)
    return [(s.name, s.shape, s.box, s.tensor.clone()) for s in strategy.named_slices()]


def resume(
    rank: int, world_size: int, name: str, stage: int, shares: tuple[int, ...], given: list[Any], first: int, count: int
) -> list[float]:
    """Losses of the steps first.. of a run that starts from somebody else's slices."""
    from smolcluster.strategies.slices import Slice

    strategy = build_strategy(context_of(name, rank, world_size, stage=stage), TinyLM(seed=99))
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
    from smolcluster.strategies.base import NotFiniteError

    model = TinyLM(seed=1)
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage), model)
    before = strategy.flat.params.clone()
    plain = model.loss
    if rank == 1:
        model.loss = lambda x, y: plain(x, y) * float("nan")  # type: ignore[method-assign]
    try:
        strategy.train_step(shares_of(0, (2,) * world_size, rank, 64), 1e-2)
    except NotFiniteError as error:
        assert torch.equal(before, strategy.flat.params)
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
