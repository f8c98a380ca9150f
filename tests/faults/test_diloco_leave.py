"""diloco loses ranks in mid-round: the others go on in the same processes, from what they have in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.observe.report import summary_of
from smolcluster.plan.types import Plan
from smolcluster.runtime.generation import read_generation
from smolcluster.runtime.results import read_result
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.steps import read_metrics
from tests.train.train_folders import SEQ_LEN, plan_of, run_spec

from .crew import Crew, crew

SHARES = (3, 2, 2)
STEPS = 240


def made(elastic: bool = False, overlap: bool = False, steps: int = STEPS, wait_s: float = 3.0) -> Plan:
    run = run_spec("diloco", SHARES, 1, max_steps=steps, eval_steps=steps)
    settings = {
        "checkpoint": CheckpointSpec(every_steps=0),  # nothing to go back to
        "recovery": RecoverySpec(max_restarts=3, elastic=elastic, elastic_wait_s=wait_s),
        "outer_every": 5,
        "outer_overlap": overlap,
    }
    return plan_of(run.model_copy(update=settings), SHARES, wire="int8")


def processes(run: Crew, rank: int) -> int:
    """How many processes this rank's log is of."""
    return run.folder.log(run.plan.ranks[rank].node, rank).read_text().count("---- restart") + 1


def check_account(run: Crew, ranks: tuple[int, ...]) -> None:
    """Losses agree on all, the samples are those of the run, and its last round overshoots by less than a step."""
    results = [read_result(run.folder, run.plan.ranks[rank].node, rank) for rank in ranks]
    assert all(result is not None and result.steps == STEPS for result in results), run.said()
    assert len({result.loss_last for result in results if result}) == 1
    tokens = sum(result.tokens for result in results if result)
    a_step = sum(SHARES) * SEQ_LEN
    assert STEPS * a_step <= tokens < (STEPS + 1) * a_step


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("victim", "overlap"), [(0, False), pytest.param(2, False, marks=pytest.mark.soak), (1, True)])
def test_a_killed_rank_comes_back_and_gets_the_others_state(
    tmp_path: Path, data: Path, victim: int, overlap: bool
) -> None:
    with crew(tmp_path / "run", made(overlap=overlap), data) as run:
        run.start()
        run.until(lambda: run.step(victim) >= 20, "it trains")
        run.kill_rank(victim)
        jobs = run.ended()
        assert [job.state for job in jobs] == ["completed"] * 3, run.said()
        assert [job.restarts for job in jobs] == [int(rank == victim) for rank in range(3)]
        assert [processes(run, rank) for rank in range(3)] == [1 + (rank == victim) for rank in range(3)]
        check_account(run, (0, 1, 2))
        for rank in range(3):
            steps = [record.step for record in read_metrics(run.folder.metrics(f"node{rank + 1}", rank))[0]]
            assert steps == sorted(set(steps)), "nobody went back"
            note = read_generation(run.folder, f"node{rank + 1}", rank)
            assert note is not None
            assert note.generation == 1
            # With the exchange under way the round that travels counts among the steps, and was not committed yet.
            assert (note.step or 0) >= 19 - 5 * overlap, "there was no checkpoint: it went on from memory"
        assert summary_of(run.path).status == "completed"


@pytest.mark.slow
@pytest.mark.core
@pytest.mark.timeout(600)
@pytest.mark.parametrize("lost", [0, pytest.param(2, marks=pytest.mark.soak)])
def test_the_others_go_on_without_one_that_is_lost(tmp_path: Path, data: Path, lost: int) -> None:
    members = tuple(rank for rank in range(3) if rank != lost)
    with crew(tmp_path / "run", made(elastic=True), data) as run:
        run.start()
        run.until(lambda: run.step(lost) >= 20, "it trains")
        run.lost.add(f"node{lost + 1}")
        run.kill_supervisor(f"node{lost + 1}")
        run.kill_rank(lost)
        run.until(lambda: all(not run.goes_on(f"node{rank + 1}") for rank in members), "the others end")
        for rank in members:
            job = run.job(f"node{rank + 1}")
            assert (job.state, job.restarts) == ("completed", 0), run.said()
            note = read_generation(run.folder, f"node{rank + 1}", rank)
            assert note is not None
            assert (note.generation, note.members) == (1, members)
        check_account(run, members)
