"""Sizes by arithmetic: parameters of a model, bytes of model state a rank holds. No torch; tests compare with torch."""

from __future__ import annotations

from collections.abc import Sequence

from smolcluster.plan.types import MemoryEstimate
from smolcluster.spec.pipeline import layers_of
from smolcluster.spec.run import STARS, GPTSpec, ModelSpec, NNSpec, RunSpec, WireFormat

FLOAT32_BYTES = 4
_MOMENTS = 2  # Adam keeps a mean and a variance for every parameter
# A parameter that is trained here: itself, its gradient, its moments.
STATE_BYTES = FLOAT32_BYTES * (2 + _MOMENTS)


def param_count(model: ModelSpec) -> int:
    """Parameters of the model; tied embeddings count once."""
    if isinstance(model, NNSpec):
        return model.input_dim * model.hidden + model.hidden + model.hidden * model.out + model.out
    untied_head = 0 if model.tie_embeddings else model.vocab_size * model.model_dim
    embeddings = model.vocab_size * model.model_dim + position_params(model)
    return embeddings + model.num_layers * block_params(model) + norm_params(model) + untied_head


def block_params(model: GPTSpec) -> int:
    """Parameters of one block: two norms, attention (qkv and projection), MLP; GPT-2's all with biases."""
    dim, width, llama = model.model_dim, model.ff_dim, model.llama
    norms = 2 * norm_params(model)
    if llama is not None:
        own, shared = model.num_heads * llama.head_dim, llama.kv_heads * llama.head_dim
        attention = dim * (2 * own + 2 * shared) + llama.qkv_bias * (own + 2 * shared) + llama.out_bias * dim
        mlp = 3 * dim * width + llama.mlp_bias * (2 * width + dim)
        return norms + attention + mlp + llama.qk_norm * 2 * llama.head_dim
    attention = dim * 3 * dim + 3 * dim + dim * dim + dim
    mlp = dim * width + width + width * dim + dim
    return norms + attention + mlp


def norm_params(model: GPTSpec) -> int:
    """Parameters of one norm over the model's width: a scale, and in GPT-2 an offset."""
    return model.model_dim * (2 if model.llama is None else 1)


def position_params(model: GPTSpec) -> int:
    """Parameters of learned positions; Llama turns its positions, and learns none."""
    return model.num_positions * model.model_dim if model.llama is None else 0


def memory_of(
    run: RunSpec,
    rank: int,
    world_size: int,
    role: str,
    wire: WireFormat = "fp32",
    stages: Sequence[tuple[int, int]] = (),
) -> MemoryEstimate:
    """Bytes of parameters, gradients and AdamW state of one rank (float32).

    ZeRO (Rajbhandari et al. 2020): stage 1 shards the optimizer state, 2 the gradients too, 3 the parameters too.
    Shards are flat and even, padded to a whole element per rank. A syncps worker has no optimizer, and a server that
    trains is a worker besides; an mp rank holds the layers of one of `stages`, a diloco rank the outer optimizer
    besides its own. int8 on the wire keeps what it has not sent yet; where replicas get changes (strategies/gathers.py)
    their owner keeps its shard apart. Under a staleness bound all stages are alike: a replica, its gradient, and of the
    shard the weights, the box and the moments.
    """
    params = param_count(run.model)
    if run.strategy == "mp":
        params = stage_params(run.model, stages[rank % len(stages)], layers_of(run.model))
    shard = -(-params // world_size)
    stage = run.fsdp_stage if run.strategy == "fsdp" else 0
    stale = run.staleness_bound > 0 and world_size > 1
    moments = 0 if run.strategy == "syncps" and role == "worker" else _MOMENTS
    models = 2 if run.server_trains and role == "server" else 1
    if run.strategy in STARS:
        kept = _kept_in_a_star(wire, params, world_size - 1, role)
        kept += params if run.strategy == "syncps" and role == "server" else 0  # the gradient that came last
        kept += _kept_in_a_star(wire, params, world_size - 1, "worker") if models == 2 else 0
    else:
        kept = _kept_for(run, wire, params, shard, stage) if world_size > 1 and not stale else 0
        kept += _kept_by_an_owner(wire, params, shard) if stale else 0
    return MemoryEstimate(
        rank=rank,
        params_bytes=FLOAT32_BYTES * (shard if stage >= 3 else models * params),
        grads_bytes=FLOAT32_BYTES * (shard if stage >= 2 and not stale else models * params),
        optimizer_bytes=FLOAT32_BYTES * (moments * (shard if stage >= 1 or stale else params) + _outer(run, params)),
        wire_bytes=FLOAT32_BYTES * kept,
    )


def _outer(run: RunSpec, params: int) -> int:
    """diloco's outer optimizer: the parameters that a round began with, their momentum where it has one, and with
    overlap where this rank began its slot, and what is under way.
    """
    if run.strategy != "diloco":
        return 0
    return params * (1 + bool(run.outer_momentum) + 2 * run.outer_overlap)


def _kept_for(run: RunSpec, wire: WireFormat, params: int, shard: int, stage: int) -> int:
    # diloco keeps what was owed before a round too, until the round is committed.
    residuals = params * (2 if run.strategy == "diloco" else 1) if wire == "int8" else 0
    return residuals + (shard if wire != "fp32" and stage in (1, 2) else 0)


def _kept_by_an_owner(wire: WireFormat, params: int, shard: int) -> int:
    """Numbers that a rank under a staleness bound keeps beside its replica: its shard, the box, a gradient on its way;
    what int8 owes; and where shards are rounded what each of the others has of it.
    """
    others = params - shard
    frame = {"fp32": others, "bf16": others // 2, "fp16": others // 2, "int8": others // 4}[wire]
    return 2 * shard + frame + (params if wire == "int8" else 0) + (others if wire != "fp32" else 0)


def _kept_in_a_star(wire: WireFormat, params: int, workers: int, role: str) -> int:
    """Numbers that a rank of a star keeps beside its state.

    The server: the copy that is evaluated, the weights on their way to who joins; where they are rounded a shadow for
    each worker, and one difference. A worker: what it pulled last, the gradient on its way, and what rounding left.
    """
    rounded = wire != "fp32"
    if role == "server":
        return params * (2 + (workers + 1 if rounded else 0))
    frame = {"fp32": params, "bf16": params // 2, "fp16": params // 2, "int8": params // 4}[wire]
    return params * (2 if rounded else 1) + frame


def stage_params(model: ModelSpec, stage: tuple[int, int], layers: int) -> int:
    """Parameters of layers `stage` of a model that has `layers`: embeddings first, final norm and head last.

    A tied embedding counts at both ends, where those are on two ranks.
    """
    start, stop = stage
    first, last = start == 0, stop == layers
    if isinstance(model, NNSpec):
        ends = (model.input_dim + 1) * model.hidden, (model.hidden + 1) * model.out
        return sum(ends[start:stop])
    table = model.vocab_size * model.model_dim
    params = (stop - start) * block_params(model)
    if first:
        params += table + position_params(model)
    if last:
        params += norm_params(model) + (0 if first and model.tie_embeddings else table)
    return params
