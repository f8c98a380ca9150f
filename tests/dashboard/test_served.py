"""The dashboard in the process of a served model's API, and of a served model's run folder."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx2

from smolcluster.cli import main
from smolcluster.dashboard.served import run_api
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import HardwareRecord, LinkRecord
from smolcluster.runtime.results import write_result
from smolcluster.runtime.runfolder import (
    ClockNote,
    JobState,
    RankResult,
    RequestRecord,
    RunFolder,
    ServingNote,
    write_atomic,
)
from tests.chat.asking import refused
from tests.chat.conftest import KEY, PATIENCE_S
from tests.chat.fake_head import FakeHead, written
from tests.chat.test_serve import Asked, gate, node, noted, serve_plan
from tests.dashboard.folders import TEN, client_of, got
from tests.infer.served_run import plan_of


def test_in_the_api_s_own_process(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret of the tests")
    (tmp_path / "key").write_text(KEY)
    plan = serve_plan()
    write_atomic(tmp_path / "plan.json", plan.to_json())
    config = node(tmp_path, ranks=(0, 1), api_key_file=str(tmp_path / "key"))
    asked = Asked()
    rank = threading.Thread(target=run_api, args=(config, plan, plan.ranks[1], asked))
    rank.start()
    folder = RunFolder(tmp_path)
    head = FakeHead(lambda request: written("Hel", "lo"))
    try:
        with gate(config, plan, head):
            note = noted(folder.serving("local1", 1), lambda note: note.state == "ready")
            assert httpx2.get(f"{note.urls['api']}/dashboard/run").status_code == 401
            headers = {"Authorization": f"Bearer {KEY}"}
            with httpx2.Client(base_url=note.urls["api"], headers=headers, timeout=PATIENCE_S) as client:
                told_run = client.get("/api/dashboard/run").json()
                assert (told_run["kind"], told_run["model"]) == ("serving", "small, 4 layers, 1 k parameters")
                assert [(rank["role"], rank["layers"]) for rank in told_run["ranks"]] == [
                    ("stage", [0, 4]),
                    ("api", None),
                ]
                assert "/dashboard/state" in client.get("/openapi.json").json()["paths"]
                # No supervisor is at it here, so nobody could end it.
                refused(client.post("/dashboard/stop", json={"confirm": tmp_path.name}), 409)
                # Its stream ends with the API.
                with client.stream("GET", "/dashboard/stream") as stream:
                    lines = stream.iter_lines()
                    assert next(lines).startswith("id: ")
                    asked.set()
                    assert list(lines)[-1] == ""
    finally:
        asked.set()
        rank.join(60)
    assert not rank.is_alive()


def served_before(path: Path) -> RunFolder:
    """The folder of a model that was served by two machines, with its report."""
    folder = RunFolder(path)
    plan = plan_of(((0, 2), (2, 4)))
    write_atomic(folder.plan, plan.to_json())
    for rank, name in enumerate(("n0", "n1", "n2")):
        job = JobState(
            run_id="served",
            node=name,
            state="stopped",
            pid=1,
            generation=0,
            ranks={rank: "130"},
            began=TEN,
            seconds=99.0,
        )
        write_atomic(folder.job_state(name), job.model_dump_json(by_alias=True))
        result = RankResult(rank=rank, node=name, status="stopped", exit_code=130, reason="enough", seconds=9.0)
        write_result(folder, result)
        machine = HardwareRecord(
            time=TEN + 20.5, cpu=0.5, cores=4, memory_mb=8000, memory_free_mb=5000, rss_mb={rank: 100.0 + rank}
        )
        with MetricsWriter(folder.hardware(name)) as metrics:
            metrics.write(machine)
            metrics.write(machine.model_copy(update={"time": TEN + 30.5, "cpu": 0.25}))
    # Its clock is two seconds ahead.
    write_atomic(folder.clock("n1"), ClockNote(offset_s=2.0, within_s=0.1).model_dump_json(by_alias=True))
    for rank, name in enumerate(("n0", "n1")):
        with MetricsWriter(folder.metrics(name, rank)) as metrics:
            for look in (1, 2):
                metrics.write(LinkRecord(step=look, time=TEN + 10 * look, peer=1 - rank, mbps=90.0 * look, rtt_ms=0.5))
    note = ServingNote(
        time=TEN + 40, state="ready", layers={0: "0:2", 1: "2:4"}, ms_per_token={0: 3.5, 1: 4.25}, requests=1, tokens=8
    )
    write_atomic(folder.serving("n2", 2), note.model_dump_json(by_alias=True))
    write_atomic(folder.was_ready, "")
    asked = [
        RequestRecord(time=TEN + at, id=f"r{at}", endpoint="/v1/completions", status=200, stream=False, prompt_tokens=4,
                      completion_tokens=8, first_s=0.5, seconds=2.0, finish="length")
        for at in (5, 15, 25)
    ]  # fmt: skip
    write_atomic(folder.requests("n2", 2), "".join(one.model_dump_json(by_alias=True) + "\n" for one in asked))
    assert main(["report", str(folder.path), "--html"]) == 0
    return folder


def test_a_served_model_afterwards(tmp_path: Path) -> None:
    """Of the machines and the links there are files; requests are those of all starts, not of the API's last one."""
    folder = served_before(tmp_path / "served")
    client = client_of(folder)
    now = got(client, "state")
    assert (now["state"], now["over"], now["reason"], now["elapsed_s"]) == ("stopped", True, "enough", 99.0)
    serving = now["serving"]
    assert (serving["state"], serving["requests"], serving["tokens"], serving["tokens_per_s"]) == ("closed", 3, 24, 4.0)
    assert [(one["ms_per_token"], one["health"]) for one in serving["stages"]] == [(3.5, "unknown"), (4.25, "unknown")]
    assert [node["memory_mb"] for node in now["nodes"]] == [100.0, 101.0, 102.0]
    assert [(link["src"], link["mbps"]) for link in now["links"]] == [(0, 180.0), (1, 180.0)]
    # There are no steps: the axis is seconds, by this machine's clock.
    cpu = got(client, "series", name="cpu_percent")
    assert [(line["node"], line["steps"], line["values"]) for line in cpu["lines"]] == [
        ("n0", [TEN + 20, TEN + 30], [50, 25]), ("n1", [TEN + 18, TEN + 28], [50, 25]),
        ("n2", [TEN + 20, TEN + 30], [50, 25]),
    ]  # fmt: skip
    links = got(client, "series", name="link_mbps")
    assert [(line["label"], line["steps"], line["values"]) for line in links["lines"]] == [
        ("0 to 1", [TEN + 10, TEN + 20], [90, 180]), ("1 to 0", [TEN + 8, TEN + 18], [90, 180]),
    ]  # fmt: skip
    more = got(client, "series", name="cpu_percent", since_step=int(TEN) + 25)
    assert [line["values"] for line in more["lines"]] == [[25]] * 3
    page = folder.page.read_text(encoding="utf-8")
    for part in ("3.5 ms", "4.25 ms", "Slowest link: from rank 0 (n0) to rank 1 (n1), 135 Mbit/s", "request_timeout_s"):
        assert part in page, part


def test_what_the_api_says_of_stages(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "served")
    plan = plan_of(((0, 2), (2, 4)))
    write_atomic(folder.plan, plan.to_json())
    starting = got(client_of(folder), "state")
    assert starting["serving"]["state"] == "starting"
    assert [stage["health"] for stage in starting["serving"]["stages"]] == ["unknown", "unknown"]
    note = ServingNote(
        time=time.time(), state="ready", layers={0: "0:1", 1: "1:4"}, ms_per_token={0: 3.5}, sessions={0: 2, 1: 2},
        model="small", active=2, waiting=1, requests=7, failed=1, tokens=90, tokens_per_s=12.5,
    )  # fmt: skip
    for rank, name in enumerate(("n0", "n1", "n2")):
        job = JobState(run_id="served", node=name, state="running", pid=1, generation=0, ranks={rank: "running"})
        write_atomic(folder.job_state(name), job.model_dump_json(by_alias=True))
    write_atomic(folder.serving("n2", 2), note.model_dump_json(by_alias=True))
    now = got(client_of(folder), "state")
    assert now["tokens_per_s"] == 12.5
    serving = now["serving"]
    assert (serving["active"], serving["waiting"], serving["requests"], serving["failed"]) == (2, 1, 7, 1)
    assert [(one["node"], one["layers"], one["ms_per_token"], one["sessions"]) for one in serving["stages"]] == [
        ("n0", [0, 1], 3.5, 2), ("n1", [1, 4], None, 2),
    ]  # fmt: skip
    lost = note.model_copy(update={"state": "lost", "reason": "stage n1 is gone"})
    write_atomic(folder.serving("n2", 2), lost.model_dump_json(by_alias=True))
    now = got(client_of(folder), "state")
    assert (now["serving"]["state"], now["serving"]["reason"]) == ("lost", "stage n1 is gone")
