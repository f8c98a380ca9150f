"""How fast a star is: workers that push gradients to a server and pull weights from it (edp, syncps). Pure.

A worker's step   its computing, and its own update between pulls
  + every interval-th step: the push, the server's part, and the pull, one after the other
  + the other steps: what of the push takes longer than the next step's computing
The server        all workers' gradients come in over its link, their pulls go out, and its optimizer steps: for every
                  gradient in edp, once for all of them in syncps

edp takes samples at the rate of all workers together, or at that at which the server can take gradients. A step of
syncps ends when the slowest worker's gradient is there, or `timeout` after the first.
"""

from __future__ import annotations

from collections.abc import Sequence

from smolcluster.plan.buckets import bucket_lengths, frame_bytes
from smolcluster.plan.predict import Links, Prediction
from smolcluster.plan.shares import Cost
from smolcluster.spec.run import RunSpec, WireFormat


def predict_star(
    run: RunSpec, params: int, wire: WireFormat, nodes: Sequence[str], costs: Sequence[Cost], samples: Sequence[int],
    links: Links,
) -> Prediction:  # fmt: skip
    """A global batch of a star, rank 0 its server, on average. Only ranks with samples are its workers."""
    frame = frame_bytes(wire, sum(bucket_lengths(params, 1)))
    workers = [rank for rank, mine in enumerate(samples) if mine]
    away = [rank for rank in workers if rank]  # a server that trains is its own worker
    pull_share = 1 / run.worker_update_interval
    server_s = costs[0].update_s
    between_s = 1 - pull_share if run.strategy == "edp" else 0.0
    there = {rank: _takes_s(links(nodes[rank], nodes[0]), frame) for rank in away}
    back = {rank: _takes_s(links(nodes[0], nodes[rank]), frame) for rank in away}
    in_s = max((_sent_s(links(nodes[rank], nodes[0]), frame) for rank in away), default=0.0) * len(away)
    out_s = max((_sent_s(links(nodes[0], nodes[rank]), frame) for rank in away), default=0.0) * len(away) * pull_share
    computing = {rank: costs[rank].compute_s(samples[rank]) + between_s * costs[rank].update_s for rank in workers}
    cycles = {}
    for rank in workers:
        push_s, pull_s = there.get(rank, 0.0), back.get(rank, 0.0)
        waits_s = pull_share * (push_s + server_s + pull_s) + (1 - pull_share) * max(0.0, push_s - computing[rank])
        cycles[rank] = computing[rank] + waits_s
    total = sum(samples)
    if run.strategy == "edp":
        free = sum(samples[rank] / cycles[rank] for rank in workers)
        compute_s = total / sum(samples[rank] / computing[rank] for rank in workers)
        # A global batch is one gradient of every worker: the server takes them one after the other.
        step_s = max(total / free, in_s, out_s, server_s * len(workers))
    else:
        compute_s = min(max(computing.values()), min(computing.values()) + run.syncps_timeout_s)
        first = min(cycles.values())
        step_s = max(min(max(cycles.values()), first + run.syncps_timeout_s), server_s + in_s + out_s)
    return Prediction(compute_s, max(0.0, step_s - compute_s))


def _sent_s(link: tuple[float, float], size: int) -> float:
    return size * 8 / (link[0] * 1e6)


def _takes_s(link: tuple[float, float], size: int) -> float:
    return _sent_s(link, size) + link[1] / 2000
