"""inference.yml -e dashboard=true on three nodes of this machine: what the page is told, and its button."""

from __future__ import annotations

import json

import httpx2
import pytest
from ansible_lab import Cluster, Playing, gone_within
from ansible_served import PORTS, PROMPT, Tiny, ask
from test_dashboard_ssh import until

from smolcluster.runtime.runfolder import RunFolder
from tests.dashboard.folders import client_of, got

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NODES = ["node1", "node2", "node3"]


def test_a_served_model_is_seen_stopped_and_seen_afterwards(local: Cluster, tiny: Tiny, playing: list[Playing]) -> None:
    run = local.begin("inference", f"model={tiny.folder}", "dashboard=true", override=PORTS)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    link = run.until(r"^(http://127\.0\.0\.1:\d+)(/\?key=\S+)$")
    run.until(r"^node1  ready$", timeout=300)
    url = run.until(r"^ +api +(http://\S+)$")[1]
    with httpx2.Client(base_url=link[1], timeout=60) as client:
        assert client.get(link[2]).status_code == 303

        def state() -> dict[str, object]:
            return client.get("/dashboard/state").json()

        plan = client.get("/dashboard/run").json()
        assert (plan["run_id"], plan["kind"], plan["shape"], plan["can_stop"]) == (run_id, "serving", "CHAIN", True)
        assert [(rank["node"], rank["role"]) for rank in plan["ranks"]] == [
            ("node1", "stage"), ("node2", "stage"), ("node3", "stage"), ("node1", "api"),
        ]  # fmt: skip
        # The stages hand on to the next, and the last one back to the head.
        assert sorted((way["src"], way["dst"]) for way in plan["links"]) == [
            ("node1", "node2"), ("node1", "node3"), ("node2", "node3"),
        ]  # fmt: skip
        asked = 0

        def timed() -> bool:
            """How fast a stage is follows from two looks, with an answer between them."""
            nonlocal asked
            assert ask(url, PROMPT) == tiny.answer
            asked += 1
            return all(one["ms_per_token"] for one in state()["serving"]["stages"])

        until(timed, "every stage has its time")
        until(lambda: state()["serving"]["requests"] == asked, "the requests are counted")
        now = state()
        assert (now["state"], now["over"], [node["state"] for node in now["nodes"]]) == (
            "running", False, ["running"] * 3,
        )  # fmt: skip
        stages = now["serving"]["stages"]
        assert [stage["node"] for stage in stages] == NODES
        assert [stage["health"] for stage in stages] == ["serving"] * 3
        layers = [stage["layers"] for stage in stages]
        assert (layers[0][0], layers[0][1], layers[1][1], layers[2][1]) == (0, layers[1][0], layers[2][0], 4)
        # The API has the same page of its own, without a key on loopback.
        of_api = httpx2.get(f"{url}/dashboard/state", timeout=60).json()
        assert [stage["layers"] for stage in of_api["serving"]["stages"]] == layers
        assert httpx2.get(f"{url}/dashboard.html", timeout=60).status_code == 200

        mistaken = client.post("/dashboard/stop", json={"confirm": "another-run"})
        assert (mistaken.status_code, mistaken.json()["error"]["code"]) == (409, "another_run")
        assert ask(url, PROMPT) == tiny.answer, "it is served as before"
        stopped = client.post("/dashboard/stop", json={"confirm": run_id})
        assert (stopped.status_code, stopped.json()) == (202, {"run_id": run_id, "nodes": NODES})
    outcome = run.end(120)
    assert outcome.code == 0, outcome.text
    assert "stopped at the dashboard" in outcome.text
    gone_within(local, 15)

    folder = RunFolder(local.runs / run_id)
    for node in NODES:
        job = json.loads(folder.job_state(node).read_text())
        assert (job["state"], job["reason"]) == ("stopped", "stopped at the dashboard")
    afterwards = client_of(folder)
    end = got(afterwards, "state")
    assert (end["state"], end["over"]) == ("stopped", True)
    assert (end["serving"]["state"], end["serving"]["requests"], end["serving"]["tokens"]) == (
        "closed", asked + 1, 8 * (asked + 1),
    )  # fmt: skip
    assert end["tokens_per_s"] == json.loads(folder.summary.read_text())["tokens_per_s"] > 0
    memory = got(afterwards, "series", name="memory_mb")
    assert [line["node"] for line in memory["lines"]] == NODES
    for line in memory["lines"]:
        assert line["values"][-1] > 0
        assert [int(time) for time in line["times"]] == line["steps"], "no steps were taken: seconds"
    page = folder.page.read_text()
    for part in ("Layers and times are those that the API said last", "<h2>Topology</h2>", "<h2>Config</h2>"):
        assert part in page
