"""Faults that a config asks for: whether this plan has the ranks they name, and the note that nobody can overlook."""

from __future__ import annotations

from smolcluster.plan.wires import Complaint
from smolcluster.spec.run import RunSpec


def fault_problems(run: RunSpec, world_size: int, transport: str) -> list[Complaint]:
    """Faults of ranks that there are not, and of links that are not ours."""
    problems: list[Complaint] = []
    for number, fault in enumerate(run.faults):
        key = f"faults[{number}]"
        named = [rank for rank in (fault.rank, fault.peer, *(fault.ranks or ())) if rank is not None]
        missing = sorted(rank for rank in named if not 0 <= rank < world_size)
        if world_size == 1:
            what = "this run has one rank, and nobody who would notice a fault"
            problems.append((key, what, "leave faults out, or train with more ranks"))
        elif missing:
            what = f"there is no rank {missing[0]}: this run has ranks 0 to {world_size - 1}"
            problems.append((key, what, "name one of those"))
        elif fault.on_links and transport == "gloo":
            what = f"a {fault.kind} is done to our own links, and gloo has others"
            problems.append((key, what, "use transport: smol"))
    return problems


def fault_notes(run: RunSpec) -> list[str]:
    """One for each."""
    return [f"faults: this run is broken on purpose: {fault.told()}" for fault in run.faults]
