"""Runs whose config asks for faults: under real supervisors, at the step that is written, with the right weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from smolcluster.plan.types import Plan
from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.run import CheckpointSpec, RecoverySpec

from .crew import Crew, crew, same
from .test_kills import plan_of, run_spec

SHARES = (3, 2)
STEPS = 20
SLOW: list[dict[str, Any]] = [
    {"kind": "slow", "rank": 0, "step": 2, "until": 5, "factor": 3.0},
    {"kind": "delay", "rank": 1, "step": 2, "until": 6, "ms": 2.0, "jitter_ms": 2.0},
    {"kind": "throttle", "rank": 1, "step": 4, "until": 8, "mbps": 300.0},
    {"kind": "partition", "ranks": [1], "step": 9, "seconds": 0.5},
    {"kind": "freeze", "rank": 0, "step": 11, "seconds": 0.5},
]
# A rank is lost, and what is left starts again from the checkpoint of step 10.
LOST: dict[str, dict[str, Any]] = {
    "crash": {"kind": "crash", "rank": 1, "step": 13},
    "drop": {"kind": "drop", "rank": 0, "step": 13},
    "freeze": {"kind": "freeze", "rank": 1, "step": 13, "seconds": 12.0},
}


def made(*faults: dict[str, Any], peer_timeout_s: float = 60.0) -> Plan:
    run = run_spec("fsdp", SHARES, 1, dropout=0.1, max_steps=STEPS, eval_steps=100)
    settings = {
        "checkpoint": CheckpointSpec(every_steps=5, keep=2),
        "recovery": RecoverySpec(max_restarts=3),
        "faults": tuple(FaultSpec(**fault) for fault in faults),
        "comm": run.comm.model_copy(update={"timeout_s": peer_timeout_s}),
    }
    return plan_of(run.model_copy(update=settings), SHARES)


def completed(run: Crew) -> list[int]:
    """Run it to its end: how often each node's ranks were started again."""
    run.start()
    jobs = run.ended()
    assert [job.state for job in jobs] == ["completed"] * 2, run.said()
    return [job.restarts for job in jobs]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, torch.Tensor]:
    with crew(tmp_path_factory.mktemp("undisturbed") / "run", made(), data) as run:
        assert completed(run) == [0, 0]
        return run.model()


@pytest.mark.slow
def test_a_bad_network_is_borne_and_changes_nothing(
    tmp_path: Path, data: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    with crew(tmp_path / "run", made(*SLOW), data) as run:
        assert completed(run) == [0, 0]
        assert same(run.model(), undisturbed)
        log = run.folder.log(run.plan.ranks[1].node, 1).read_text()
        assert [log.count(f"fault, as the config asks: {fault['kind']}") for fault in SLOW] == [1] * len(SLOW)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(LOST))
def test_a_rank_lost_at_a_step_comes_back_once_and_the_weights_are_the_same(
    tmp_path: Path, data: Path, undisturbed: dict[str, torch.Tensor], kind: str
) -> None:
    with crew(tmp_path / "run", made(LOST[kind], peer_timeout_s=4.0), data) as run:
        assert completed(run) == [1, 1]
        assert same(run.model(), undisturbed)
        logs = [run.folder.log(run.plan.ranks[rank].node, rank).read_text() for rank in (0, 1)]
        # Each tells of it once, but whoever is lost by the other just before that step.
        assert {log.count("fault, as the config asks") for log in logs} in ({1}, {0, 1})
