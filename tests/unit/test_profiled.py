"""profile.json out of what ranks left in a measurement's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.errors import InputError
from smolcluster.observe.profiled import ProfileStory, profile_of
from smolcluster.observe.report import read_run
from smolcluster.observe.served import read_story, summarise_story
from smolcluster.plan.measure import make_profile_plan
from smolcluster.plan.types import ProfilePlan
from smolcluster.runtime.pacenote import LinkPace, RankPace
from smolcluster.runtime.results import write_result
from smolcluster.runtime.runfolder import RankResult, RunFolder, write_atomic
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve

TWO = """\
schema: 1
name: two
machines:
  a: {connection: local, ranks: 2}
  b: {connection: local}
networks:
  loopback: {medium: loopback, members: {a: 127.0.0.1, b: 127.0.0.1}}
"""
# By rank: Mbit/s from each other rank, and milliseconds to it and back.
FROM = {0: {1: (9000, 0.1), 2: (900, 1.0)}, 1: {0: (9000, 0.1), 2: (800, 3.0)}, 2: {0: (700, 2.0), 1: (950, 1.0)}}


def plan_of(folder: Path) -> ProfilePlan:
    (folder / "two.smol.yml").write_text(TWO)
    found = resolve(Request(folder / "two.smol.yml", "classicdp"))
    return make_profile_plan(found.cluster, found.run)


def left(folder: Path, *, without: int | None = None) -> RunFolder:
    """A measurement's folder; one rank's pace may be missing."""
    run, plan = RunFolder(folder / "run"), plan_of(folder)
    write_atomic(run.plan, plan.to_json())
    for rank in plan.ranks:
        pace = RankPace(
            rank=rank.rank, node=rank.node, time=1_790_000_000.0 + rank.rank, steps=9, step_s=0.5, tokens=1000,
            samples=8, update_s=0.01 * (1 + rank.rank), device="cpu", threads=2, versions={"torch": "2"},
            links=tuple(LinkPace(peer=p, mbps=m, rtt_ms=t) for p, (m, t) in FROM[rank.rank].items()),
        )  # fmt: skip
        if rank.rank != without:
            write_atomic(run.pace(rank.node, rank.rank), pace.model_dump_json(by_alias=True))
        write_result(
            run,
            RankResult(
                rank=rank.rank, node=rank.node, status="completed", exit_code=0, steps=9, tokens=9000, seconds=7
            ),
        )
    return run


def test_ranks_of_a_machine_are_added_and_the_slowest_link_counts(tmp_path: Path) -> None:
    story = read_story(left(tmp_path).path)
    assert isinstance(story, ProfileStory)
    assert story.whole
    profile = profile_of(story)
    assert profile.speeds == {"a": 4000.0, "b": 2000.0}
    assert [(link.src, link.dst, link.mbps, link.rtt_ms) for link in profile.links] == [
        ("a", "b", 700.0, 3.0),
        ("b", "a", 800.0, 2.0),
    ]
    assert profile.measured is not None
    assert profile.measured.date == "2026-09-21T14:13:22Z"
    assert (profile.measured.nodes["a"].ranks, profile.measured.nodes["a"].update_s) == (2, 0.02)
    summary = summarise_story(story)
    assert (summary.kind, summary.status, summary.tokens, summary.tokens_per_s) == ("profile", "completed", 27000, 6000)


def test_a_rank_that_left_nothing_makes_it_no_profile(tmp_path: Path) -> None:
    story = read_story(left(tmp_path, without=1).path)
    assert isinstance(story, ProfileStory)
    assert not story.whole


def test_a_damaged_pace_is_noted_and_skipped(tmp_path: Path) -> None:
    run = left(tmp_path)
    run.pace("b", 2).write_text("{")
    story = read_story(run.path)
    assert isinstance(story, ProfileStory)
    assert not story.whole
    assert story.notes == (f"{run.pace('b', 2)}: is damaged, and was skipped",)


def test_nothing_was_trained_in_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a run that measured machines and wires; nothing was trained in it"):
        read_run(left(tmp_path).path)
