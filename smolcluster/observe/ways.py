"""How many ways from machine to machine check.yml has tried, of how many, and why not the others, in words."""

from __future__ import annotations

from smolcluster.doctor.report import Check
from smolcluster.spec.problems import listed


def ways_told(check: Check) -> str:
    """A line, and one for each reason why some were not tried; empty where there are no two machines to speak of."""
    reasons: dict[str, list[str]] = {}
    for one in check.untried:
        reasons.setdefault(one.why, []).append(one.node)
    meant = len(check.ways) + len(check.untried)
    if not meant:
        several = sum(machine.looked is not None for machine in check.machines) > 1
        return "from machine to machine: no way was tried" if several else ""
    reached = sum(not way.why for way in check.ways)
    lines = [
        f"from machine to machine, at a run's addresses: {len(check.ways)} of {meant} ways were tried,"
        f" {reached} got through"
    ]
    lines += [f"  {len(nodes)} not: {listed(dict.fromkeys(nodes))} {why}" for why, nodes in reasons.items()]
    return "\n".join(lines)
