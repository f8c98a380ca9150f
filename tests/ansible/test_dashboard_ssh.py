"""The dashboard of a run on machines elsewhere: what they write comes with the polls, and its button ends them. Its
tracker hears of the run by the same way.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from ansible_lab import LONG, Cluster, Playing, gone_within
from ansible_sshd import Machines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NODES = ("node1", "node2", "node3")


def until(true: Callable[[], bool], what: str, seconds: float = 120) -> None:
    end, pause = time.monotonic() + seconds, threading.Event()
    while not true():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        pause.wait(0.5)


def told_of(home: Path, rank: int) -> list[int]:
    """The steps of a rank that its tracker has been told of."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = home / "tracking" / "tensorboard"
    if not place.is_dir():
        return []
    events = EventAccumulator(str(place), size_guidance={"scalars": 0})
    events.Reload()
    name = f"rank-{rank}/compute_s"
    return [event.step for event in events.Scalars(name)] if name in events.Tags()["scalars"] else []


def test_a_run_over_ssh_seen_as_it_goes_and_stopped(
    remote: Cluster, machines: Machines, playing: list[Playing]
) -> None:
    tracked = (*LONG, "logging.tracker=tensorboard")
    run = remote.begin("train", "strategy=fsdp", "dashboard=true", override=tracked)
    playing.append(run)
    link = run.until(r"^(http://127\.0\.0\.1:\d+)(/\?key=\S+)$")
    run_id = run.until(r"^node3  step ", timeout=300) and "".join(run.lines).partition("\nRun ")[2].split("\n")[0]
    home = remote.runs / run_id
    with httpx2.Client(base_url=link[1], timeout=60) as client:
        assert client.get("/dashboard/state").status_code == 401
        assert client.get(link[2]).status_code == 303
        plan = client.get("/dashboard/run").json()
        assert (plan["run_id"], plan["kind"], plan["can_stop"]) == (run_id, "training", True)
        assert [(node["name"], node["kind"], node["controller"]) for node in plan["nodes"]] == [
            ("node1", "linux", True), ("node2", "linux", False), ("node3", "linux", False),
        ]  # fmt: skip
        assert {(way["src"], way["dst"]): (way["networks"], way["medium"]) for way in plan["links"]} == {
            ("node1", "node2"): (["wire"], "ethernet"),
            ("node1", "node3"): (["wire"], "ethernet"),
            ("node2", "node3"): (["wire"], "ethernet"),
        }

        def curves() -> dict[int, int]:
            answer = client.get("/dashboard/series", params={"name": "compute_ms"}).json()
            return {line["rank"]: len(line["steps"]) for line in answer["lines"]}

        until(lambda: min(curves().values()) > 0, "steps of all ranks, those elsewhere too")
        before = curves()
        until(lambda: all(curves()[rank] > before[rank] for rank in before), "further ones")
        until(lambda: all(told_of(home, rank) for rank in range(3)), "its tracker is told of all ranks as they go")
        for node in NODES:
            told = client.get("/dashboard/logs", params={"node": node, "contains": "is in generation 0"}).json()[
                "lines"
            ]
            assert [(line["node"], line["level"]) for line in told] == [(node, "INFO")]
        now = client.get("/dashboard/state").json()
        assert [node["state"] for node in now["nodes"]] == ["running"] * 3
        # They are all this machine: nobody is ahead, as far as an answer's way lets one know.
        assert all(abs(node["clock_offset_s"]) < 10 for node in now["nodes"][1:])
        assert now["nodes"][0]["clock_offset_s"] is None
        brought = {
            node: (home / "nodes" / node / f"rank-{rank}" / "log.txt").read_bytes()
            for rank, node in enumerate(NODES[1:], 1)
        }
        stopped = client.post("/dashboard/stop", json={"confirm": run_id})
        assert stopped.status_code == 202, stopped.text
        assert sorted(stopped.json()["nodes"]) == list(NODES)
    outcome = run.end(120)
    summary = json.loads((home / "summary.json").read_text())
    assert summary["status"] == "stopped", outcome.text
    # collect has brought the whole files over what came before, of which that was the beginning.
    for rank, node in enumerate(NODES[1:], 1):
        there = machines.work(remote.folder, node) / run_id / "nodes" / node / f"rank-{rank}"
        for name in ("log.txt", "metrics.jsonl"):
            assert (home / "nodes" / node / f"rank-{rank}" / name).read_bytes() == (there / name).read_bytes()
        assert (there / "log.txt").read_bytes().startswith(brought[node])
        assert not list((home / "nodes" / node / f"rank-{rank}").glob(".*.fresh"))
    assert outcome.text.count("tensorboard: tensorboard --logdir") == 1
    assert (home / "tracking" / "log.txt").read_text() == ""
    for rank, node in enumerate(NODES):
        told = told_of(home, rank)
        assert all(earlier < later for earlier, later in itertools.pairwise(told)), "nothing twice"
        lines = (home / "nodes" / node / f"rank-{rank}" / "metrics.jsonl").read_text().splitlines()
        assert told[-1] == max(record["step"] for record in map(json.loads, lines) if "loss" in record)
    gone_within(remote, 15)  # the dashboard too, which belongs to the playbook
