"""The ranks of a run and the links between them as a picture: what was measured on each, the slowest one marked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from smolcluster.observe.page.markup import Markup, join, section, tag
from smolcluster.observe.ranks import LinkFigures, slow_links, slowest_link
from smolcluster.plan.types import RankPlan

_WIDTH, _HEIGHT = 560.0, 360.0
_BOX_WIDTH, _BOX_HEIGHT = 118.0, 40.0
# More would be a picture of labels.
_MOST_LABELS = 15
_MOST_LETTERS = 15


def topology(
    ranks: Sequence[RankPlan], shape: str, links: Sequence[LinkFigures], machine: Callable[[int], str]
) -> Markup:
    """The picture, and the slowest link in words. `machine`: what people know a rank by."""
    slow = slowest_link(links)
    said = "No link was measured: track_network_metrics is off, or the run was too short."
    if slow is not None:
        trip = "" if slow.rtt_ms is None else f", {slow.rtt_ms:.2f} ms there and back"
        said = (
            f"Slowest link: from rank {slow.rank} ({machine(slow.rank)}) to rank {slow.peer} ({machine(slow.peer)}), "
            f"{slow.mbps:,.0f} Mbit/s as it was used{trip}."
        )
    elif len(ranks) == 1:
        said = "One rank: nothing goes over a wire."
    return section("Topology", picture(ranks, shape, links), tag("p", said))


def picture(ranks: Sequence[RankPlan], shape: str, links: Sequence[LinkFigures]) -> Markup:
    """Boxes on an ellipse, in rank order; lines where something was measured, else where the shape has a link."""
    places = _places(len(ranks))
    at = {rank.rank: places[index] for index, rank in enumerate(ranks)}
    pairs = _pairs(ranks, shape, links)
    slow = slow_links(links)
    few = len(pairs) <= _MOST_LABELS
    drawn = [_link(at, pair, links, slow, few) for pair in pairs if pair[0] in at and pair[1] in at]
    boxes = [_box(rank, at[rank.rank]) for rank in ranks]
    what = f"{len(ranks)} ranks, {shape.lower()}"
    return tag(
        "figure",
        tag("svg", *drawn, *boxes, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", role="img", aria_label=what, class_="wide"),
    )


def _places(count: int) -> list[tuple[float, float]]:
    if count == 1:
        return [(_WIDTH / 2, _HEIGHT / 2)]
    across, down = _WIDTH / 2 - _BOX_WIDTH / 2 - 6, _HEIGHT / 2 - _BOX_HEIGHT / 2 - 8
    angles = [math.tau * number / count - math.pi / 2 for number in range(count)]
    return [(_WIDTH / 2 + across * math.cos(angle), _HEIGHT / 2 + down * math.sin(angle)) for angle in angles]


def _pairs(ranks: Sequence[RankPlan], shape: str, links: Sequence[LinkFigures]) -> list[tuple[int, int]]:
    measured = sorted({(min(link.rank, link.peer), max(link.rank, link.peer)) for link in links})
    if measured:
        return measured
    numbers = [rank.rank for rank in ranks]
    if shape == "STAR":
        return [(numbers[0], other) for other in numbers[1:]]
    if shape == "CHAIN":
        return list(itertools.pairwise(numbers))
    return [(a, b) for index, a in enumerate(numbers) for b in numbers[index + 1 :]]


def _link(
    at: dict[int, tuple[float, float]],
    pair: tuple[int, int],
    links: Sequence[LinkFigures],
    slow: Sequence[LinkFigures],
    labelled: bool,
) -> Markup:
    (x1, y1), (x2, y2) = at[pair[0]], at[pair[1]]
    mine = [link for link in links if {link.rank, link.peer} == set(pair)]
    speeds = [link.mbps for link in mine if link.mbps is not None]
    marked = any(link in slow for link in mine)
    line = tag(
        "line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_="link slow" if marked else "link"
    )
    if not labelled or not mine:
        return line
    speed = [f"{min(speeds):,.0f} Mbit/s"] if speeds else []
    trips = [link.rtt_ms for link in mine if link.rtt_ms is not None]
    label = ", ".join([*speed, *([f"{max(trips):.2f} ms"] if trips else [])])
    # Off the middle, so that labels of lines that cross there do not lie on each other.
    x, y = x1 + (x2 - x1) * 0.45, y1 + (y2 - y1) * 0.45
    return join(line, tag("text", label, x=f"{x:.1f}", y=f"{y - 5:.1f}", text_anchor="middle"))


def _box(rank: RankPlan, place: tuple[float, float]) -> Markup:
    x, y = place
    name = rank.node if len(rank.node) <= _MOST_LETTERS else rank.node[: _MOST_LETTERS - 1] + "…"
    return tag(
        "g",
        tag("title", f"rank {rank.rank} on {rank.node}"),
        tag(
            "rect", x=f"{x - _BOX_WIDTH / 2:.1f}", y=f"{y - _BOX_HEIGHT / 2:.1f}", width=_BOX_WIDTH,
            height=_BOX_HEIGHT, rx=8, class_="node",
        ),
        tag("text", name, x=f"{x:.1f}", y=f"{y - 2:.1f}", text_anchor="middle", class_="name"),
        tag("text", f"rank {rank.rank}, {rank.role}", x=f"{x:.1f}", y=f"{y + 13:.1f}", text_anchor="middle"),
    )  # fmt: skip
