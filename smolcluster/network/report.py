"""A verification as a person reads it, and as the files of `runs/network/<time>/`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from smolcluster.network.findings import Finding, Verified
from smolcluster.network.picture import draw

REPORT_SCHEMA = 1
_SHOWN = 6


def pairs_table(verified: Verified) -> Table:
    """Every pair with what was measured."""
    table = Table(title="network", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("from", "to", "address", "over", "round trip", "bandwidth", "MTU"):
        table.add_column(name, justify="right" if name in ("round trip", "bandwidth", "MTU") else "left", no_wrap=True)
    pings = {(ping.src, ping.dst): ping for ping in verified.measured.pings}
    speeds = {(speed.src, speed.dst): speed for speed in verified.measured.speeds}
    for pair in verified.pairs:
        ping, speed = pings.get((pair.src, pair.dst)), speeds.get((pair.src, pair.dst))
        trip = "-" if ping is None else "[red]none[/]" if ping.rtt_ms is None else f"{ping.rtt_ms:.2f} ms"
        mbps = "-" if speed is None or speed.mbps is None else f"{speed.mbps:,.0f} Mbit/s"
        mtu = "-" if ping is None or ping.mtu is None else str(ping.mtu)
        over = ", ".join(pair.passes) or pair.networks[0]
        table.add_row(escape(pair.src), escape(pair.dst), escape(pair.destination), escape(over), trip, mbps, mtu)
    return table


def told(finding: Finding) -> str:
    """A finding in a few lines: what is wrong, the way out, the pairs that it explains."""
    note = "" if finding.fails else "note: "
    lines = [f"{note}{finding.cause}: {finding.what}", f"    fix: {finding.fix}"]
    if finding.pairs:
        shown = ", ".join(finding.pairs[:_SHOWN])
        more = len(finding.pairs) - _SHOWN
        word = "broken by it" if finding.fails else "seen on"
        lines.append(f"    {word}: {shown}" + (f" and {more} more" if more > 0 else ""))
    return "\n".join(lines)


def verification_files(verified: Verified, findings: Sequence[Finding]) -> dict[str, str]:
    """The files of a verification, by name. The same inputs give the same bytes."""
    speeds: dict[str, float] = {}
    for pair in verified.pairs:
        speed = next((s.mbps for s in verified.measured.speeds if (s.src, s.dst) == (pair.src, pair.dst)), None)
        if speed is not None and len(pair.networks) == 1:
            speeds[pair.networks[0]] = max(speed, speeds.get(pair.networks[0], 0.0))
    report = {
        "schema": REPORT_SCHEMA,
        "cluster": verified.cluster.name,
        "status": "failed" if any(finding.fails for finding in findings) else "completed",
        "findings": [finding.model_dump() for finding in findings],
        "pairs": [pair.model_dump() for pair in verified.pairs],
        "measured": verified.measured.model_dump(),
    }
    return {
        "report.json": json.dumps(report, indent=2) + "\n",
        "wanted.json": verified.wanted.to_json(),
        "topology.svg": draw(verified.cluster, findings, speeds),
    }
