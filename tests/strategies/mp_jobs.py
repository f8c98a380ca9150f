"""What the pool's processes run for the tests of mp: a stage of a small model, and the whole for comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from strategy_jobs import context_of, no_heartbeat
from strategy_models import LENGTH, VOCAB, shares_of
from strategy_pool import FABRICS
from torch import nn

from smolcluster.comm.link import Link
from smolcluster.errors import PeerError
from smolcluster.models import build_model, build_stage
from smolcluster.models.nn_stage import NNStage
from smolcluster.models.partition import cut
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.seeding import seed_step
from smolcluster.runtime.slices import Slice
from smolcluster.spec.run import GPTSpec, LlamaBlocks, NNSpec
from smolcluster.spec.shape import Rope
from smolcluster.strategies.base import Strategy, build_strategy
from smolcluster.strategies.mp import stage

LAYERS, DEEP_LAYERS = 4, 6
Bounds = tuple[tuple[int, int], ...]


def spec_of(kind: str) -> GPTSpec | NNSpec:
    if kind == "nn":
        return NNSpec(input_dim=LENGTH, hidden=20, out=VOCAB)
    blocks = LlamaBlocks(
        kind="llama", kv_heads=1, head_dim=12, norm_eps=1e-6, qkv_bias=False, out_bias=False, mlp_bias=False,
        qk_norm=False, rope=Rope(theta=10000.0),
    )  # fmt: skip
    return GPTSpec(
        model_dim=24, num_layers=DEEP_LAYERS if "deep" in kind else LAYERS, num_heads=2, ff_dim=48,
        dropout=0.2 if kind == "dropout gpt" else 0,
        max_seq_len=LENGTH, tie_embeddings="untied" not in kind, vocab_size=VOCAB,
        llama=blocks if "llama" in kind else None,
    )  # fmt: skip


class NumbersStage(NNStage):
    """A half of strategy_models.NumbersNN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x / VOCAB if self.layers.first else x)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super().loss(x, y[:, 0])

    def graded(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().graded(x, y[:, 0])


def stage_of(kind: str, bounds: Bounds, rank: int, seed: int = 5) -> nn.Module:
    spec = spec_of(kind)
    layers = cut(bounds, bounds[-1][1])[rank]
    return NumbersStage(spec, layers, seed) if isinstance(spec, NNSpec) else build_stage(spec, layers, None, seed)


def whole_of(kind: str, seed: int = 5) -> nn.Module:
    if kind == "nn":
        from strategy_models import model_of

        return model_of("nn", seed)
    return build_model(spec_of(kind), None, seed)


Shares = tuple[int, ...]  # samples of each pipeline


def batch_of(step: int, samples: int, micros: int, shares: Shares = (), pipeline: int = 0) -> list[Any]:
    """A step's samples, or of them the pipeline's contiguous share, in micro-batches."""
    [(x, y)] = shares_of(step, (samples,), 0, samples)
    if shares:
        x, y = (whole.split(list(shares))[pipeline] for whole in (x, y))
    parts = min(micros, len(x))
    return list(zip(x.tensor_split(parts), y.tensor_split(parts), strict=True))


def steps(strategy: Strategy, samples: int, micros: int, count: int, first: int = 0, shares: Shares = ()) -> list[Any]:
    """Steps as all ranks take them together; with replicas each pipeline its share."""
    results = []
    pipeline = strategy.grid.pipeline_of(strategy.rank) if shares else 0  # type: ignore[attr-defined]
    for step in range(first, first + count):
        if step % 2 == 0:
            strategy.ask_layer_norms()
        results.append(strategy.train_step(batch_of(step, samples, micros, shares, pipeline), 1e-2))
    return results


def replicated(context: RunContext, replicas: int) -> RunContext:
    """The same with so many pipelines."""
    return replace(context, plan=context.plan.model_copy(update={"replicas": replicas}))


def train(
    rank: int, world_size: int, kind: str, bounds: Bounds, samples: int, micros: int, count: int,
    recompute: bool = False, precision: str = "fp32",
) -> Any:  # fmt: skip
    name = "mp" if bounds else "single"
    model = stage_of(kind, bounds, rank) if bounds else whole_of(kind)
    if recompute:
        model.checkpoint_blocks()  # type: ignore[operator]
    seed_step(7, 1, rank)
    strategy = build_strategy(context_of(name, rank, world_size, samples=samples, precision=precision), model)
    results = steps(strategy, samples, micros, count)
    evaluated = strategy.eval_loss(*batch_of(99, samples, 1)[0])
    state = strategy.export()
    tied = dict(model.named_parameters()).get("transformer.wte.weight")
    strategy.close()
    return {
        "losses": [r.loss for r in results],
        "scales": [(r.loss_scale, r.skipped) for r in results],
        "norms": [r.grad_norm for r in results],
        "layers": [r.layer_norms for r in results],
        "tokens": [r.tokens for r in results],
        "evaluated": (evaluated.loss, evaluated.tokens, evaluated.right),
        "state": None if state is None else {key: value.clone() for key, value in state.items()},
        "tied": None if tied is None else tied.detach().clone(),
        "held": sum(strategy.state_bytes().values()),
    }


def slices_after(rank: int, world_size: int, kind: str, bounds: Bounds, samples: int, count: int) -> list[Any]:
    """What a rank owns after some steps, and the losses of the steps after those."""
    strategy = build_strategy(context_of("mp", rank, world_size, samples=samples), stage_of(kind, bounds, rank))
    steps(strategy, samples, 2, count)
    slices = [(s.name, s.shape, s.box, s.tensor.clone()) for s in strategy.named_slices()]
    losses = [r.loss for r in steps(strategy, samples, 2, 3, first=count)]
    strategy.close()
    return [slices, losses]


def resume(
    rank: int, world_size: int, name: str, stage: int, kind: str, bounds: Bounds, given: list[Any], samples: int,
    first: int,
) -> list[float]:  # fmt: skip
    """Losses of the steps first.. of a run of another cut, or another strategy, that starts from those slices."""
    model = stage_of(kind, bounds, rank, seed=99) if name == "mp" else whole_of(kind, seed=99)
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage, samples=samples), model)
    strategy.load_slices(Slice(*fields) for fields in given)
    if name == "mp":
        results = steps(strategy, samples, 2, 3, first)
    else:
        share = samples // world_size
        results = []
        for step in range(first, first + 3):
            results.append(strategy.train_step(shares_of(step, (share,) * world_size, rank, 64), 1e-2))
    strategy.close()
    return [r.loss for r in results]


def given_weights(rank: int, world_size: int, kind: str, bounds: Bounds) -> Any:
    """Rank 0 hands out weights of another seed; what all ranks then have."""
    strategy = build_strategy(context_of("mp", rank, world_size), stage_of(kind, bounds, rank))
    whole = dict(whole_of(kind, seed=77).named_parameters())
    strategy.start_from(whole if rank == 0 else None)  # type: ignore[attr-defined]
    names = set(strategy.whole_shapes())  # type: ignore[attr-defined]
    assert names == set(whole)
    return all(torch.equal(p, whole[n]) for n, p in strategy.model.named_parameters())  # type: ignore[attr-defined]


def drift(rank: int, world_size: int, kind: str, bounds: Bounds) -> tuple[bool, list[float]]:
    """The last stage's tied embedding is nudged, as by a device that rounds differently, and ends are compared after
    two steps: this rank's copy then, and whether the log said so."""
    with mock.patch.object(stage, "COMPARE_EVERY", 2), mock.patch.object(stage.log, "warning") as said:
        strategy = build_strategy(context_of("mp", rank, world_size, samples=8), stage_of(kind, bounds, rank))
        held = dict(strategy.model.named_parameters())  # type: ignore[attr-defined]
        tied = held.get("transformer.wte.weight")
        if rank == world_size - 1 and tied is not None:
            tied.data.view(-1)[3] += 1e-3
        steps(strategy, 8, 2, 3)
        strategy.close()
        return bool(said.called), [] if tied is None else tied.detach().view(-1).tolist()


def one_is_stuck(rank: int, world_size: int, kind: str, bounds: Bounds, timeout_s: float) -> str:
    """After a good step the last stage computes for ever, with a heart that beats: what the others are told."""
    context = context_of("mp", rank, world_size, samples=8)
    run = context.run.model_copy(update={"step_timeout_s": timeout_s})
    context = replace(context, plan=context.plan.model_copy(update={"run": run}))
    strategy = build_strategy(context, stage_of(kind, bounds, rank))
    steps(strategy, 8, 2, 1)
    if rank == world_size - 1:
        return str(FABRICS[rank].alarm.wait(60))
    try:
        steps(strategy, 8, 2, 1, first=1)
    except PeerError as error:
        return str(error)
    return "it did not notice"


@mock.patch.object(Link, "pulse", no_heartbeat)
def sent_per_step(rank: int, world_size: int, kind: str, bounds: Bounds, samples: int, micros: int) -> int:
    """Bytes that a rank sends in a step."""
    strategy = build_strategy(context_of("mp", rank, world_size, samples=samples), stage_of(kind, bounds, rank))
    steps(strategy, samples, micros, 2)
    before = FABRICS[rank].counters().bytes_out
    strategy.train_step(batch_of(2, samples, micros), 1e-2)
    sent = FABRICS[rank].counters().bytes_out - before
    strategy.close()
    return int(sent)
