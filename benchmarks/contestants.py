"""The same step, ours and torch's own, over gloo and smol: one model, one batch, AdamW, gradients clipped at norm 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from smolcluster.models import build_model
from smolcluster.plan.types import Plan, RankPlan
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
from smolcluster.strategies.base import build_strategy
from smolcluster.strategies.synchronous import Synchronous

LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 6e-4, 0.01, 1.0
# gpt_config.yaml with GPT-2's own vocabulary, tied; dropout 0, so that all contestants compute the same.
GPT = GPTSpec(
    model_dim=256, num_layers=6, num_heads=4, ff_dim=1024, dropout=0, max_seq_len=128, tie_embeddings=True,
    vocab_size=50257,
)  # fmt: skip

Step = Callable[[torch.Tensor, torch.Tensor], None]


def ours(
    strategy: str,
    stage: int,
    rank: int,
    world_size: int,
    spec: GPTSpec = GPT,
    wire: WireFormat = "fp32",
    rate: float = LEARNING_RATE,
    **settings: Any,
) -> tuple[Synchronous, Step]:
    """A strategy of ours over the default group, and a step of it. `settings` are RunSpec's."""
    context = context_of(strategy, stage, rank, world_size, spec, wire, **settings)
    built = build_strategy(context, build_model(spec, None, seed=0))
    assert isinstance(built, Synchronous)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        built.train_step([(x, y)], rate)  # type: ignore[attr-defined]

    return built, step


class _Loss(nn.Module):
    """DDP wants the loss to be what forward gives."""

    def __init__(self, spec: GPTSpec = GPT) -> None:
        super().__init__()
        self.model = build_model(spec, None, seed=0)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.model.loss(x, y)


def _step_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        module(x, y).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
        optimizer.step()

    return step


def torchs(zero: bool, fused: bool) -> Step:
    """DistributedDataParallel, with ZeroRedundancyOptimizer where `zero`; `fused` takes AdamW's one-pass kernel."""
    module = DistributedDataParallel(_Loss())
    settings = {"lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "fused": fused or None}
    optimizer: torch.optim.Optimizer
    if zero:
        optimizer = ZeroRedundancyOptimizer(module.parameters(), optimizer_class=torch.optim.AdamW, **settings)
    else:
        optimizer = torch.optim.AdamW(module.parameters(), **settings)

    return _step_of(module, optimizer)


def ddp(spec: GPTSpec, rate: float, half: bool) -> tuple[nn.Module, Step]:
    """DistributedDataParallel and AdamW, and the model that it trains; `half` sends gradients as float16."""
    module = _Loss(spec)
    parallel = DistributedDataParallel(module)
    if half:
        parallel.register_comm_hook(None, fp16_compress_hook)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    return module.model, _step_of(parallel, optimizer)


def fsdp2(reshard: bool, fused: bool, spec: GPTSpec = GPT) -> Step:
    """FSDP2: a unit for each block and one for the rest. `reshard`: blocks are freed after their forward (ZeRO-3)."""
    module = _Loss(spec)
    for block in module.model.transformer.h:
        fully_shard(block, reshard_after_forward=reshard)
    fully_shard(module, reshard_after_forward=reshard)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused or None)

    return _step_of(module, optimizer)


def batch_of(
    rank: int, samples: int, length: int = GPT.max_seq_len, spec: GPTSpec = GPT
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens: what they are does not change what a step costs."""
    generator = torch.Generator().manual_seed(rank)
    rows = torch.randint(0, spec.vocab_size, (samples, length + 1), generator=generator)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def context_of(
    strategy: str,
    stage: int,
    rank: int,
    world_size: int,
    spec: GPTSpec,
    wire: WireFormat = "fp32",
    samples: int = 4,
    **settings: object,
) -> RunContext:
    """The context of a rank that takes so many samples a step, as the worker would make it from a plan. `settings` are
    RunSpec's.
    """
    run = RunSpec(
        strategy="classicdp",
        participants=tuple(Participant(node=f"node{r}", port=0) for r in range(world_size)),
        model=spec,
        training=TrainingSpec(
            batch_size=samples,
            epochs=1,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            grad_clip_norm=CLIP_NORM,
        ),
        schedule=ScheduleSpec(warmup_iters=0, min_lr=0),
        data=DataSpec(dataset="pydoc", tokenizer="bpe:2048"),
        comm=CommSpec(),
        seed=0,
        project_name="benchmark",
    ).model_copy(update={"strategy": strategy, "fsdp_stage": stage, **settings})
    me = RankPlan(
        rank=0, node="node0", local_rank=0, role="worker", device="cpu", listen=("127.0.0.1",), port=0, peers={},
        samples=samples, buffer_mb=8, threads=1,
    )  # fmt: skip
    ranks = tuple(me.model_copy(update={"rank": r, "node": f"node{r}"}) for r in range(world_size))
    plan = Plan(
        cluster="benchmark", run=run, world_size=world_size, transport="smol", wire=wire, shape="MESH",
        global_batch=samples * world_size, ranks=ranks, params=1, memory=(),
    )  # fmt: skip
    nowhere = Path("nowhere")
    context = RunContext("benchmark", 0, plan, me, torch.device("cpu"), RunFolder(nowhere), nowhere, Alone())
    return replace(context, me=ranks[rank])
