"""How ranks agree that a run is done, when any of them may be killed at any moment of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from train_folders import plan_of, run_spec, write_run

from smolcluster.errors import PeerLostError
from smolcluster.jobs.nodefile import load_node
from smolcluster.plan.types import Plan
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.results import keep_finished, read_finished, read_result
from smolcluster.runtime.runfolder import RankResult, RunFolder
from smolcluster.strategies.single import Single
from smolcluster.train import part
from smolcluster.train.account import Account


def never() -> bool:
    return False


def one_rank(folder: Path, data: Path) -> tuple[Path, Plan]:
    plan = plan_of(run_spec("single", (8,), max_steps=3), (8,))
    [node_yaml] = write_run(folder, plan, data, sys.executable)
    return node_yaml, plan


def test_it_says_that_it_is_done_between_two_exchanges_when_the_model_is_there(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node_yaml, plan = one_rank(tmp_path, data)
    place, seen = RunFolder(tmp_path), []
    exchange = Single.exchange

    def watched(self: Single, values: list[float]) -> object:
        if (place.model / "model.safetensors").exists():
            seen.append(tuple(read(place, "node1", 0) is not None for read in (read_finished, read_result)))
        return exchange(self, values)

    monkeypatch.setattr(Single, "exchange", watched)
    assert part.train_part(load_node(node_yaml), plan, plan.ranks[0], never) == 0
    assert seen == [(False, False), (True, True)]


def test_a_rank_that_hears_nothing_after_its_work_failed_and_keeps_what_it_would_say(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node_yaml, plan = one_rank(tmp_path, data)
    place = RunFolder(tmp_path)

    def train(context: RunContext, account: Account, stop: object, done: Callable[[], None], _: object) -> None:
        account.steps = 3
        done()
        assert read_result(place, "node1", 0).finished
        raise PeerLostError("rank 1 is gone")

    monkeypatch.setattr(part, "train_rank", train)
    assert part.train_part(load_node(node_yaml), plan, plan.ranks[0], never) == PeerLostError.exit_code
    said, kept = read_result(place, "node1", 0), read_finished(place, "node1", 0)
    assert (said.status, said.finished, said.reason) == ("failed", False, "rank 1 is gone")
    assert (kept.status, kept.finished, kept.steps) == ("completed", True, 3)

    def again(context: RunContext, account: Account, stop: object, done: Callable[[], None], _: object) -> None:
        assert read_finished(place, "node1", 0) is None, "the others are here: it works again"

    monkeypatch.setattr(part, "train_rank", again)
    assert part.train_part(load_node(node_yaml), plan, plan.ranks[0], never) == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_whose_work_was_done_is_done_when_nobody_comes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    plan = plan_of(run_spec("classicdp", (4, 4), max_steps=3), (4, 4))
    files = write_run(tmp_path, plan, data, sys.executable)
    place = RunFolder(tmp_path)
    node = plan.ranks[rank].node
    kept = RankResult(rank=rank, node=node, status="completed", exit_code=0, steps=3, finished=True)
    keep_finished(place, kept)
    monkeypatch.setattr(part, "FINISHED_JOIN_S", 0.5)
    assert part.train_part(load_node(files[rank]), plan, plan.ranks[rank], never) == 0
    assert read_result(place, node, rank) == kept
