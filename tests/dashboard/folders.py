"""Run folders written by hand, and the dashboard over one of them, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.dashboard.app import create_dashboard
from smolcluster.dashboard.reading import Reading
from smolcluster.dashboard.stopping import Others
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import HardwareRecord, LinkRecord, StepRecord
from smolcluster.runtime.results import write_result
from smolcluster.runtime.runfolder import JobState, RankResult, RunFolder, write_atomic
from tests.train.train_folders import plan_of, run_spec

NODES = ("node1", "node2", "node3")
# By the clock of this machine: 2026-11-29T10:00:00Z.
TEN = 1795946400.0


def record(step: int, rank: int, **changes: Any) -> StepRecord:
    values = {
        "step": step, "time": TEN + step, "loss": 5.0 / step, "lr": 1e-3, "tokens": 100, "tokens_per_s": 200.0,
        "grad_norm": 1.0, "step_s": 0.5, "compute_s": 0.4, "comm_s": 0.1, "bytes_out": 1000 + rank, "bytes_in": 900,
        "total_steps": 10,
    }  # fmt: skip
    return StepRecord.model_validate({**values, **changes})


def run_folder(path: Path, steps: int = 3) -> RunFolder:
    """Three ranks that have taken so many steps; rank 1 computes twice as long, and the others wait for it."""
    folder = RunFolder(path)
    write_atomic(folder.plan, plan_of(run_spec("fsdp", (2, 2, 2)), (2, 2, 2)).to_json())
    for rank, node in enumerate(NODES):
        slow = {"compute_s": 0.8, "comm_s": 0.02} if rank == 1 else {"comm_s": 0.42}
        with MetricsWriter(folder.metrics(node, rank)) as metrics:
            for step in range(1, steps + 1):
                metrics.write(record(step, rank, val_loss=2.5 if step == steps else None, step_s=0.9, **slow))
        write_atomic(folder.log(node, rank), f"2026-11-29T10:00:00Z INFO rank {rank} of 3 is in generation 0\n")
    return folder


def with_job(folder: RunFolder, node: str, state: str = "completed", code: str = "0", **changes: Any) -> None:
    rank = NODES.index(node)
    values = {
        "run_id": folder.path.name, "node": node, "state": state, "pid": 1, "generation": 0, "ranks": {rank: code},
        "began": TEN,
    }  # fmt: skip
    text = JobState.model_validate({**values, **changes}).model_dump_json(by_alias=True)
    write_atomic(folder.job_state(node), text)


def with_end(folder: RunFolder, rank: int, **changes: Any) -> None:
    values = {
        "rank": rank, "node": NODES[rank], "status": "completed", "exit_code": 0, "steps": 3, "tokens": 300,
        "seconds": 3.0, "peak_rss_mb": 300.5,
    }  # fmt: skip
    write_result(folder, RankResult.model_validate({**values, **changes}))


def with_links(folder: RunFolder) -> None:
    """The link between ranks 1 and 2 is a tenth as fast as the others."""
    for rank, node in enumerate(NODES):
        with MetricsWriter(folder.metrics(node, rank)) as metrics:
            for peer in {0, 1, 2} - {rank}:
                mbps = 90.0 if {rank, peer} == {1, 2} else 900.0
                metrics.write(LinkRecord(step=3, time=TEN + 3, peer=peer, mbps=mbps, rtt_ms=2.0 + rank, buffered=64))


def with_machine(folder: RunFolder, node: str, time: float, **changes: Any) -> None:
    rank = NODES.index(node)
    values = {
        "time": time, "cpu": 0.5, "cores": 4, "memory_mb": 8000, "memory_free_mb": 5000, "rss_mb": {rank: 410.5},
        "temperature_c": 81.0, "throttled": "",
    }  # fmt: skip
    line = HardwareRecord.model_validate({**values, **changes}).model_dump_json(by_alias=True, exclude_none=True)
    path = folder.hardware(node)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")


def client_of(folder: RunFolder, others: Others | None = None) -> TestClient:
    """The dashboard's application, which asks for no key here; each has a process's memory of its own."""
    app = create_dashboard(Reading(folder, others, fresh_s=0), ApiSettings(names=("testserver",)))
    return TestClient(app, raise_server_exceptions=True)


def got(client: TestClient, path: str, **params: Any) -> Any:
    answer = client.get(f"/dashboard/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text)
