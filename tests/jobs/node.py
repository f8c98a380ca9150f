"""A node made for a test: its folders, plan and node.yaml, and what its fake ranks do."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from smolcluster.jobs.identity import ProcessId, alive, identify
from smolcluster.jobs.launch import start_job
from smolcluster.jobs.registry import Registry
from smolcluster.plan.types import ApiPlan, NodeConfig, Plan, RankPlan, ServePlan
from smolcluster.runtime.runfolder import JobState, RunFolder
from smolcluster.spec.modelfile import ServedModel
from smolcluster.spec.run import (
    CommSpec,
    DataSpec,
    NNSpec,
    Participant,
    RecoverySpec,
    RunSpec,
    ScheduleSpec,
    TrainingSpec,
)
from smolcluster.spec.serving import ServeSpec

HERE = Path(__file__).parent
FAKE_SUPERVISOR = (str(HERE / "fake_supervisor.py"),)
FAKE_WORKER = (str(HERE / "fake_worker.py"),)


def until(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    """Wait for something another process does and cannot tell us otherwise."""
    end, pause = time.monotonic() + deadline_s, threading.Event()
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        pause.wait(0.02)


def make_plan(
    node: str, behaviours: tuple[str, ...], listen: tuple[str, ...] = ("127.0.0.1",), max_restarts: int = 0
) -> Plan:
    ranks = tuple(
        RankPlan(
            rank=rank,
            node=node,
            local_rank=rank,
            role="worker",
            device="cpu",
            listen=listen,
            port=0,
            peers={},
            samples=1,
            buffer_mb=1,
            threads=rank + 1,
        )
        for rank in range(len(behaviours))
    )
    run = RunSpec(
        strategy="classicdp",
        participants=(Participant(node=node, port=0),),
        model=NNSpec(input_dim=1, hidden=1, out=1),
        training=TrainingSpec(batch_size=1, epochs=1, learning_rate=0.1),
        schedule=ScheduleSpec(warmup_iters=0, min_lr=0),
        data=DataSpec(dataset="pydoc", tokenizer="bpe:2048"),
        comm=CommSpec(),
        recovery=RecoverySpec(max_restarts=max_restarts),
        seed=1,
        project_name="test",
    )
    return Plan(
        cluster="test",
        run=run,
        world_size=len(ranks),
        transport="smol",
        shape="MESH",
        global_batch=len(ranks),
        ranks=ranks,
        params=1,
        memory=(),
    )


def make_serve_plan(node: str, behaviours: tuple[str, ...], max_restarts: int) -> ServePlan:
    """Stages, and the API as the last rank, all on one node."""
    api = len(behaviours) - 1
    ranks = tuple(
        RankPlan(
            rank=rank,
            node=node,
            local_rank=rank,
            role="api" if rank == api else "stage",
            device="cpu",
            listen=("127.0.0.1",) if rank < api else (),
            port=0,
            peers={},
            samples=0,
            buffer_mb=1,
            threads=1,
        )
        for rank in range(len(behaviours))
    )
    serve = ServeSpec(
        model_name="test",
        model=ServedModel(hf_model_name="test", weights_model_name="test", num_layers=4),
        stages=(),
        api_port=0,
        frontend_port=0,
        request_timeout_s=1.0,
        seed=0,
        recovery=RecoverySpec(max_restarts=max_restarts),
    )
    return ServePlan(
        cluster="test",
        serve=serve,
        layers=4,
        world_size=len(ranks),
        ranks=ranks,
        stages=(),
        api=ApiPlan(rank=api, listen=("127.0.0.1",), api_port=0, frontend_port=0),
        params=1,
    )


@dataclass
class FakeNode:
    """`start()` launches the real supervisor with fake ranks; `pids()` names every process the test must see gone."""

    workdir: Path
    run_id: str
    node: str = "node1"
    ranks: int = 1
    seen: set[ProcessId] = field(default_factory=set)

    @property
    def run_dir(self) -> Path:
        return self.workdir / self.run_id

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.run_dir)

    @property
    def file(self) -> Path:
        return self.run_dir / "in" / self.node / "node.yaml"

    @property
    def registry(self) -> Registry:
        return Registry.of_run(self.run_dir, self.node)

    def start(self, **options: object) -> JobState:
        state = start_job(self.file, supervisor=FAKE_SUPERVISOR, **options)
        self.remember()
        return state

    def remember(self) -> None:
        """Note the supervisor and its ranks as they are now."""
        active = self.registry.active()
        if active is not None and active.run_id == self.run_id:
            self.seen |= {active.owner, *active.ranks.values()}

    def rank_pids(self, rank: int = 0) -> list[int]:
        """What the fake rank says of itself and its children; waits until it has."""
        path = self.file.parent / f"pid-{rank}"
        until(path.exists, f"rank {rank} runs")
        return self._see(path)

    def _see(self, path: Path) -> list[int]:
        pids = [int(word) for word in path.read_text().split()]
        self.seen |= {who for who in map(identify, pids) if who is not None}
        return pids

    def gone(self, deadline_s: float = 5.0) -> None:
        """Assert that every process seen has ended, and that the node is free."""
        # A job may be over before anybody looked; its ranks have written down that they were there.
        wrote = [path for rank in range(self.ranks) if (path := self.file.parent / f"pid-{rank}").exists()]
        for path in wrote:
            self._see(path)
        assert self.seen or wrote, "the test saw no process: it proves nothing"
        until(lambda: not any(alive(who) for who in self.seen), f"processes gone: {self.seen}", deadline_s)
        assert self.registry.active() is None


def make_node(
    workdir: Path,
    behaviours: tuple[str, ...],
    run_id: str = "run-a",
    node: str = "node1",
    lease_s: float | None = None,
    python: str = sys.executable,
    listen: tuple[str, ...] = ("127.0.0.1",),
    max_restarts: int = 0,
    serves: bool = False,
) -> FakeNode:
    made = FakeNode(workdir=workdir, run_id=run_id, node=node, ranks=len(behaviours))
    plan: Plan | ServePlan = make_plan(node, behaviours, listen, max_restarts)
    if serves:
        plan = make_serve_plan(node, behaviours, max_restarts)
    made.file.parent.mkdir(parents=True)
    plan_file = made.file.with_name("plan.json")
    plan_file.write_text(plan.to_json())
    made.file.with_name("behaviour.json").write_text(json.dumps(dict(enumerate(behaviours))))
    config = NodeConfig(
        run_id=run_id,
        node=node,
        generation=0,
        run_dir=str(made.run_dir),
        plan_file=str(plan_file),
        plan_digest=plan.digest(),
        secret_file=str(made.run_dir / "secret"),
        data_dir=str(made.run_dir / "data"),
        python=python,
        lease_s=lease_s,
        ranks=tuple(range(len(behaviours))),
    )
    made.file.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))
    return made


def me() -> ProcessId:
    who = identify(os.getpid())
    assert who is not None
    return who
