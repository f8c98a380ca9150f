"""What a run of kind profile measured, from what it left in its folder: profile.json, and as tables. Pure."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from smolcluster.observe.records import Reader
from smolcluster.observe.report import Culprit, RankStory, culprit_of, ending_of
from smolcluster.plan.profile import LinkSpeed, Measured, NodeMeasure, Profile, tokens_per_sample
from smolcluster.plan.types import ProfilePlan
from smolcluster.runtime.pacenote import RankPace
from smolcluster.runtime.runfolder import RunFolder, Summary, run_at

_OF_A_LINK = ("mbps", "rtt_ms", "idle_mbps", "idle_rtt_ms")


@dataclass(frozen=True)
class ProfileStory:
    """The folder of a measurement, read. `paces` by rank; one that is missing was not measured to its end."""

    run_id: str
    plan: ProfilePlan
    ranks: tuple[RankStory, ...]
    paces: dict[int, RankPace]
    culprit: Culprit | None
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether every rank was measured."""
        return len(self.paces) == self.plan.world_size


def read_profiled(path: Path, plan: ProfilePlan, reader: Reader) -> ProfileStory:
    """Read a measurement's folder."""
    folder = RunFolder(run_at(path))
    ranks = tuple(
        RankStory(rank, reader.result(folder.result(rank.node, rank.rank)), steps=(), links=()) for rank in plan.ranks
    )
    found = {rank.rank: reader.pace(folder.pace(rank.node, rank.rank)) for rank in plan.ranks}
    paces = {rank: pace for rank, pace in found.items() if pace is not None}
    return ProfileStory(folder.path.name, plan, ranks, paces, culprit_of(folder, ranks), tuple(reader.notes))


def summarise_profiled(story: ProfileStory) -> Summary:
    """Its summary.json: `tokens_per_s` is what all ranks compute together where nobody waits for anybody."""
    results = [rank.result for rank in story.ranks if rank.result is not None]
    status, exit_code, reason = ending_of(story.culprit, results)
    return Summary(
        run_id=story.run_id,
        kind="profile",
        strategy="profile",
        status=status,
        exit_code=exit_code,
        reason=reason,
        world_size=story.plan.world_size,
        transport=story.plan.transport if story.plan.world_size > 1 else "none",
        tokens=sum(result.tokens for result in results),
        seconds=max((result.seconds for result in results), default=0.0),
        tokens_per_s=sum(_speed([pace]) for pace in story.paces.values()),
        counts="samples" if tokens_per_sample(story.plan.run.model) == 1 else "tokens",
        params=story.plan.params,
        peak_rss_mb=tuple(rank.result.peak_rss_mb if rank.result else 0.0 for rank in story.ranks),
        restarts=0,
        generation=max((result.generation for result in results), default=0),
    )


def profile_of(story: ProfileStory) -> Profile:
    """The profile that its ranks measured, all of them: `story.whole`."""
    run, plan = story.plan.run, story.plan
    by_node: dict[str, list[RankPace]] = {}
    for rank in plan.ranks:
        by_node.setdefault(rank.node, []).append(story.paces[rank.rank])
    newest = max(pace.time for pace in story.paces.values())
    measured = Measured(
        date=datetime.datetime.fromtimestamp(newest, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        cluster=plan.cluster,
        model=run.model,
        batch_size=run.training.batch_size,
        precision=run.training.precision,
        activation_checkpointing=run.training.activation_checkpointing,
        grad_accumulation=run.training.grad_accumulation,
        compile=run.training.compile,
        nodes={
            node: NodeMeasure(
                ranks=len(paces),
                update_s=_rounded(max(pace.update_s for pace in paces)),
                pass_s=_rounded(max(pace.pass_s for pace in paces)),
                device=paces[0].device,
                threads=paces[0].threads,
                versions=paces[0].versions,
                decode=max(
                    (pace.decode for pace in paces if pace.decode is not None),
                    key=lambda decode: decode.layer_s[0],
                    default=None,
                ),
            )
            for node, paces in by_node.items()
        },
    )
    speeds = {node: _rounded(_speed(paces)) for node, paces in by_node.items()}
    return Profile(speeds=speeds, links=_links(story), measured=measured)


def _speed(paces: Sequence[RankPace]) -> float:
    return sum(pace.tokens / pace.step_s for pace in paces)


def _links(story: ProfileStory) -> tuple[LinkSpeed, ...]:
    """From node to node; of several ranks on a machine the slowest pair's."""
    node_of = {rank.rank: rank.node for rank in story.plan.ranks}
    found: dict[str, dict[tuple[str, str], list[float]]] = {name: defaultdict(list) for name in _OF_A_LINK}
    for rank, pace in story.paces.items():
        for link in pace.links:
            here, there = node_of[rank], node_of[link.peer]
            for name in _OF_A_LINK if here != there else ():
                value = getattr(link, name)
                way = (there, here) if name.endswith("mbps") else (here, there)
                if value is not None:
                    found[name][way].append(value)
    return tuple(
        LinkSpeed(
            src=way[0],
            dst=way[1],
            **{
                name: _rounded((min if name.endswith("mbps") else max)(ways[way]))
                for name, ways in found.items()
                if way in ways
            },
        )
        for way in sorted(found["mbps"])
        if way in found["rtt_ms"]
    )


def _rounded(value: float) -> float:
    """Four digits: more are chance."""
    return float(f"{value:.4g}")


def profile_tables(profile: Profile) -> list[RenderableType]:
    """The machines and the links, as tables."""
    measured = profile.measured
    unit = "samples/s" if measured is not None and tokens_per_sample(measured.model) == 1 else "tokens/s"
    machines = Table(title="machines, each while the others computed", title_justify="left", box=SIMPLE_HEAD)
    for name in ("node", "device", "ranks", unit, "update", "torch"):
        machines.add_column(name, justify="left" if name in ("node", "device", "torch") else "right", no_wrap=True)
    for name, speed in profile.speeds.items():
        node = measured.nodes.get(name) if measured is not None else None
        own = ["", "", "", ""]
        if node is not None:
            own = [node.device, str(node.ranks), f"{node.update_s * 1000:,.1f} ms", node.versions.get("torch", "")]
        machines.add_row(escape(name), own[0], own[1], f"{speed:,.0f}", own[2], own[3])
    if not profile.links:
        return [machines]
    links = Table(title="links, while all computed and sent", title_justify="left", box=SIMPLE_HEAD)
    for name in ("from", "to", "Mbit/s", "round trip"):
        links.add_column(name, justify="left" if name in ("from", "to") else "right", no_wrap=True)
    for link in profile.links:
        links.add_row(escape(link.src), escape(link.dst), f"{link.mbps:,.0f}", f"{link.rtt_ms:.2f} ms")
    return [machines, links]
