"""The dashboard in the process of a served model's API, and of a served model's run folder."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx2

from smolcluster.dashboard.served import run_api
from smolcluster.runtime.runfolder import JobState, RunFolder, ServingNote, write_atomic
from tests.chat.asking import refused
from tests.chat.conftest import KEY, PATIENCE_S
from tests.chat.fake_head import FakeHead, written
from tests.chat.test_serve import Asked, gate, node, noted, serve_plan
from tests.dashboard.folders import client_of, got
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
