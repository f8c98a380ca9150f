"""A run under real supervisors with real ranks, each node on this machine, and somebody who shoots at them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from smolcluster.jobs.identity import ProcessId, alive, end
from smolcluster.jobs.launch import start_job
from smolcluster.jobs.nodefile import load_node
from smolcluster.jobs.poll import poll_job
from smolcluster.jobs.registry import Registry
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.tail import last_step
from smolcluster.jobs.types import ACTIVE_STATES
from smolcluster.plan.types import Plan
from smolcluster.runtime.runfolder import JobState, RunFolder
from tests.train.train_folders import write_run

# Starting a rank imports torch, on a machine that may be busy with other tests.
DEADLINE_S = 150.0
# Each look at a job has its supervisor answer: many a second would be most of what a small run computes.
LOOK_S = 0.25


@dataclass
class Crew:
    """The supervisors of a run. Each node's part lies in the one folder, as on the local default."""

    path: Path
    plan: Plan
    data: Path
    files: dict[str, Path] = field(default_factory=dict)
    seen: set[ProcessId] = field(default_factory=set)
    # Nodes that nobody starts again.
    lost: set[str] = field(default_factory=set)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def nodes(self) -> list[str]:
        return list(dict.fromkeys(rank.node for rank in self.plan.ranks))

    def lay_out(self, **settings: object) -> None:
        """Write the run's files; `settings` are laid over every node.yaml."""
        written = write_run(self.path, self.plan, self.data, sys.executable)
        self.files = dict(zip(self.nodes, written, strict=True))
        for file in written:
            config = load_node(file).model_copy(update=settings)
            file.write_text(yaml.safe_dump(config.model_dump(by_alias=True, mode="json")))

    def start(self, *nodes: str) -> None:
        for node in nodes or self.nodes:
            start_job(self.files[node], launcher="child")
            self.remember(node)

    def remember(self, node: str) -> None:
        """Note who runs there now, so that nobody is left behind whatever happens."""
        active = Registry.of_run(self.path, node).active()
        if active is not None:
            self.seen |= {active.owner, *active.ranks.values()}

    def job(self, node: str) -> JobState:
        self.remember(node)
        return poll_job(self.path, node).job

    def step(self, rank: int) -> int:
        """The last step the rank has written down."""
        record = last_step(self.folder.metrics(self.plan.ranks[rank].node, rank))
        return record.step if record is not None else 0

    def newest_checkpoint(self) -> int:
        """The step of the newest one; 0 where there is none."""
        return max(
            (int(path.stem.removeprefix("step-")) for path in self.folder.checkpoints.glob("step-*.json")), default=0
        )

    def until(self, condition: Callable[[], bool], what: str, pause_s: float = 0.05) -> None:
        """Wait for it while everybody is followed; what a supervisor's death leaves is started again."""
        deadline, pause, looked = time.monotonic() + DEADLINE_S, threading.Event(), 0.0
        while not condition():
            assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}\n{self.said()}"
            if time.monotonic() - looked >= LOOK_S:
                self.revive()
                looked = time.monotonic()
            pause.wait(pause_s)

    def goes_on(self, node: str) -> bool:
        """Whether its part has not ended, or will be taken up again by a new supervisor."""
        job = self.job(node)
        return job.state in ACTIVE_STATES or self.may_be_revived(job)

    def may_be_revived(self, job: JobState) -> bool:
        return job.lost and job.node not in self.lost and job.restarts < self.plan.run.recovery.max_restarts

    def revive(self) -> None:
        """What a playbook that follows does."""
        for node in self.nodes:
            if self.may_be_revived(self.job(node)):
                self.start(node)

    def ended(self) -> list[JobState]:
        """Follow until every node's part has ended."""
        self.until(lambda: not any(map(self.goes_on, self.nodes)), "the run ends", LOOK_S)
        return [self.job(node) for node in self.nodes]

    def said(self) -> str:
        """The ends of all logs, for a test that fails."""
        texts = []
        for rank in self.plan.ranks:
            log = self.folder.log(rank.node, rank.rank)
            texts.append(f"== {log}\n{log.read_text()[-2500:] if log.exists() else ''}")
        return "\n".join([*texts, *(str(self.job(node)) for node in self.nodes)])

    def model(self) -> dict[str, torch.Tensor]:
        """The final weights."""
        return load_file(self.folder.model / "model.safetensors")

    # Shooting

    def kill_rank(self, rank: int) -> None:
        active = Registry.of_run(self.path, self.plan.ranks[rank].node).active()
        if active is not None:  # else the shot came after the end
            shoot(active.ranks[rank])

    def kill_supervisor(self, node: str) -> None:
        active = Registry.of_run(self.path, node).active()
        if active is not None:
            shoot(active.owner)

    def forget(self) -> None:
        """The controller is gone: nobody renews the leases, until every supervisor has ended."""
        deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
        while any(Registry.of_run(self.path, node).active() for node in self.nodes):
            assert time.monotonic() < deadline, self.said()
            pause.wait(0.05)

    def writing(self) -> bool:
        """Whether a checkpoint is being written at this moment."""
        return any(self.path.glob("nodes/*/checkpoints/*/.*")) or any(self.folder.checkpoints.glob(".*"))

    def kill_all(self) -> None:
        """The whole machine loses its power, as far as this run is concerned."""
        for node in self.nodes:
            active = Registry.of_run(self.path, node).active()
            if active is not None:
                for who in (active.owner, *active.ranks.values()):
                    shoot(who)

    def clear(self) -> None:
        for node in self.nodes:
            if (self.folder.job_state(node)).exists() and Registry.of_run(self.path, node).active() is not None:
                stop_job(self.path, node, grace_s=0.5)
        for who in self.seen:
            end(who, grace_s=0)


def shoot(who: ProcessId) -> None:
    """kill -9, if it still lives."""
    if alive(who):
        os.kill(who.pid, signal.SIGKILL)


@contextmanager
def crew(path: Path, plan: Plan, data: Path, **settings: object) -> Iterator[Crew]:
    """A run that is laid out and not started; `settings` for node.yaml. Nothing of it is left behind."""
    made = Crew(path, plan, data)
    made.lay_out(**settings)
    try:
        yield made
    finally:
        made.clear()


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def everywhere(run: Crew) -> bool:
    """Whether every node has a copy of a manifest: rank 0's own goes with its disk."""
    return all(list(run.folder.node(node).glob("checkpoints/step-*/manifest.json")) for node in run.nodes)


def lose(run: Crew, node: str) -> None:
    """The machine burns down, with its disk. Nobody starts its supervisor again."""
    run.lost.add(node)
    rank = next(rank.rank for rank in run.plan.ranks if rank.node == node)
    run.kill_supervisor(node)
    run.kill_rank(rank)
    shutil.rmtree(run.folder.node(node) / "checkpoints")
    if rank == 0:
        shutil.rmtree(run.folder.checkpoints)


def others_ended(run: Crew) -> None:
    """Wait until those that were not lost have ended, well or not."""
    left = [node for node in run.nodes if node not in run.lost]
    run.until(lambda: all(run.job(node).state not in ACTIVE_STATES for node in left), "the others end", LOOK_S)
