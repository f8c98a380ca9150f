"""GET /dashboard/run: what a run's folder says that does not change. Reads plan.json and topology.json; no metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from smolcluster.dashboard.answers import Kind, RunAnswer, RunLink, RunNode, RunPredicted, RunRank
from smolcluster.errors import InputError
from smolcluster.observe.records import Reader
from smolcluster.observe.report import plan_in
from smolcluster.observe.settings import flat_plan, flat_serving
from smolcluster.plan.profile import tokens_per_sample
from smolcluster.plan.types import Plan, ProfilePlan, RankPlan, ServePlan
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.run import GPTSpec
from smolcluster.topology import TOPOLOGY_SCHEMA, NotedRoute, TopologyNote, neighbours

_MB = 1 << 20  # as the inventory's and the machine's own, beside which it is shown


def read_plan(folder: RunFolder) -> tuple[Plan | ServePlan | None, str]:
    """The plan; or None, and why there is none and what to do."""
    try:
        return plan_in(folder.path, Reader()), ""
    except InputError as error:
        return None, "; ".join(f"{one.file} {one.key}: {one.what} ({one.fix})" for one in error.problems)


def read_topology(folder: RunFolder) -> TopologyNote | None:
    """topology.json; None where there is none that can be read: the run is of before."""
    try:
        note = TopologyNote.model_validate_json(folder.topology.read_bytes())
    except (OSError, ValidationError):
        return None
    return note if note.schema_ == TOPOLOGY_SCHEMA else None


def run_answer(folder: RunFolder, plan: Plan | ServePlan | None, problem: str, can_stop: bool) -> RunAnswer:
    """All of it. Without a plan: the machines and ranks that have left files, so that their logs can be read."""
    if plan is None:
        return RunAnswer(run_id=folder.path.name, kind="unknown", problem=problem, nodes=_left(folder.path))
    topology = read_topology(folder)
    answer = RunAnswer(
        run_id=folder.path.name,
        kind=_kind(plan),
        cluster=plan.cluster,
        params=plan.params,
        started=_written(folder.plan),
        can_stop=can_stop,
        nodes=_nodes(plan, topology),
        links=_links(plan, topology),
        notes=list(plan.notes),
    )
    return _served(answer, plan) if isinstance(plan, ServePlan) else _trained(answer, plan)


def server_of(plan: Plan | ServePlan) -> int | None:
    """The rank that computes no steps and tells of the whole run; None where all are alike."""
    return 0 if isinstance(plan, Plan) and plan.shape == "STAR" else None


def _trained(answer: RunAnswer, plan: Plan) -> RunAnswer:
    run, model = plan.run, plan.run.model
    estimates = {one.rank: one.total_bytes / _MB for one in plan.memory}
    of_batch = sum(rank.samples for rank in plan.ranks) if not plan.stages else plan.global_batch
    ranks = [
        RunRank(
            **_rank(rank),
            layers=plan.stages[rank.rank % len(plan.stages)] if plan.stages else None,
            samples=rank.samples,
            share=rank.samples / of_batch if of_batch else None,
            memory_mb=estimates.get(rank.rank),
        )
        for rank in plan.ranks
    ]
    found = plan.predicted
    predicted = None
    if found is not None and found.step_s:
        predicted = RunPredicted(
            step_ms=found.step_s * 1000,
            compute_ms=found.compute_s * 1000,
            communication_ms=found.wire_s * 1000,
            tokens_per_s=plan.global_batch * tokens_per_sample(model) / found.step_s,
        )
    what = f"gpt, {model.num_layers} layers of {model.model_dim}" if isinstance(model, GPTSpec) else "nn"
    return answer.model_copy(
        update={
            "strategy": run.strategy,
            "model": f"{what}, {_short(plan.params)} parameters",
            "dataset": run.data.path or run.data.dataset,
            "transport": plan.transport if plan.world_size > 1 else None,
            "wire": plan.wire,
            "shape": plan.shape,
            "global_batch": plan.global_batch,
            "counts": "samples" if tokens_per_sample(model) == 1 else "tokens",
            "ranks": ranks,
            "predicted": predicted,
            "settings": flat_plan(plan),
        }
    )


def _served(answer: RunAnswer, plan: ServePlan) -> RunAnswer:
    stages = {stage.rank: stage for stage in plan.stages}
    ranks = [
        RunRank(
            **_rank(rank),
            layers=(stages[rank.rank].start, stages[rank.rank].stop) if rank.rank in stages else None,
            memory_mb=float(stages[rank.rank].need_mb) if rank.rank in stages else None,
        )
        for rank in plan.ranks
    ]
    return answer.model_copy(
        update={
            "strategy": "inference",
            "model": f"{plan.serve.model_name}, {plan.layers} layers, {_short(plan.params)} parameters",
            "transport": "smol",
            "shape": "CHAIN",
            "ranks": ranks,
            "settings": flat_serving(plan),
        }
    )


def _rank(rank: RankPlan) -> dict[str, object]:
    return {
        "rank": rank.rank,
        "node": rank.node,
        "role": rank.role,
        "device": rank.device,
        "machine_mb": rank.memory_mb,
        "threads": rank.threads,
    }


def _kind(plan: Plan | ServePlan) -> Kind:
    if isinstance(plan, ServePlan):
        return "serving"
    return "profile" if isinstance(plan, ProfilePlan) else "training"


def _nodes(plan: Plan | ServePlan, topology: TopologyNote | None) -> list[RunNode]:
    kinds = {node.name: node.kind for node in topology.nodes} if topology is not None else {}
    controller = topology.controller if topology is not None else ""
    return [
        RunNode(
            name=name,
            kind=kinds.get(name),
            controller=name == controller,
            ranks=[rank.rank for rank in plan.ranks if rank.node == name],
        )
        for name in dict.fromkeys(rank.node for rank in plan.ranks)
    ]


def _links(plan: Plan | ServePlan, topology: TopologyNote | None) -> list[RunLink]:
    """Of every two machines whose ranks talk, once."""
    routes = {frozenset((way.src, way.dst)): way for way in topology.routes} if topology is not None else {}
    found: dict[frozenset[str], RunLink] = {}
    for here, there in _talking(plan):
        pair = frozenset((here.node, there.node))
        if len(pair) == 2 and pair not in found:
            found[pair] = _link(here, there, routes.get(pair))
    return list(found.values())


def _talking(plan: Plan | ServePlan) -> Iterator[tuple[RankPlan, RankPlan]]:
    """Pairs of ranks, the lower one first. Stages talk to their neighbours and the head, the API to the head."""
    ranks: Sequence[RankPlan] = plan.ranks
    for low, here in enumerate(ranks):
        for there in ranks[low + 1 :]:
            if isinstance(plan, ServePlan):
                talk = low == 0 or (there.rank == low + 1 and there.role == "stage")
            else:
                talk = there.rank in neighbours(plan.shape, low, plan.world_size) or plan.replicas > 1
            if talk:
                yield here, there


def _link(here: RankPlan, there: RankPlan, way: NotedRoute | None) -> RunLink:
    link = RunLink(
        src=here.node,
        dst=there.node,
        address=here.peers.get(there.rank) or there.peers.get(here.rank, ""),
        encrypted=here.encrypt.get(there.rank, False) or there.encrypt.get(here.rank, False),
    )
    if way is None:
        return link
    update = {
        "networks": list(way.networks),
        "medium": way.medium,
        "speed_mbps": way.speed_mbps,
        "gateways": list(way.gateways),
    }
    return link.model_copy(update=update)


def _left(path: Path) -> list[RunNode]:
    """Machines that have left anything, with their ranks, by the folders' names."""
    nodes = []
    for folder in sorted(path.glob("nodes/*")):
        numbers = [rank.name.removeprefix("rank-") for rank in folder.glob("rank-*")]
        ranks = sorted(int(number) for number in numbers if number.isascii() and number.isdecimal())
        nodes.append(RunNode(name=folder.name, ranks=ranks))
    return nodes


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _short(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
