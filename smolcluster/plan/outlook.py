"""What each strategy would make of these machines, and what to change to gain most. Pure.

A `Case` is a run with its ranks, as a plan has them. What could be changed is tried by predicting again with one thing
different: another wire format, shares by speed, one machine fewer, a link as fast as the next better kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from smolcluster.errors import ConfigError
from smolcluster.plan.forecast import Crew, Forecast, alone, forecast
from smolcluster.plan.make import make_plan
from smolcluster.plan.predict import Link, Links
from smolcluster.plan.profile import Profile, tokens_per_sample
from smolcluster.plan.room import alone_mb
from smolcluster.plan.seats import seats_of
from smolcluster.plan.shares import EVERYBODY_WAITS, quickest
from smolcluster.plan.speeds import Speeds, costs_of
from smolcluster.plan.types import Plan
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.problems import listed
from smolcluster.spec.run import STARS, RunSpec, WireFormat
from smolcluster.topology import NoRouteError, Topology

# A change that gains less is within what measurements differ by.
WORTH = 1.05
# Smaller than fp32.
FORMATS: tuple[WireFormat, ...] = ("int8", "bf16")
# Wires that a link could be replaced by, in Mbit/s, and what they are called.
BETTER: tuple[tuple[float, str], ...] = (
    (1000.0, "gigabit Ethernet"),
    (2500.0, "2.5 gigabit Ethernet"),
    (10000.0, "10 gigabit Ethernet or Thunderbolt"),
)


@dataclass(frozen=True)
class Case:
    """A run and its ranks, with what is predicted of them."""

    run: RunSpec
    crew: Crew
    forecast: Forecast


@dataclass(frozen=True)
class Gain:
    """One change, how the command that shows it is told of it, and tokens (samples) a second before and after."""

    change: str
    how: str
    before: float
    after: float

    @property
    def times(self) -> float:
        """How many times as fast."""
        return self.after / self.before


@dataclass(frozen=True)
class Alone:
    """The machine that takes a global batch soonest by itself, and its tokens (samples) a second."""

    node: str
    rate: float


def case_of(cluster: ClusterSpec, plan: Plan, profile: Profile) -> Case:
    """The plan's run. KeyError names a machine whose speed the profile has not."""
    run = plan.run
    seats = seats_of(cluster, run)
    idle = {seat.rank for seat in seats if seat.participant.role == "server" and not run.server_trains}
    known = _with_idle(profile, [seat.node.name for seat in seats if seat.rank in idle])
    costs = costs_of(run, known, seats)
    speeds = Speeds(Topology(cluster), profile)
    crew = Crew(
        nodes=tuple(rank.node for rank in plan.ranks),
        costs=tuple(costs),
        samples=tuple(rank.samples for rank in plan.ranks),
        links=speeds.link,
        busy=speeds.busy,
        wire=plan.wire,
        stages=plan.stages,
    )
    return Case(run, crew, forecast(run, crew))


def _with_idle(profile: Profile, idle: Sequence[str]) -> Profile:
    """A server that computes no gradients needs no speed of its own: it takes the slowest one's."""
    missing = {name: min(profile.speeds.values()) for name in idle if name not in profile.speeds}
    return profile.model_copy(update={"speeds": {**profile.speeds, **missing}}) if missing else profile


def fastest_alone(cluster: ClusterSpec, case: Case) -> Alone | None:
    """Who is quickest without the others, with the same batch; None where nobody has the memory."""
    need_mb = alone_mb(case.run)
    for seconds, node in alone(case.crew.nodes, case.crew.costs, case.forecast.samples):
        room = cluster.node(node).memory_mb
        if room is None or need_mb <= room:
            return Alone(node, case.forecast.samples * tokens_per_sample(case.run.model) / seconds)
    return None


def by_speed(case: Case) -> Case | None:
    """The same with shares of the batch by speed; None where they are already, or nobody waits for the slowest."""
    if case.run.balance == "auto" or case.run.strategy not in EVERYBODY_WAITS or len(case.crew.nodes) < 2:
        return None
    crew = replace(case.crew, samples=quickest(case.forecast.samples, case.crew.costs))
    return Case(case.run, crew, forecast(case.run, crew))


def gains(cluster: ClusterSpec, case: Case, others: Mapping[str, Case], plan: Plan, profile: Profile) -> list[Gain]:
    """What could be changed, best first, each alone; only what is worth it. `others`: other strategies, by label."""
    found = [
        *_other_strategies(case, others),
        *_by_itself(cluster, case),
        *_formats(cluster, case),
        *_balanced(case),
        *_without(cluster, case, plan, profile),
        *_faster_links(cluster, case),
    ]
    worth = [gain for gain in found if gain.times >= WORTH]
    return sorted(worth, key=lambda gain: -gain.after)


def _again(case: Case, change: str, how: str, run: RunSpec | None = None, **crew: object) -> Gain:
    """The case with something different."""
    told = forecast(run or case.run, replace(case.crew, **crew))  # type: ignore[arg-type]
    return Gain(change, how, case.forecast.rate, told.rate)


def _other_strategies(case: Case, others: Mapping[str, Case]) -> list[Gain]:
    return [
        Gain(f"strategy {label}", _flags(other.run), case.forecast.rate, other.forecast.rate)
        for label, other in others.items()
        if label != case.forecast.label and len(other.crew.nodes) > 1
    ]


def _flags(run: RunSpec) -> str:
    stage = f" -e override=fsdp_stage={run.fsdp_stage}" if run.strategy == "fsdp" else ""
    return f"-e strategy={run.strategy}{stage}"


def _by_itself(cluster: ClusterSpec, case: Case) -> list[Gain]:
    best = fastest_alone(cluster, case) if len(case.crew.nodes) > 1 else None
    if best is None:
        return []
    how = f"-e strategy=single -e nodes={best.node} -e override=training.batch_size={case.forecast.samples}"
    return [Gain(f"{best.node} alone", how, case.forecast.rate, best.rate)]


def _formats(cluster: ClusterSpec, case: Case) -> list[Gain]:
    """Those with which it still fits: what int8 rounds off is kept."""
    if case.run.strategy in ("single", "mp") or len(case.crew.nodes) < 2:
        return []
    found = []
    for wire in FORMATS:
        told = forecast(case.run, replace(case.crew, wire=wire))
        room = {node: cluster.node(node).memory_mb for node in told.nodes}
        if wire != case.crew.wire and all(need <= (room[node] or need) for node, need in told.memory_mb.items()):
            found.append(Gain(f"wire {wire}", f"-e override=wire={wire}", case.forecast.rate, told.rate))
    return found


def _balanced(case: Case) -> list[Gain]:
    shared = by_speed(case)
    if shared is None:
        return []
    how = "-e override=balance=auto"
    return [Gain("shares of the batch by speed", how, case.forecast.rate, shared.forecast.rate)]


def _without(cluster: ClusterSpec, case: Case, plan: Plan, profile: Profile) -> list[Gain]:
    """One machine fewer, whichever, planned anew."""
    names = list(dict.fromkeys(case.crew.nodes))
    least = 3 if case.run.strategy != "single" else 2
    found = []
    for name in names if len(names) >= least else []:
        left = tuple(each for each in plan.run.participants if each.node != name)
        if case.run.strategy in STARS and left[0].role != "server":
            continue
        try:
            fewer = case_of(cluster, make_plan(cluster, plan.run.model_copy(update={"participants": left})), profile)
        except ConfigError:
            continue
        others = listed(each.node for each in left).replace(", ", ",")
        found.append(Gain(f"without {name}", f"-e nodes={others}", case.forecast.rate, fewer.forecast.rate))
    return found


def _faster_links(cluster: ClusterSpec, case: Case) -> list[Gain]:
    """Wi-Fi replaced by a cable; the slowest link of all by the next better kind."""
    names = list(dict.fromkeys(case.crew.nodes))
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    if not pairs:
        return []
    topology = Topology(cluster)
    found = []
    air = {pair for pair in pairs if _medium(topology, *pair) == "wifi"}
    if air:
        wired = _rewired(case, air, BETTER[0][0])
        found.append(_again(case, "Ethernet cables instead of Wi-Fi", "plug them into the router", None, **wired))
    a, b = min(pairs, key=lambda pair: case.crew.links(*pair)[0])
    now = case.crew.links(a, b)[0]
    better = next(((mbps, name) for mbps, name in BETTER if mbps > now * 1.2), None)
    if better is not None and (a, b) not in air and _medium(topology, a, b) != "loopback":
        how = f"{better[1]} between them"
        rewired = _rewired(case, {(a, b)}, better[0])
        found.append(_again(case, f"a faster link {a} - {b} ({now:,.0f} Mbit/s now)", how, None, **rewired))
    return found


def _medium(topology: Topology, a: str, b: str) -> str:
    try:
        return topology.route(a, b).medium
    except NoRouteError:
        return ""


def _rewired(case: Case, pairs: set[tuple[str, str]], mbps: float) -> dict[str, Links]:
    """A faster wire between those: how fast it is beside computing nobody knows, so the same."""
    changed = {"links": _quicker(case.crew.links, pairs, mbps)}
    return changed | ({"busy": _quicker(case.crew.busy, pairs, mbps)} if case.crew.busy is not None else {})


def _quicker(links: Links, pairs: set[tuple[str, str]], mbps: float) -> Callable[[str, str], Link]:
    """The same links, those between these pairs at least so fast; round trips stay what they are."""

    def link(a: str, b: str) -> Link:
        now, rtt_ms = links(a, b)
        return (max(now, mbps) if (a, b) in pairs or (b, a) in pairs else now), rtt_ms

    return link
