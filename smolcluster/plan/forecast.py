"""What a run of any strategy would be: time of a step, tokens a second, bytes, memory, and what it is as slow as. Pure.

One `Crew` describes the ranks: a plan makes one (plan/outlook.py), and so does a cluster that is only on paper.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from smolcluster.plan.arithmetic import memory_of, param_count
from smolcluster.plan.pipeline import micros_of
from smolcluster.plan.predict import Links, Prediction, predict
from smolcluster.plan.predict_mp import predict_pipelines
from smolcluster.plan.predict_rounds import predict_rounds
from smolcluster.plan.predict_star import predict_star
from smolcluster.plan.profile import tokens_per_sample
from smolcluster.plan.room import PROCESS_MB
from smolcluster.plan.shares import Cost
from smolcluster.plan.stages import Ranges
from smolcluster.plan.traffic import sent_in_a_step
from smolcluster.spec.run import STARS, RunSpec, WireFormat

_MB = 1024 * 1024
Limit = Literal["computing", "the wire"]


@dataclass(frozen=True)
class Crew:
    """The ranks of a run in order: whose machines, what computing costs each, how many samples of a step it takes.

    `busy`: the links while all compute, where they are then slower.
    """

    nodes: tuple[str, ...]
    costs: tuple[Cost, ...]
    samples: tuple[int, ...]
    links: Links
    busy: Links | None = None
    wire: WireFormat = "fp32"
    stages: Ranges = ()


@dataclass(frozen=True)
class Forecast:
    """`label`: the strategy, of fsdp with its stage. `rate`: tokens (samples) a second. `bytes_per_step`: sent by all
    ranks. `rank_mb`: memory of each rank on `nodes`, with its process; what autograd keeps of a step is not in it.
    `limit`: what most of a step goes to.
    """

    label: str
    prediction: Prediction
    samples: int
    rate: float
    bytes_per_step: int
    nodes: tuple[str, ...]
    rank_mb: tuple[int, ...]
    limit: Limit

    @property
    def step_s(self) -> float:
        """Seconds of a global batch."""
        return self.prediction.step_s

    @property
    def memory_mb(self) -> dict[str, int]:
        """By machine."""
        found: dict[str, int] = defaultdict(int)
        for node, need in zip(self.nodes, self.rank_mb, strict=True):
            found[node] += need
        return dict(found)


def forecast(run: RunSpec, crew: Crew) -> Forecast:
    """Of this run by these ranks."""
    params, samples = param_count(run.model), sum(crew.samples)
    prediction = _predicted(run, params, crew)
    micros = max(1, micros_of(run, max(crew.samples)))
    rank_mb = []
    for rank in range(len(crew.nodes)):
        role = "server" if run.strategy in STARS and rank == 0 else "worker"
        state = memory_of(run, rank, len(crew.nodes), role, crew.wire, crew.stages).total_bytes
        rank_mb.append(-(-state // _MB) + PROCESS_MB)
    return Forecast(
        label=label_of(run),
        prediction=prediction,
        samples=samples,
        rate=samples * tokens_per_sample(run.model) / prediction.step_s,
        bytes_per_step=sum(sent_in_a_step(run, crew.wire, crew.samples, crew.stages, micros)),
        nodes=crew.nodes,
        rank_mb=tuple(rank_mb),
        limit="computing" if prediction.compute_s >= prediction.wire_s else "the wire",
    )


def label_of(run: RunSpec) -> str:
    """The strategy, of fsdp with its stage, with its staleness bound where it has one."""
    name = f"fsdp {run.fsdp_stage}" if run.strategy == "fsdp" else run.strategy
    return f"{name} K={run.staleness_bound}" if run.staleness_bound else name


def _predicted(run: RunSpec, params: int, crew: Crew) -> Prediction:
    nodes, costs, samples = crew.nodes, crew.costs, crew.samples
    if run.strategy == "mp":
        return predict_pipelines(run, crew.wire, nodes, costs, samples, crew.stages, crew.links, crew.busy)
    if run.strategy == "diloco":
        return predict_rounds(run, params, crew.wire, nodes, costs, samples, crew.links)
    if run.strategy in STARS:
        return predict_star(run, params, crew.wire, nodes, costs, samples, crew.links)
    return predict(run, params, crew.wire, nodes, costs, samples, crew.links, crew.busy)


def alone(nodes: Sequence[str], costs: Sequence[Cost], samples: int) -> list[tuple[float, str]]:
    """Seconds in which each machine would take the same batch by itself, the quickest first."""
    return sorted((cost.step_s(samples), node) for node, cost in zip(nodes, costs, strict=True))
