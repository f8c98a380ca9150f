"""check.json: what check.yml found and what is predicted, as one object, and what makes it. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from pydantic import Field

from smolcluster.doctor.between import Way
from smolcluster.doctor.machines import Finding, Machine
from smolcluster.doctor.untried import Untried
from smolcluster.plan.forecast import Forecast
from smolcluster.plan.outlook import Case, Gain, by_speed, fastest_alone
from smolcluster.plan.predict_serving import ServingPrediction
from smolcluster.plan.profile import Profile
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.topology import NoRouteError, Topology

CHECK_SCHEMA = 1
# A link that has less than this part of what the inventory says is told.
SLOW_LINK = 0.5


class Predicted(Frozen):
    """One strategy. `why_not`: why it cannot be, or is not predicted; then there are no figures."""

    strategy: str
    why_not: str = ""
    tokens_per_s: float | None = None
    step_s: float | None = None
    compute_s: float | None = None
    wire_s: float | None = None
    bytes_per_step: int | None = None
    samples: int | None = None
    memory_mb: dict[str, int] = Field(default_factory=dict)
    most_of_it: str = ""


class FastestAlone(Frozen):
    """Whether the fastest machine by itself would be quicker than the best of all strategies as batches are shared.
    `by_speed`: the strategy that is best with shares by speed instead, empty where that changes none.
    """

    node: str
    tokens_per_s: float
    quicker: bool
    by_speed: str = ""
    by_speed_tokens_per_s: float | None = None


class Change(Frozen):
    """What to change to gain, and how much."""

    change: str
    how: str
    tokens_per_s_before: float
    tokens_per_s_after: float


class Serving(Frozen):
    """What a served model would do. `layers`: by machine, half-open."""

    model: str
    why_not: str = ""
    layers: dict[str, str] = Field(default_factory=dict)
    one_stream: float | None = None
    streams: int | None = None
    several_streams: float | None = None
    prompt_tokens_per_s: float | None = None
    hops_ms: float | None = None


class Measurement(Frozen):
    """The speeds that predictions are made of: `date` in UTC, None for speeds written by hand."""

    date: str | None
    old: bool
    speeds: dict[str, float]


class Check(Frozen):
    """check.json."""

    schema_: int = Field(default=CHECK_SCHEMA, alias="schema", serialization_alias="schema")
    time: str
    cluster: str
    counts: str
    machines: tuple[Machine, ...]
    findings: tuple[Finding, ...]
    ways: tuple[Way, ...] = ()
    untried: tuple[Untried, ...] = ()
    measured: Measurement | None
    strategy: str
    predictions: tuple[Predicted, ...]
    alone: FastestAlone | None
    serving: Serving | None
    gains: tuple[Change, ...]

    @property
    def blocked(self) -> bool:
        """Whether a run with all these machines could not start."""
        return any(finding.blocks for finding in self.findings)


def predicted_of(told: Forecast) -> Predicted:
    """The figures of a forecast."""
    return Predicted(
        strategy=told.label,
        tokens_per_s=_four(told.rate),
        step_s=_four(told.step_s),
        compute_s=_four(told.prediction.compute_s),
        wire_s=_four(told.prediction.wire_s),
        bytes_per_step=told.bytes_per_step,
        samples=told.samples,
        memory_mb=told.memory_mb,
        most_of_it=told.limit,
    )


def serving_of(model: str, layers: Mapping[str, str], told: ServingPrediction) -> Serving:
    """The figures of a served model."""
    return Serving(
        model=model,
        layers=dict(layers),
        one_stream=_four(told.one),
        streams=told.streams,
        several_streams=_four(told.several),
        prompt_tokens_per_s=_four(told.prompt),
        hops_ms=_four(told.hops_ms),
    )


def alone_of(cluster: ClusterSpec, cases: Sequence[Case]) -> FastestAlone | None:
    """The fastest machine by itself, against the best of the others; None where the model fits on none."""
    several = [case for case in cases if len(case.crew.nodes) > 1]
    alone = [one for case in several if (one := fastest_alone(cluster, case)) is not None]
    if not alone:
        return None
    found = max(alone, key=lambda one: one.rate)
    best = max(case.forecast.rate for case in several)
    told = FastestAlone(node=found.node, tokens_per_s=_four(found.rate), quicker=found.rate > best)
    shared = [other.forecast for case in several if (other := by_speed(case)) is not None]
    if not shared:
        return told
    quickest = max(shared, key=lambda other: other.rate)
    return told.model_copy(update={"by_speed": quickest.label, "by_speed_tokens_per_s": _four(quickest.rate)})


def changes_of(found: Sequence[Gain], most: int = 8) -> tuple[Change, ...]:
    """The best of them."""
    return tuple(
        Change(
            change=gain.change,
            how=gain.how,
            tokens_per_s_before=_four(gain.before),
            tokens_per_s_after=_four(gain.after),
        )
        for gain in found[:most]
    )


def measurement_of(profile: Profile, now: datetime.datetime, most_days: float) -> Measurement:
    """Where the speeds are from. `old`: measured longer ago than that."""
    if profile.measured is None:
        return Measurement(date=None, old=False, speeds=profile.speeds)
    date = datetime.datetime.fromisoformat(profile.measured.date.replace("Z", "+00:00"))
    old = now - date > datetime.timedelta(days=most_days)
    return Measurement(date=profile.measured.date, old=old, speeds=profile.speeds)


def slow_links(cluster: ClusterSpec, profile: Profile) -> list[Finding]:
    """Links that were measured to have far less than the inventory says."""
    topology, found = Topology(cluster), []
    names = {node.name for node in cluster.nodes}
    for link in profile.links:
        if not {link.src, link.dst} <= names:
            continue
        try:
            route = topology.route(link.src, link.dst)
        except NoRouteError:
            continue
        if route.medium != "loopback" and link.mbps < SLOW_LINK * route.speed_mbps:
            wires = " and ".join(route.networks)
            what = f"to {link.dst}: {link.mbps:,.0f} Mbit/s, the inventory says {route.speed_mbps:,.0f} of {wires}"
            found.append(Finding(node=link.src, what=what, fix="look at cable and port; network.yml measures it alone"))
    return found


def _four(value: float) -> float:
    """Four digits: more are chance."""
    return float(f"{value:.4g}")
