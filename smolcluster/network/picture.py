"""The network as a picture: machines in a row, wires below each other, and what is wrong in red. SVG, made here."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from smolcluster.network.findings import Finding
from smolcluster.spec.cluster import ClusterSpec, Network

_WIDTH, _TOP, _ROW, _BOX, _LEFT = 120, 84, 56, (96, 34), 230
_COLOURS = {"thunderbolt": "#7c3aed", "ethernet": "#0369a1", "wifi": "#15803d", "loopback": "#6b7280"}
_BAD = "#dc2626"


def draw(cluster: ClusterSpec, findings: Sequence[Finding] = (), speeds: dict[str, float] | None = None) -> str:
    """The SVG's text. `speeds` are megabits a second measured on a wire. The same inputs give the same bytes."""
    names = [node.name for node in cluster.nodes]
    bad = {finding.node for finding in findings}
    lines = [f"{finding.cause}: {finding.what}" for finding in findings]
    # A letter is about 6.6 wide at this size.
    longest = max((len(line) for line in lines), default=0)
    width = max(_LEFT + _WIDTH * max(1, len(names)), 24 + int(6.6 * longest))
    height = _TOP + _ROW * len(cluster.networks) + 20 * (len(findings) + 1) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for index, name in enumerate(names):
        parts += _machine(name, _x(index), _BAD if name in bad else "#111827")
    for row, network in enumerate(cluster.networks):
        parts += _wire(network, names, _TOP + _ROW * row + 30, (speeds or {}).get(network.name))
    base = _TOP + _ROW * len(cluster.networks) + 20
    parts += [_text(12, base + 20 * row, line, _BAD) for row, line in enumerate(lines)]
    if not findings:
        parts.append(_text(12, base, "as it should be", _COLOURS["wifi"]))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(index: int) -> int:
    return _LEFT + _WIDTH * index + _WIDTH // 2


def _machine(name: str, x: int, colour: str) -> list[str]:
    width, height = _BOX
    box = (
        f'<rect x="{x - width // 2}" y="20" width="{width}" height="{height}" rx="6" fill="#f9fafb" stroke="{colour}"/>'
    )
    return [box, _text(x, 42, name, colour, "middle")]


def _wire(network: Network, names: Sequence[str], y: int, mbps: float | None) -> list[str]:
    colour = _COLOURS[network.medium]
    at = [(_x(names.index(node)), text, node) for node, text in network.members.items() if node in names]
    ends = [x for x, _, _ in at]
    speed = f"{mbps:,.0f} Mbit/s measured" if mbps is not None else f"{network.speed_mbps:,.0f} Mbit/s"
    parts = [
        _text(12, y - 4, network.name, colour),
        _text(12, y + 11, f"{network.subnet or network.medium}, {speed}", "#6b7280", size=10),
        f'<line x1="{min(ends)}" y1="{y}" x2="{max(ends)}" y2="{y}" stroke="{colour}" stroke-width="3"/>',
    ]
    gates = set(network.gateways.values())
    for x, text, node in at:
        radius = 7 if node in gates else 4
        parts.append(f'<line x1="{x}" y1="54" x2="{x}" y2="{y}" stroke="{colour}" stroke-dasharray="2 3"/>')
        parts.append(f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"/>')
        parts.append(_text(x, y + 18, text, "#374151", "middle", 10))
    return parts


def _text(x: int, y: int, text: str, colour: str, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
