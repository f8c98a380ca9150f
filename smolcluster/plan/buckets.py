"""How a model's gradients are cut into what travels as one, and how long that is on the wire. Pure; no torch.

strategies/flat.py lays parameters out by these rules, comm/codec.py makes the frames: tests hold them to each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from smolcluster.plan.arithmetic import FLOAT32_BYTES, block_params, norm_params, param_count, position_params
from smolcluster.spec.run import GPTSpec, ModelSpec, WireFormat

# A bucket is small enough that several travel during backward, and big enough that the start of a collective costs
# next to nothing. BUCKET_BYTES is the most.
BUCKETS = 8
LEAST_BUCKET_BYTES = 1 << 20
BUCKET_BYTES = 16 << 20
# Shards start on cache lines: 16 floats of 4 bytes.
ALIGN_ELEMENTS = 16
# int8: so many numbers share a float32 scale, and a frame ends at a multiple of so many bytes.
_INT8_BLOCK, _FRAME_ALIGN = 256, 4


def bucket_bytes(total_bytes: int) -> int:
    """How large a bucket is of a model whose gradients are so many bytes."""
    return min(BUCKET_BYTES, max(LEAST_BUCKET_BYTES, total_bytes // BUCKETS))


def bucket_lengths(params: int, world_size: int) -> list[int]:
    """Numbers of each bucket of a flat model; each divides by the world size, the last is padded."""
    grain = world_size * ALIGN_ELEMENTS
    length = -(-params // grain) * grain
    size = max(grain, bucket_bytes(params * FLOAT32_BYTES) // FLOAT32_BYTES // grain * grain)
    return [min(size, length - at) for at in range(0, length, size)]


def unit_lengths(model: ModelSpec, world_size: int, parted: bool) -> list[tuple[int, int]]:
    """Of fsdp's stage 3: numbers of each unit in the order of forward, and how often it is gathered for a micro-batch.

    The last unit stays from the loss to backward; backward needs no embedding, unless it is the head too: then it is
    gathered for both ends of the model. `parted`: the gradients of its lookups travel apart, and it is the last unit's.
    """
    grain = world_size * ALIGN_ELEMENTS
    if not isinstance(model, GPTSpec):
        return [(-(-param_count(model) // grain) * grain, 1)]
    table, positions, norm = model.vocab_size * model.model_dim, position_params(model), norm_params(model)
    if not model.tie_embeddings:
        first, last = (table + positions, 1), (norm + table, 1)
    elif parted:
        first, last = (positions, 1), (norm + table, 2)
    else:
        first, last = (table + positions, 2), (norm, 1)
    units = [first, *[(block_params(model), 2)] * model.num_layers, last]
    return [(-(-numbers // grain) * grain, times) for numbers, times in units if numbers]


def frame_bytes(wire: WireFormat, count: int) -> int:
    """How long the frame of so many numbers is, without its header."""
    if wire == "int8":
        return -(-count // _INT8_BLOCK) * 4 + -(-count // _FRAME_ALIGN) * _FRAME_ALIGN
    return -(-count * {"fp32": 4, "bf16": 2, "fp16": 2}[wire] // _FRAME_ALIGN) * _FRAME_ALIGN


def sent_around(wire: WireFormat, lengths: Sequence[int], world_size: int) -> int:
    """Bytes a rank sends for its part of one pass over buckets of these lengths: a reduce-scatter or an all-gather.

    Around a ring, or with int8 each shard straight to its owner: (N-1)/N of it either way.
    """
    return sum((world_size - 1) * frame_bytes(wire, length // world_size) for length in lengths)
