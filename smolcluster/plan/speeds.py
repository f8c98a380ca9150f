"""How fast machines and ways between them are: as a profile measured them, else as the inventory says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smolcluster.plan.predict import Link
from smolcluster.plan.profile import Profile, tokens_per_sample
from smolcluster.plan.seats import Seat
from smolcluster.plan.shares import Cost
from smolcluster.spec.run import ModelSpec, RunSpec
from smolcluster.topology import NoRouteError, Route, Topology


@dataclass(frozen=True)
class Speeds:
    """A cluster's wires with a profile laid over them."""

    topology: Topology
    profile: Profile | None

    def claimed(self, route: Route) -> tuple[float, bool]:
        """Mbit/s by which a way's wire format is chosen, and whether they were measured.

        What a machine moves within itself is its processor's speed, and no format with less bytes makes that faster:
        there the inventory's word counts.
        """
        found = self.profile.link(route.src, route.dst) if self.profile is not None else None
        if found is None or route.medium == "loopback":
            return route.speed_mbps, False
        return found.mbps, True

    def link(self, src: str, dst: str) -> Link:
        """Mbit/s and round trip (ms) from machine to machine, by which it is predicted how long steps wait: while
        nobody computes, where that was measured. No way is no speed.
        """
        found = self.profile.link(src, dst) if self.profile is not None else None
        if found is not None and found.idle_mbps is not None and found.idle_rtt_ms is not None:
            return found.idle_mbps, found.idle_rtt_ms
        return self.busy(src, dst)

    def busy(self, src: str, dst: str) -> Link:
        """The same while both compute: of what travels behind that."""
        found = self.profile.link(src, dst) if self.profile is not None else None
        if found is not None:
            return found.mbps, found.rtt_ms
        try:
            return self.topology.route(src, dst).speed_mbps, 0.0
        except NoRouteError:  # told as a problem of the plan
            return 1e-6, 0.0


def costs_of(run: RunSpec, profile: Profile, seats: Sequence[Seat]) -> list[Cost]:
    """What a sample and an update cost each rank: seconds if the profile is of this model, else any unit."""
    micros = run.training.grad_accumulation
    return [cost_of(run.model, profile, seat.node.name, seat.ranks_here, micros) for seat in seats]


def cost_of(model: ModelSpec, profile: Profile, name: str, ranks_here: int = 1, micros: int = 1) -> Cost:
    """The same of one of a machine's ranks, whose steps have so many micro-batches."""
    speed, measured = profile.speeds[name], profile.measured
    node = measured.nodes.get(name) if measured is not None else None
    if measured is None or node is None:
        return Cost(tokens_per_sample(model) * ranks_here / speed)
    step_s = measured.batch_size * tokens_per_sample(measured.model) * node.ranks / speed
    # An update that seems to take all of it was disturbed: a sample takes something.
    update_s = min(node.update_s, step_s / 2)
    passes = min(measured.grad_accumulation, measured.batch_size)
    computing_s = step_s - update_s
    # Nor is a step without its samples' part.
    pass_s = min(node.pass_s, computing_s / passes / 2)
    return Cost((computing_s - passes * pass_s) / measured.batch_size, update_s, pass_s, micros)
