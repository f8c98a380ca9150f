"""What one rank did, in figures: for tables, pages and whoever looks for the slowest. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from smolcluster.observe.report import RankStory, RunStory, Totals
from smolcluster.runtime.metricsfile import LinkRecord

if TYPE_CHECKING:
    from smolcluster.observe.served import ServeStory

# Whose computing takes so many times the others' median holds them up.
STRAGGLES = 1.25


@dataclass(frozen=True)
class RankFigures:
    """Of all its recorded steps: how many it took, tokens (samples) a second, seconds of a step."""

    steps: int
    tokens_per_s: float
    compute_s: float
    wait_s: float
    data_s: float


def figures_of(did: Totals) -> RankFigures:
    """The figures of one rank's steps."""
    count = max(1, did.steps)
    return RankFigures(
        steps=did.steps,
        tokens_per_s=did.tokens / did.seconds if did.seconds else 0.0,
        compute_s=did.compute_s / count,
        wait_s=did.comm_s / count,
        data_s=did.data_s / count,
    )


@dataclass(frozen=True)
class LinkFigures:
    """One link from the side of `rank`: means of what was measured, Mbit/s only where anything was sent, milliseconds
    where the round trip is known."""

    rank: int
    peer: int
    mbps: float | None
    rtt_ms: float | None


def links_of(story: RunStory | ServeStory) -> tuple[LinkFigures, ...]:
    """The links of a run as both of their ends saw them."""
    found: dict[tuple[int, int], list[LinkRecord]] = {}
    for rank in story.ranks:
        for link in rank.links:
            found.setdefault((rank.plan.rank, link.peer), []).append(link)
    return tuple(_link(rank, peer, links) for (rank, peer), links in sorted(found.items()))


def _link(rank: int, peer: int, links: Sequence[LinkRecord]) -> LinkFigures:
    speeds = [link.mbps for link in links if link.mbps > 0]
    mbps = sum(speeds) / len(speeds) if speeds else None
    trips = [link.rtt_ms for link in links if link.rtt_ms]  # 0 where runs of before knew none
    return LinkFigures(rank, peer, mbps, sum(trips) / len(trips) if trips else None)


def slowest_link(links: Iterable[LinkFigures]) -> LinkFigures | None:
    """The one with the fewest Mbit/s; None where nothing was measured."""
    measured = [link for link in links if link.mbps is not None]
    return min(measured, key=lambda link: (link.mbps or 0.0, link.rank, link.peer), default=None)


def slow_links(links: Iterable[LinkFigures]) -> tuple[LinkFigures, ...]:
    """Those that are clearly slower than most of the others."""
    measured = [link for link in links if link.mbps is not None]
    usual = median(link.mbps or 0.0 for link in measured) if measured else 0.0
    return tuple(link for link in measured if (link.mbps or 0.0) < usual / STRAGGLES)


def straggler(story: RunStory) -> tuple[RankStory, float] | None:
    """The rank that held up the others by computing longer, and how many times their median it took; None: nobody did.

    Stages of split layers, and ranks that do not wait for each other, hold up nobody that way.
    """
    taking = [rank for rank in story.ranks if rank.steps and (rank.plan.rank or not story.has_server)]
    if len(taking) < 2 or story.plan.stages or any(record.inner_steps is not None for record in taking[0].steps):
        return None
    times = {rank.plan.rank: figures_of(rank.totals).compute_s for rank in taking}
    last = max(taking, key=lambda rank: times[rank.plan.rank])
    others = median(seconds for rank, seconds in times.items() if rank != last.plan.rank)
    ratio = times[last.plan.rank] / others if others else 0.0
    return (last, ratio) if ratio >= STRAGGLES else None
