"""Whether a run fits into the memory of its machines, and what would help where it does not. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from smolcluster.errors import ConfigError
from smolcluster.plan.arithmetic import memory_of
from smolcluster.plan.pipeline import machines_of, training_stages
from smolcluster.plan.seats import Seat
from smolcluster.plan.types import MemoryEstimate
from smolcluster.plan.wires import Complaint
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.participants import can_train
from smolcluster.spec.pipeline import layers_of
from smolcluster.spec.problems import listed
from smolcluster.spec.run import RunSpec

_MB = 1024 * 1024
# What a rank takes before it has a model (torch 2.13 for CPUs, Linux, x86-64):
# python -c 'import psutil, smolcluster.worker, smolcluster.train.rank; print(psutil.Process().memory_info().rss >> 20)'
PROCESS_MB = 240


def too_big(
    cluster: ClusterSpec, run: RunSpec, seats: Sequence[Seat], memory: Sequence[MemoryEstimate]
) -> list[Complaint]:
    """Machines whose memory the model state and the processes of their ranks alone exceed."""
    problems: list[Complaint] = []
    names = [seat.node.name for seat in seats]
    need = needed_mb(names, memory)
    for node in crowded(cluster, names, memory):
        here = names.count(node.name)
        state_mb = need[node.name] - here * PROCESS_MB
        processes = f"its {here} processes" if here > 1 else "its process"
        taken = f"the model's state needs {state_mb:.0f} MB there and {processes} {here * PROCESS_MB}"
        what = f"{taken}, and it has {node.memory_mb}"
        problems.append((f"machines.{node.name}.memory_mb", what, _fix(cluster, run, seats)))
    return problems


def crowded(cluster: ClusterSpec, names: Sequence[str], memory: Sequence[MemoryEstimate]) -> list[Node]:
    """The machines that have too little memory for their ranks, in the inventory's order; `names` are the ranks'."""
    need = needed_mb(names, memory)
    return [
        node
        for node in cluster.nodes
        if node.name in need and node.memory_mb is not None and need[node.name] > node.memory_mb
    ]


def needed_mb(names: Sequence[str], memory: Sequence[MemoryEstimate]) -> dict[str, float]:
    """Megabytes of the model state and the processes of each machine's ranks, by its name."""
    need = dict.fromkeys(names, 0.0)
    for name, estimate in zip(names, memory, strict=True):
        need[name] += estimate.total_bytes / _MB + PROCESS_MB
    return need


def alone_mb(run: RunSpec) -> int:
    """Megabytes of the same on one machine that trains the run's model by itself."""
    single = run.model_copy(update={"strategy": "single", "stages": (), "replicas": 1, "staleness_bound": 0})
    return -(-memory_of(single, 0, 1, "worker", "fp32").total_bytes // _MB) + PROCESS_MB


def _fix(cluster: ClusterSpec, run: RunSpec, seats: Sequence[Seat]) -> str:
    ways = ["take a smaller model"]
    if run.strategy == "mp":
        ways.append("give it fewer layers in `stages`")
    elif run.strategy in ("classicdp", "fsdp") and run.staleness_bound and run.fsdp_stage < 3:
        # Under a bound every stage but the last keeps the same.
        stage_3 = "--override fsdp_stage=3,staleness_bound=0"
        ways.append(stage_3 if run.strategy == "fsdp" else f"--strategy fsdp {stage_3}, which shares the state out")
    elif run.strategy == "fsdp" and run.fsdp_stage < 3:
        ways.append("a higher fsdp_stage")
    elif run.strategy == "classicdp":
        ways.append("--strategy fsdp, whose stages share the state out")
    split_over = _split_over(cluster, run, seats) if run.strategy != "mp" else []
    if split_over:
        ways.append(f"--strategy mp, which splits the layers over {listed(split_over)}")
    if len({seat.node.name for seat in seats}) > 1:
        ways.append("leave the machine out with --nodes")
    *others, last = ways
    return f"{', '.join(others)}, or {last}" if others else last


def _split_over(cluster: ClusterSpec, run: RunSpec, seats: Sequence[Seat]) -> list[str]:
    """The machines that could train the model a few layers each: the run's own, or where it is on one all there are."""
    names = list(dict.fromkeys(seat.node.name for seat in seats))
    if len(names) < 2:
        names = [node.name for node in cluster.nodes if can_train(node)]
    memory_mb = {node.name: node.memory_mb for node in cluster.nodes}
    if len(names) > layers_of(run.model):  # a layer each, for those with the most memory
        roomy = sorted(names, key=lambda name: -(memory_mb[name] or 0))[: layers_of(run.model)]
        names = [name for name in names if name in roomy]
    if len(names) < 2:
        return []
    split = run.model_copy(update={"strategy": "mp", "stages": ()})
    try:
        training_stages(split, machines_of(names, memory_mb, {}))
    except ConfigError:
        return []
    return names
