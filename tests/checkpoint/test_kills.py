"""kill -9 in every stage of a save, of the rank that decides and of another: what was there is there, and goes on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smolcluster.runtime.checkpoint.files import PART
from smolcluster.runtime.checkpoint.manifest import step_of
from smolcluster.runtime.runfolder import RunFolder
from tests.checkpoint.jobs import call, overlapping, train, watched
from tests.checkpoint.runs import plan, same, state_of
from tests.comm.pool import Pool
from tests.steps import read_metrics

STEPS = 8
# The stages in which the new checkpoint does not exist yet, and those in which it does.
BEFORE = [(0, "begin"), (0, "writing"), (0, "written"), (0, "told"), (0, "manifest"), (1, "writing"), (1, "told")]
AFTER = [(0, "exists"), (0, "dropped manifests"), (0, "copied manifest"), (0, "dropped files"), (1, "copied manifest")]


@pytest.fixture(scope="module")
def victims() -> Iterator[Pool]:
    """Workers that are there again in milliseconds when one was killed."""
    workers = Pool("forkserver")
    yield workers
    workers.close()


@pytest.fixture(scope="module")
def undisturbed(victims: Pool, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("undisturbed")
    victims.run(2, call, train, (folder, data, made()), {})
    return state_of(folder, STEPS)


def made():
    return plan(2, "fsdp", 1, {"every_steps": 2, "keep": 1, "keep_best": False}, max_steps=STEPS, eval_steps=100)


@pytest.mark.parametrize(
    ("victim", "stage", "step"),
    [(*which, 2) for which in BEFORE] + [(*which, 4) for which in AFTER],
    ids=lambda value: str(value),
)
def test_the_checkpoint_before_or_the_new_one(
    victims: Pool, data: Path, tmp_path: Path, undisturbed: dict, victim: int, stage: str, step: int
) -> None:
    outcomes = victims.outcomes(2, call, watched, (tmp_path, data, made(), victim, stage, 4), {})
    assert outcomes[victim].error == "died"
    assert outcomes[1 - victim].error, "the other rank does not go on alone"
    accounts = victims.run(2, call, train, (tmp_path, data, made()), {"generation": 1})
    assert [account.resumed_step for account in accounts] == [step, step]
    assert same(state_of(tmp_path, STEPS), undisturbed)
    # Nothing is left of what was interrupted.
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000008.json"]
    folders = sorted(path.name for path in tmp_path.glob("nodes/*/checkpoints/*"))
    assert folders == ["step-00000008", "step-00000008"]
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(PART)]


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_killed_at_any_moment_again_and_again(victims: Pool, data: Path, tmp_path: Path, kills: int) -> None:
    """A rank is killed in the middle of something, the run goes on from its last checkpoint, is killed again ..."""
    chance = random.Random(kills)
    # A checkpoint every step, so that most kills meet one that is being written; each on two nodes.
    often = plan(3, "fsdp", 3, {"every_steps": 1, "replicas": 2}, max_steps=50 * kills, eval_steps=10_000)
    resumed = []
    for generation in range(kills):
        before = moments(tmp_path / "run")
        with victims.begun(3, call, train, (tmp_path / "run", data, often), {"generation": generation}):
            until_it_trains(tmp_path / "run", before)
            threading.Event().wait(chance.uniform(0, 0.2))
            victim = chance.randrange(3)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims.pid(victim), signal.SIGKILL)
            outcomes = [victims.outcome(rank) for rank in range(3)]
        assert outcomes[victim].error == "died"
        for outcome in outcomes:
            assert "rank" in outcome.text or outcome.error == "died"
            assert outcome.error in ("died", "PeerLostError", "DistBackendError", "RuntimeError"), outcome.text
        resumed.append(
            max((step_of(path.stem) or 0 for path in (tmp_path / "run/checkpoints").glob("*.json")), default=0)
        )
    last = resumed[-1] + 5
    for name, generation in (("run", kills), ("whole", 0)):
        settings = {"generation": generation, "stop_at": last}
        accounts = victims.run(3, call, train, (tmp_path / name, data, often), settings)
        assert accounts[0].resumed_step == (resumed[-1] if name == "run" else None)
    assert resumed == sorted(resumed)
    assert resumed[0] > 0
    assert same(state_of(tmp_path / "run", last), state_of(tmp_path / "whole", last))


def moments(folder: Path) -> list[float]:
    """When each of rank 0's steps was taken."""
    return [record.time for record in read_metrics(RunFolder(folder).metrics("node1", 0))[0]]


def until_it_trains(folder: Path, before: list[float]) -> None:
    """Wait until rank 0 has taken three steps that are not among those of `before`: then one has been saved."""
    deadline = time.monotonic() + 60
    while len(set(moments(folder)) - set(before)) < 3:
        assert time.monotonic() < deadline, "no step was taken"
        time.sleep(0.005)


def test_a_kill_while_copies_travel(victims: Pool, data: Path, tmp_path: Path) -> None:
    twice = plan(2, "fsdp", 1, {"every_steps": 2, "replicas": 2}, max_steps=STEPS, eval_steps=100)
    outcomes = victims.outcomes(2, call, watched, (tmp_path, data, twice, 1, "written", 4), {})
    assert [bool(outcome.error) for outcome in outcomes] == [True, True]
    accounts = victims.run(2, call, train, (tmp_path, data, twice), {"generation": 1})
    assert [account.resumed_step for account in accounts] == [2, 2]


def test_training_goes_on_while_a_slow_disk_is_written_to(victims: Pool, data: Path, tmp_path: Path) -> None:
    slow = plan(2, "fsdp", 3, {"every_steps": 4}, max_steps=8, eval_steps=2)
    seen = victims.run(2, call, overlapping, (tmp_path, data, slow, 4, 6), {})
    assert seen[0] == []
    assert seen[1]
    assert seen[1][0] >= 6
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000004.json",
        "step-00000008.json",
    ]
