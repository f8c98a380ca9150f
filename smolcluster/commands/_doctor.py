"""The parts of a check: machines, every strategy's plan with its prediction, what to change, what serving would do."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from smolcluster.certs.checking import authority_fingerprint
from smolcluster.certs.ledger import read_ledger
from smolcluster.certs.places import authority_folder
from smolcluster.codehash import code_hash
from smolcluster.commands._doctor_serving import of_training, of_weights
from smolcluster.commands._inventory import again
from smolcluster.commands._profile import plan_training, read_profile
from smolcluster.commands._request import request_from
from smolcluster.doctor.between import Way, read_ways, unreached
from smolcluster.doctor.certificates import certificate_findings
from smolcluster.doctor.machines import Finding, findings_of, read_machines
from smolcluster.doctor.machines import Machine as Row
from smolcluster.doctor.memory import found_mb, too_little, unforeseen, with_memory, without_memory
from smolcluster.doctor.report import (
    Check,
    Predicted,
    Serving,
    alone_of,
    changes_of,
    measurement_of,
    predicted_of,
    slow_links,
)
from smolcluster.doctor.untried import Untried, read_untried, unknown_ways, untried_findings
from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.forecast import label_of
from smolcluster.plan.outlook import Case, case_of, gains
from smolcluster.plan.profile import Profile, tokens_per_sample, unmeasured
from smolcluster.plan.types import Plan
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.inventory import load_inventory
from smolcluster.spec.problems import listed
from smolcluster.spec.request import Request

# fsdp with each of its stages besides.
STRATEGIES = ("single", "classicdp", "fsdp", "mp", "diloco", "edp", "syncps")
MEASURE = "ansible-playbook check.yml -e profile=true"


@dataclass(frozen=True)
class Asked:
    """The flags."""

    inventory: Path
    strategy: str
    model: str | None
    dataset: str | None
    config: Path | None
    nodes: str | None
    overrides: tuple[str, ...]
    profile: Path | None
    days: float
    served: str | None = None

    @property
    def measure(self) -> str:
        """What measures these machines."""
        return again(MEASURE, self.inventory)


@dataclass(frozen=True)
class _Planned:
    """A strategy's plan and what is predicted of it; or why there is none. Where only memory is wanting the plan is
    that of machines with enough. `findings`: what memory has to do with it.
    """

    label: str
    plan: Plan | None
    case: Case | None
    why_not: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class _Known:
    """The inventory's cluster with the memory that was found (`found`, in MB by name), and measured speeds."""

    cluster: ClusterSpec
    found: Mapping[str, int]
    speeds: Profile | None


def checked(asked: Asked, said: Mapping[str, Any] | None, now: datetime.datetime) -> Check:
    """All of it, `said` as check.yml hands it over. ConfigError where the asked strategy's own config is bad, or the
    profile; too little memory is a finding."""
    cluster = load_inventory(asked.inventory)
    speeds, _ = read_profile(asked.profile, asked.inventory)
    names = tuple(name.strip() for name in (asked.nodes or "").split(",") if name.strip())
    machines: list[Row] = []
    findings: list[Finding] = []
    ways: list[Way] = []
    untried: list[Untried] = []
    if said is not None:
        told = said["machines"]
        machines, ways, untried = read_machines(cluster, told, names), read_ways(told), read_untried(cluster, told)
    found = found_mb(cluster, machines)
    known = _Known(with_memory(cluster, found), found, speeds)
    first = _planned(known, asked, asked.strategy, None, first=True)
    if said is not None:
        findings += findings_of(cluster, machines, _torch(), code_hash())
        findings += [*unreached(ways), *_certificates(machines, first.plan, now), *untried_findings(untried)]
        if words := said.get("pairs_failed"):
            findings.append(unknown_ways(cluster.controller, str(words)))
    if speeds is not None:
        findings += slow_links(cluster, speeds)
    planned = {one.label: one for one in [first, *_others(known, asked, first)]}
    findings += [finding for one in planned.values() for finding in one.findings]
    cases = {label: one.case for label, one in planned.items() if one.case is not None}
    best: tuple[Any, ...] = ()
    if first.case is not None and first.plan is not None and speeds is not None:
        best = changes_of(gains(known.cluster, first.case, cases, first.plan, speeds))
    run = first.plan.run if first.plan is not None else None
    return Check(
        time=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        cluster=cluster.name,
        counts="samples" if run is not None and tokens_per_sample(run.model) == 1 else "tokens",
        machines=tuple(machines),
        findings=tuple(_sorted(findings, asked.inventory)),
        ways=tuple(ways),
        untried=tuple(untried),
        measured=measurement_of(speeds, now, asked.days) if speeds is not None else None,
        strategy=first.label,
        predictions=tuple(_row(one) for one in planned.values()),
        alone=alone_of(known.cluster, list(cases.values())),
        serving=_serving(known.cluster, asked, first, speeds),
        gains=best,
    )


def _certificates(machines: list[Row], plan: Plan | None, now: datetime.datetime) -> list[Finding]:
    """None where this machine has no authority: then nothing is encrypted."""
    folder = authority_folder()
    authority = authority_fingerprint(folder)
    if not authority:
        return []
    needing = {rank.node for rank in plan.ranks} if plan is not None and plan.ca else set()
    return certificate_findings(read_ledger(folder.issued), authority, machines, needing, now)


def _sorted(findings: list[Finding], inventory: Path) -> list[Finding]:
    """Those that keep a run from starting first; what is to be called names the inventory."""
    told = [one.model_copy(update={"fix": again(one.fix, inventory)}) for one in findings]
    return sorted(told, key=lambda one: not one.blocks)


def _torch() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def _others(known: _Known, asked: Asked, first: _Planned) -> list[_Planned]:
    found = []
    for name in STRATEGIES:
        for stage in range(4) if name == "fsdp" else (None,):
            one = _planned(known, asked, name, stage)
            if one.label != first.label:
                found.append(one)
    return found


def _planned(known: _Known, asked: Asked, strategy: str, stage: int | None, first: bool = False) -> _Planned:
    """One strategy's plan. Of the `first`, which was asked for, a bad config is raised; of others told in the row."""
    label = strategy if stage is None else f"{strategy} {stage}"
    extra = [] if stage is None else [f"fsdp_stage={stage}"]
    if stage == 3:
        extra.append("staleness_bound=0")  # it gathers parameters in the middle of a step
    overrides = [*asked.overrides, *extra]
    try:
        request = request_from(
            asked.inventory, strategy, asked.model, asked.dataset, asked.config, None, asked.nodes, overrides
        )
        plan, refused = _plan(known, asked, request)
        findings = () if refused else _unforeseen(known, asked, request, plan, first)
    except ConfigError as error:
        if first:
            raise
        return _Planned(label, None, None, f"{error.problems[0].key} {error.problems[0].what}".strip())
    label = label_of(plan.run)
    if refused:
        told = too_little(label, refused, [rank.node for rank in plan.ranks], known.found)
        nor = f"; nor on {listed(one.node for one in told[1:])}" if told[1:] else ""
        why = f"does not fit on {told[0].node}: {refused[0].what}{nor}"
        return _Planned(label, plan, None, why, tuple(told) if first else ())
    if known.speeds is None:
        return _Planned(label, plan, None, f"nothing was measured: {asked.measure}", findings)
    if missing := unmeasured(known.speeds, plan.run):
        why = f"{known.speeds.told} has no speed of {listed(missing)}: {asked.measure}"
        return _Planned(label, plan, None, why, findings)
    return _Planned(label, plan, case_of(known.cluster, plan, known.speeds), "", findings)


def _plan(known: _Known, asked: Asked, request: Request) -> tuple[Plan, tuple[Problem, ...]]:
    """The plan on the machines as they are; where only memory keeps it from them that with enough, and what it lacks.
    ConfigError for anything else. Certificates are findings of their own, of every machine.
    """
    try:
        given = partial(with_memory, memory_mb=known.found)
        return plan_training(request, asked.profile, certify=False, told=given)[1], ()
    except ConfigError as error:
        return plan_training(request, asked.profile, certify=False, told=without_memory)[1], error.problems


def _unforeseen(known: _Known, asked: Asked, request: Request, plan: Plan, first: bool) -> tuple[Finding, ...]:
    """Where a plan goes by memory: what becomes of one that does not know of it, as a run's own. Machines are chosen
    alike for every strategy, and that takes time: so of those it is told for the one that is asked for.
    """
    if not known.found or not (plan.run.strategy == "mp" or (first and plan.run.choose_nodes)):
        return ()
    _, blind = plan_training(request, asked.profile, certify=False)
    return tuple(unforeseen(label_of(plan.run), known.cluster, blind, known.found, first))


def _row(one: _Planned) -> Predicted:
    return predicted_of(one.case.forecast) if one.case else Predicted(strategy=one.label, why_not=one.why_not)


def _serving(cluster: ClusterSpec, asked: Asked, first: _Planned, speeds: Profile | None) -> Serving | None:
    """Of the model that was named, else of the one that would be trained."""
    if asked.served is not None:
        return of_weights(cluster, asked.inventory, asked.served, asked.nodes, asked.profile, speeds, asked.measure)
    return of_training(cluster, first.plan, speeds, asked.measure) if first.plan is not None else None
