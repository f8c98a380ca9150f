"""Which machine of an mp run stands where, with several pipelines side by side: who holds which layers, and how many
samples each pipeline takes. Pure.

Two kinds of traffic share the wires. Hidden states of a pipeline's samples go from stage to stage and back; replicas of
a stage sum its gradients around a ring. How many bytes each has decides which of them gets the fast wires: of the ways
to seat the machines that one is taken which moves its bytes soonest, among those that compute about as fast as any.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, permutations, product

from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.grid import Grid
from smolcluster.plan.pipeline import head_layers, pipeline_notes, share_of_memory, training_stages
from smolcluster.plan.pipeline_traffic import Mbps, Traffic, traffic_of
from smolcluster.plan.seats import Seat
from smolcluster.plan.shares import shares
from smolcluster.plan.stages import Machine, Ranges
from smolcluster.spec.pipeline import layers_of
from smolcluster.spec.run import RunSpec

# Ways that compute nearly as fast as the fastest are judged by their wires: speeds differ by a few percent anyway.
NEARLY = 0.95
# So many ways to seat the machines are all looked at; of more, two: neighbours in the file's order as pipelines, and as
# replicas, and what the better one becomes by changing places.
MOST_WAYS = 1000


@dataclass(frozen=True)
class Layout:
    """`seats` in rank order, the layers of each stage, the samples of each pipeline. `traffic`: what a step moves."""

    seats: tuple[Seat, ...]
    stages: Ranges
    samples: tuple[int, ...]
    traffic: Traffic

    @property
    def grid(self) -> Grid:
        """Where ranks stand."""
        return Grid(len(self.stages), len(self.samples))

    @property
    def nodes(self) -> tuple[str, ...]:
        """The machines in rank order."""
        return tuple(seat.node.name for seat in self.seats)

    @property
    def samples_by_rank(self) -> tuple[int, ...]:
        """A pipeline's first rank feeds the others."""
        grid = self.grid
        return tuple(
            0 if grid.stage_of(rank) else self.samples[grid.pipeline_of(rank)] for rank in range(len(self.seats))
        )


def lay_out(run: RunSpec, seats: Sequence[Seat], speeds: Mapping[str, float], mbps: Mbps) -> Layout:
    """Seat the machines. `speeds` are of a rank, by machine; `mbps(a, b)` of the way between two machines.

    ConfigError where there are too few layers or too little memory.
    """
    if len(seats) % run.replicas:
        what = f"{len(seats)} ranks cannot form {run.replicas} pipelines of as many stages"
        fix = "give every machine one rank (machines.ranks: 1)" if run.stages else "name more or fewer machines"
        raise ConfigError([Problem("", 0, "stages" if run.stages else "replicas", what, fix)])
    planner = _Planner(run, speeds, mbps, Grid(len(seats) // run.replicas, run.replicas))
    if run.stages or run.replicas == 1:
        return planner.layout(seats)
    planner.refuse_too_few_layers(seats)
    by_stage = [seats[s * run.replicas + number] for number in range(run.replicas) for s in range(planner.grid.stages)]
    simple = [seats, by_stage]
    ways = math.factorial(len(seats) - 1) // math.factorial(run.replicas - 1)
    if ways <= MOST_WAYS:
        return planner.best([*simple, *_all_orders(seats, planner.grid)])
    best = planner.best(simple)
    for _ in seats:  # two change places, and two more, as long as that is better
        better = planner.best([best.seats, *_swapped(best.seats)])
        if better.nodes == best.nodes:
            break
        best = better
    return best


def layout_notes_of(run: RunSpec, layout: Layout) -> list[str]:
    """What a person should know of it: who has what, what waits, and what it moves."""
    notes = pipeline_notes(run, layout.nodes, layout.stages, layout.samples)
    if run.replicas > 1:
        traffic = layout.traffic
        within = f"{traffic.hidden / 1e6:.3g} MB from stage to stage and back"
        between = f"{traffic.gradients / 1e6:.3g} MB of gradients from each replica"
        chosen = "as `stages` says" if run.stages else "machines stand where that takes the least time"
        notes.append(f"mp: a step moves at most {within}, and {between}; {chosen}")
    return notes


def _all_orders(seats: Sequence[Seat], grid: Grid) -> Iterator[Sequence[Seat]]:
    """All ways to seat them that differ in more than the numbers of pipelines. The first seat stays rank 0."""
    for groups in _groups(list(range(1, len(seats))), grid, first=(0,)):
        for arranged in product(*(permutations(group) for group in groups[1:])):
            rows = (groups[0], *arranged)
            yield [seats[rows[stage][number]] for number in range(grid.replicas) for stage in range(grid.stages)]


def _swapped(seats: Sequence[Seat]) -> Iterator[Sequence[Seat]]:
    """Each two of them in each other's place, but for rank 0."""
    for one, other in combinations(range(1, len(seats)), 2):
        order = list(seats)
        order[one], order[other] = order[other], order[one]
        yield order


def _groups(left: list[int], grid: Grid, first: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Ways to share numbers out in groups of `grid.replicas`, the first of which holds `first`."""
    if not left and not first:
        yield ()
        return
    for chosen in combinations(left, grid.replicas - len(first)):
        rest = [number for number in left if number not in chosen]
        for others in _groups(rest, grid):
            yield ((*first, *chosen), *others)


class _Planner:
    """Judges ways to seat the machines of one run."""

    def __init__(self, run: RunSpec, speeds: Mapping[str, float], mbps: Mbps, grid: Grid) -> None:
        self.run, self.grid = run, grid
        self._speeds, self._mbps = speeds, cache(mbps)
        self._splits: dict[tuple[tuple[int | None, float], ...], Ranges] = {}

    def layout(self, order: Sequence[Seat]) -> Layout:
        """The machines in that order, with their layers and samples. ConfigError where it does not fit."""
        counted: dict[str, int] = {}
        seats = []
        for rank, seat in enumerate(order):
            local = counted.setdefault(seat.node.name, 0)
            seats.append(replace(seat, rank=rank, local_rank=local))
            counted[seat.node.name] += 1
        stages = self._stages(seats)
        paces = [self._pace_of(seats, stages, number) for number in range(self.grid.replicas)]
        samples = shares(self.run.training.batch_size, paces)
        nodes = [seat.node.name for seat in seats]
        return Layout(tuple(seats), stages, samples, traffic_of(self.run, nodes, stages, samples, self._mbps))

    def best(self, orders: Sequence[Sequence[Seat]]) -> Layout:
        """Of the orders that compute nearly as fast as the fastest the one whose wires take the least time; of equal
        ones the first. ConfigError where none fits.
        """
        found: list[tuple[float, Layout]] = []
        error: ConfigError | None = None
        for order in orders:
            try:
                layout = self.layout(order)
            except ConfigError as problem:
                error = error or problem
            else:
                found.append((self.pace(layout), layout))
        if not found:
            assert error is not None, "there is an order"
            raise error
        enough = NEARLY * max(pace for pace, _ in found)
        quick = (layout for pace, layout in found if pace >= enough)
        return min(quick, key=lambda layout: (layout.traffic.seconds, layout.traffic.total_s, self.unlike(layout)))

    def pace(self, layout: Layout) -> float:
        """How fast all pipelines together compute, in samples of any unit."""
        return math.fsum(self._pace_of(layout.seats, layout.stages, number) for number in range(self.grid.replicas))

    def unlike(self, layout: Layout) -> int:
        """How much memory machines have that their replicas have not."""
        have = [
            [layout.seats[rank].node.memory_mb or 0 for rank in self.grid.stage(s)] for s in range(self.grid.stages)
        ]
        return sum(sum(each) - len(each) * min(each) for each in have)

    def refuse_too_few_layers(self, seats: Sequence[Seat]) -> None:
        """ConfigError where there are more stages than layers."""
        layers, count = layers_of(self.run.model), len(seats)
        if self.grid.stages <= layers:
            return
        what = f"{count} ranks in {self.grid.replicas} pipelines are {self.grid.stages} stages each, and there are"
        more = next((n for n in range(self.grid.replicas, count) if not count % n and count // n <= layers), None)
        fix = f"write replicas: {more}, or name fewer machines" if more else "name fewer machines"
        raise ConfigError([Problem("", 0, "replicas", f"{what} {layers} layers", fix)])

    def _stages(self, seats: Sequence[Seat]) -> Ranges:
        machines = [self._replicas_as_one([seats[r] for r in self.grid.stage(s)]) for s in range(self.grid.stages)]
        kinds = tuple((machine.memory_mb, machine.speed) for machine in machines)
        if kinds not in self._splits:
            self._splits[kinds] = training_stages(self.run, machines)
        return self._splits[kinds]

    def _replicas_as_one(self, seats: Sequence[Seat]) -> Machine:
        """All of them hold the same layers: the one with the least memory says how many, their mean speed how long."""
        memory = [share_of_memory(seat.node.memory_mb, seat.ranks_here) for seat in seats]
        least = min((each for each in memory if each is not None), default=None)
        speed = math.fsum(map(self._speed, seats)) / len(seats)
        return Machine(" and ".join(seat.node.name for seat in seats), least, speed)

    def _speed(self, seat: Seat) -> float:
        return self._speeds.get(seat.node.name, 1.0)

    def _pace_of(self, seats: Sequence[Seat], stages: Ranges, pipeline: int) -> float:
        """A pipeline is as fast as its slowest stage. The head is work for the last one."""
        ranks = self.grid.pipeline(pipeline)
        work = [float(stop - start) for start, stop in stages]
        work[-1] += head_layers(self.run.model)
        return min(self._speed(seats[rank]) / each for rank, each in zip(ranks, work, strict=True))
