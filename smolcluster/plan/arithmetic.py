"""Sizes by arithmetic: parameters of a model, bytes of model state a rank holds. No torch; tests compare with torch."""

from __future__ import annotations

from smolcluster.plan.types import MemoryEstimate
from smolcluster.spec.run import GPTSpec, ModelSpec, NNSpec, RunSpec, WireFormat
from smolcluster.spec.stages import split_layers

FLOAT32_BYTES = 4
_MOMENTS = 2  # Adam keeps a mean and a variance for every parameter


def param_count(model: ModelSpec) -> int:
    """Parameters of the model; tied embeddings count once."""
    if isinstance(model, NNSpec):
        return model.input_dim * model.hidden + model.hidden + model.hidden * model.out + model.out
    untied_head = 0 if model.tie_embeddings else model.vocab_size * model.model_dim
    embeddings = (model.vocab_size + model.num_positions) * model.model_dim
    return embeddings + model.num_layers * block_params(model) + 2 * model.model_dim + untied_head


def block_params(model: GPTSpec) -> int:
    """Parameters of one block: two norms, attention (qkv and projection), MLP, all with biases."""
    dim, width = model.model_dim, model.ff_dim
    norms = 2 * 2 * dim
    attention = dim * 3 * dim + 3 * dim + dim * dim + dim
    mlp = dim * width + width + width * dim + dim
    return norms + attention + mlp


def memory_of(run: RunSpec, rank: int, world_size: int, role: str, wire: WireFormat = "fp32") -> MemoryEstimate:
    """Bytes of parameters, gradients and AdamW state of one rank (float32).

    ZeRO (Rajbhandari et al. 2020): stage 1 shards the optimizer state, 2 the gradients too, 3 the parameters too.
    Shards are flat and even, padded to a whole element per rank. A syncps worker has no optimizer; an mp rank holds
    its own layers; a diloco rank has the outer optimizer besides its own. int8 on the wire keeps what it has not sent
    yet; where replicas get changes (strategies/gathers.py) their owner keeps its shard apart.
    """
    params = param_count(run.model)
    if run.strategy == "mp":
        params = _stage_params(run.model, rank, world_size)
    shard = -(-params // world_size)
    stage = run.fsdp_stage if run.strategy == "fsdp" else 0
    moments = 0 if run.strategy == "syncps" and role == "worker" else _MOMENTS
    return MemoryEstimate(
        rank=rank,
        params_bytes=FLOAT32_BYTES * (shard if stage >= 3 else params),
        grads_bytes=FLOAT32_BYTES * (shard if stage >= 2 else params),
        optimizer_bytes=FLOAT32_BYTES * (moments * (shard if stage >= 1 else params) + _outer(run, params)),
        wire_bytes=FLOAT32_BYTES * _kept_for(run, wire, params, shard, stage) if world_size > 1 else 0,
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


def _stage_params(model: ModelSpec, rank: int, world_size: int) -> int:
    """Parameters of one of `world_size` stages of even layer ranges: embeddings first, final norm and head last."""
    if isinstance(model, NNSpec):
        return param_count(model)
    start, stop = split_layers(model.num_layers, world_size)[rank]
    params = (stop - start) * block_params(model)
    if rank == 0:
        params += (model.vocab_size + model.num_positions) * model.model_dim
    if rank == world_size - 1:
        # The last stage needs the output matrix; tied, it is a second copy unless there is only one stage.
        second = world_size > 1 or not model.tie_embeddings
        params += 2 * model.model_dim + (model.vocab_size * model.model_dim if second else 0)
    return params
