"""Bytes that each rank sends for one step of each strategy: tensors, to the byte. Pure; no torch.

What is not in it: headers (32 bytes a frame, under a thousandth), and the few numbers that ranks exchange at the end of
a step. What every strategy sends is in ALGORITHMS of its own file; here is only how much that is.
"""

from __future__ import annotations

from collections.abc import Sequence

from smolcluster.plan.arithmetic import FLOAT32_BYTES, param_count, stage_params
from smolcluster.plan.buckets import bucket_lengths, frame_bytes, sent_around, unit_lengths
from smolcluster.plan.grid import Grid
from smolcluster.plan.stages import Ranges
from smolcluster.spec.pipeline import layers_of
from smolcluster.spec.run import STARS, GPTSpec, NNSpec, RunSpec, WireFormat

# The looked up rows of a tied embedding travel apart where they add at most this much to the bytes of a step.
MOST_EXTRA = 0.02


def sent_in_a_step(
    run: RunSpec, wire: WireFormat, samples: Sequence[int], stages: Ranges = (), micros: int = 1
) -> list[int]:
    """By rank. `samples`: of every rank, in a step; `micros`: micro-batches of the rank that has most of them.

    A star's rank 0 answers pulls, on average over an interval; of diloco it is a round of `outer_every` steps, shared
    out among them.
    """
    count = len(samples)
    if count == 1:
        return [0]
    if run.strategy == "mp":
        return _between_stages(run, wire, samples, stages)
    if run.strategy in STARS:
        return _in_a_star(run, wire, samples)
    lengths = bucket_lengths(param_count(run.model), count)
    around = sent_around(wire, lengths, count)
    if run.strategy == "diloco":
        return [-(-2 * around // run.outer_every)] * count
    if run.staleness_bound:
        # A frame for every owner with all its shards, and its shard back.
        shard = sum(lengths) // count
        return [2 * (count - 1) * frame_bytes(wire, shard)] * count
    rows = rows_apart(run, wire, samples)
    stage = run.fsdp_stage if run.strategy == "fsdp" else 0
    if stage == 3:
        units = unit_lengths(run.model, count, parted=rows > 0)
        a_micro = sum((1 + times) * sent_around(wire, [length], count) for length, times in units)
        return [micros * a_micro + rows * (count - 1)] * count
    passes = 2 if stage < 2 else micros + 1  # stage 2 scatters every micro-batch's
    return [passes * around + rows * (count - 1)] * count


def rows_apart(run: RunSpec, wire: WireFormat, samples: Sequence[int]) -> int:
    """Bytes of the looked up rows that a rank has every other one told apart from the rest; 0 where it has none."""
    model = run.model
    if not isinstance(model, GPTSpec) or not model.tie_embeddings or model.llama is not None:
        return 0
    rows = FLOAT32_BYTES * max(samples) * model.max_seq_len * (model.model_dim + 1)
    most = MOST_EXTRA * frame_bytes(wire, param_count(model))
    return rows if rows * len(samples) / 2 <= most else 0


def hidden_bytes(run: RunSpec, samples: int) -> int:
    """What so many samples are between two layers: float32."""
    if isinstance(run.model, NNSpec):
        return FLOAT32_BYTES * samples * run.model.hidden
    return FLOAT32_BYTES * samples * run.model.max_seq_len * run.model.model_dim


def tied_bytes(run: RunSpec) -> int:
    """Of the embedding that both ends of a split model hold; 0 where it is none."""
    model = run.model
    if not isinstance(model, GPTSpec) or not model.tie_embeddings:
        return 0
    return FLOAT32_BYTES * model.vocab_size * model.model_dim


def replica_bytes(run: RunSpec, wire: WireFormat, stages: Ranges, replicas: int) -> list[int]:
    """By stage: what each of its replicas sends so that all have the sum of its gradients."""
    layers = layers_of(run.model)
    sizes = [stage_params(run.model, stage, layers) for stage in stages]
    return [2 * sent_around(wire, bucket_lengths(size, replicas), replicas) if replicas > 1 else 0 for size in sizes]


def _between_stages(run: RunSpec, wire: WireFormat, samples: Sequence[int], stages: Ranges) -> list[int]:
    grid = Grid(len(stages), len(samples) // len(stages))
    sums = replica_bytes(run, wire, stages, grid.replicas)
    sent = [sums[grid.stage_of(rank)] for rank in range(len(samples))]
    for number in range(grid.replicas):
        ranks = grid.pipeline(number)
        one_way = hidden_bytes(run, samples[ranks[0]])
        for rank in ranks[:-1]:
            sent[rank] += one_way
            sent[rank + 1] += one_way
        if len(ranks) > 1:
            for end in (ranks[0], ranks[-1]):
                sent[end] += tied_bytes(run)
    return sent


def _in_a_star(run: RunSpec, wire: WireFormat, samples: Sequence[int]) -> list[int]:
    """A gradient from every worker a step, weights back every `worker_update_interval` of them."""
    frame = frame_bytes(wire, sum(bucket_lengths(param_count(run.model), 1)))
    workers = len(samples) - 1
    # A worker on the server's own machine sends nothing over a wire: it is a thread of the server.
    return [-(-workers * frame // run.worker_update_interval), *[frame] * workers]
