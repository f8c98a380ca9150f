"""What the dashboard shows of run folders: whole, going on, damaged, of another version, gone."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from smolcluster.jobs.types import PollResult
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.newrun import keep_topology
from smolcluster.runtime.runfolder import ClockNote, JobState, RunFolder, StopWish, write_atomic
from smolcluster.spec.cluster import ClusterSpec, Network, Node
from tests.dashboard.folders import (
    NODES,
    TEN,
    client_of,
    got,
    record,
    run_folder,
    with_end,
    with_job,
    with_links,
    with_machine,
)


def test_what_a_rank_is_to_hold_is_in_the_units_of_its_machines_memory(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    plan = json.loads(folder.plan.read_text(encoding="utf-8"))
    plan["memory"][0]["params_bytes"] = 3 << 20
    plan["ranks"][0]["memory_mb"] = 8192
    folder.plan.write_text(json.dumps(plan), encoding="utf-8")
    rank = got(client_of(folder), "run")["ranks"][0]
    assert (rank["memory_mb"], rank["machine_mb"]) == (3.0, 8192)


def test_a_finished_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    with_links(folder)
    for rank, node in enumerate(NODES):
        with_job(folder, node)
        with_end(folder, rank)
    with_machine(folder, "node2", TEN + 2.5, throttled="too hot")
    client = client_of(folder)
    plan = got(client, "run")
    assert (plan["schema"], plan["run_id"], plan["kind"], plan["strategy"]) == (1, "a-run", "training", "fsdp")
    assert (plan["can_stop"], plan["problem"], plan["dataset"], plan["shape"]) == (False, None, "text", "MESH")
    assert [(rank["node"], rank["role"], rank["samples"], rank["layers"]) for rank in plan["ranks"]] == [
        (node, "worker", 2, None) for node in NODES
    ]
    assert plan["settings"]["training.max_steps"] == "12"
    now = got(client, "state")
    assert (now["state"], now["over"], now["step"], now["total_steps"], now["progress"]) == (
        "completed", True, 3, 10, 0.3,
    )  # fmt: skip
    assert (now["loss"], now["val_loss"], now["eta_s"]) == (pytest.approx(5 / 3), 2.5, None)
    assert now["slowest"] == {
        "node": "node2", "why": "node2 was the slowest: it computed 2.0 times as long as the others",
    }  # fmt: skip
    first, slow = now["nodes"][0]["steps"], now["nodes"][1]
    # All wait 20 ms for bytes; the first one 400 ms longer, for the slow one.
    assert first["communication_ms"] == pytest.approx(20)
    assert first["waiting_ms"] == pytest.approx(400)
    assert (slow["steps"]["waiting_ms"], slow["steps"]["bytes_sent"]) == (pytest.approx(0), 1001)
    assert (slow["memory_mb"], slow["memory_free_mb"], slow["cpu_percent"], slow["temperature_c"]) == (
        410.5, 5000, 50, 81,
    )  # fmt: skip
    assert (slow["throttled"], now["nodes"][0]["throttled"]) == ("too hot", None)
    links = {(link["src"], link["dst"]): (link["mbps"], link["rtt_ms"], link["slow"]) for link in now["links"]}
    assert links[1, 2] == (90, 3, True)
    assert links[0, 2] == (900, 2, False)
    assert got(client, "series", name="memory_mb")["lines"][1]["values"] == [410.5]
    assert got(client, "series", name="memory_mb")["lines"][1]["steps"] == [2]
    assert client.get("/dashboard/state", params={"since": now["cursor"]}).status_code == 204
    # A backend that was started anew gives the same cursor for the same state.
    assert got(client_of(folder), "state")["cursor"] == now["cursor"]
    asked = client.post("/dashboard/stop", json={"confirm": "a-run"})
    assert (asked.status_code, asked.json()["error"]["code"]) == (409, "over")


def test_a_rank_that_was_killed_is_told_with_its_reason(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    killed = "ended by signal 9 (SIGKILL)"
    with_end(folder, 1, status="failed", exit_code=137, reason=killed, root_cause=True)
    with_job(folder, "node2", "failed", "137", reason="rank 1 failed")
    for rank in (0, 2):
        with_end(folder, rank, status="failed", exit_code=3, reason="rank 1 is gone")
        with_job(folder, NODES[rank], "failed", "3", reason=f"rank {rank} failed")
    write_atomic(folder.supervisor_log("node2"), f"2026-11-29T10:00:04Z INFO rank 1 ended: {killed}\n")
    client = client_of(folder)
    now = got(client, "state")
    assert (now["state"], now["reason"]) == ("failed", f"node2: rank 1: {killed}")
    dead = now["nodes"][1]
    assert (dead["state"], dead["reason"], dead["ranks"][0]["doing"]) == ("failed", f"rank 1: {killed}", killed)
    events = got(client, "events")
    assert [(one["node"], one["kind"], one["text"], one["time"]) for one in events["events"] if one["time"]] == [
        ("node2", "leave", f"rank 1 ended: {killed}", TEN + 4)
    ]
    assert (events["events"][-1]["kind"], events["events"][-1]["time"]) == ("straggler", None)
    assert client.get("/dashboard/events", params={"since": events["cursor"]}).status_code == 204


def test_curves_go_on_where_they_were(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    client = client_of(folder)
    loss = got(client, "series", name="loss")
    assert (loss["lines"][0]["steps"], loss["lines"][0]["values"], loss["last_step"]) == (
        [1, 2, 3], [5.0, 2.5, pytest.approx(5 / 3)], 3,
    )  # fmt: skip
    assert [line["values"] for line in got(client, "series", name="bytes_sent")["lines"]] == [
        [1000] * 3, [1001] * 3, [1002] * 3,
    ]  # fmt: skip
    assert got(client, "series", name="bytes_sent", by="run")["lines"][0]["values"] == [3003] * 3
    assert got(client, "series", name="bytes_sent", rank=2)["lines"][0]["values"] == [1002] * 3
    assert [line["values"][0] for line in got(client, "series", name="waiting_ms", by="node")["lines"]] == [
        pytest.approx(400), pytest.approx(0), pytest.approx(400),
    ]  # fmt: skip
    path = folder.metrics("node1", 0)
    with path.open("a") as file:
        file.write(record(4, 0).model_dump_json(by_alias=True) + "\n" + '{"step": 5, "ti')
    more = got(client_of(folder), "series", name="loss", since_step=3)
    assert (more["lines"][0]["steps"], more["last_step"]) == ([4], 4)
    # A run that was started again takes the step again: what was first is gone.
    with path.open("a") as file:
        file.write("\n" + record(4, 0, loss=9.0).model_dump_json(by_alias=True) + "\n")
    again = got(client_of(folder), "series", name="loss", since_step=3)
    assert again["lines"][0]["values"] == [9.0]


def test_a_stretch_has_as_many_points_as_the_whole(tmp_path: Path) -> None:
    client = client_of(run_folder(tmp_path / "a-run", steps=300))

    def steps(**params: int) -> tuple[list[int], int]:
        answer = got(client, "series", name="loss", points=10, **params)
        return answer["lines"][0]["steps"], answer["last_step"]

    whole, last = steps()
    assert (len(whole) <= 12, whole[0], whole[-1], last) == (True, 1, 300, 300)
    assert steps(since_step=100, until_step=110) == (list(range(101, 111)), 110)
    thinned, last = steps(since_step=100, until_step=200)
    assert (5 <= len(thinned) <= 12, thinned[0], thinned[-1], last) == (True, 101, 200, 200)
    # What has not come yet is asked for from the last that has.
    assert steps(since_step=295, until_step=400) == ([296, 297, 298, 299, 300], 300)
    assert steps(since_step=300, until_step=400) == ([], 300)
    assert steps(since_step=20, until_step=10) == ([], 20)
    assert [
        line["steps"] for line in got(client, "series", name="compute_ms", since_step=7, until_step=9)["lines"]
    ] == [[8, 9]] * 3
    for wrong in ("-1", "x", str(1 << 60)):
        refused = client.get("/dashboard/series", params={"name": "loss", "until_step": wrong})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "query.until_step"), refused.text


def test_a_curve_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    """What a machine elsewhere has measured comes with a later poll than that of the others."""
    folder = run_folder(tmp_path / "a-run")
    client = client_of(folder)

    def take(rank: int, *steps: int) -> None:
        with folder.metrics(NODES[rank], rank).open("a") as file:
            for step in steps:
                file.write(record(step, rank).model_dump_json(by_alias=True) + "\n")

    def asked(since: int) -> tuple[list[list[int]], int]:
        answer = got(client, "series", name="compute_ms", since_step=since)
        return [line["steps"] for line in answer["lines"]], answer["last_step"]

    take(0, 4, 5)
    take(2, 4)
    assert asked(3) == ([[4, 5], [], [4]], 3)
    take(1, 4, 5)
    assert asked(3) == ([[4, 5], [4, 5], [4]], 4)
    take(2, 5)
    assert asked(4) == ([[5], [5], [5]], 5)
    # One that is gone is not waited for.
    take(0, 6, 100)
    take(1, 6, 100)
    assert asked(5) == ([[6, 100], [6, 100], []], 100)


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run", steps=9)
    client = client_of(folder)
    assert len(got(client, "series", name="loss")["lines"][0]["steps"]) == 9
    with MetricsWriter(folder.metrics("node1", 0), max_lines=10) as metrics:  # thins: every second of the older half
        metrics.write(record(10, 0))
    for node in NODES[1:]:
        folder.metrics(node, NODES.index(node)).unlink()
    assert got(client, "series", name="loss", rank=0)["lines"][0]["steps"] == [2, 4, 6, 7, 8, 9, 10]
    # What is gone leaves what was known of it.
    assert len(got(client, "series", name="lr", rank=1)["lines"][0]["steps"]) == 9


def test_what_is_damaged_is_said_and_the_rest_shown(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    with folder.metrics("node2", 1).open("ab") as file:
        file.write(b'\0\0\0\0\n{"step": 3\n\xff\xfe\n[1, 2]\n"x", "y"\n{"step": 4, "time": 1.0, "loss": "no"}\n')
        file.write(record(4, 1).model_dump_json(by_alias=True).encode() + b"\n")
        file.write(b'{"kind": "new", "schema": 1, "step": 4, "time": 2.0, "what": 1}\n')
    with folder.metrics("node3", 2).open("a") as file:
        file.write('{"schema": 7, "step": 4, "time": 1.0}\n')
    now = got(client_of(folder), "state")
    assert now["notes"] == [
        "nodes/node2/rank-1/metrics.jsonl: 6 lines are damaged, and left out",
        "nodes/node3/rank-2/metrics.jsonl is version 7; this smolcluster reads version 1: upgrade smolcluster",
    ]
    assert [node["step"] for node in now["nodes"]] == [3, 4, 3]


@pytest.mark.parametrize(
    ("plan", "words"),
    [('{"schema": 99}', "upgrade smolcluster"), ('{"schema": 0}', "read it with the smolcluster that wrote it"),
     ("{", "it has no plan.json that can be read")],
)  # fmt: skip
def test_a_folder_of_another_version_shows_its_logs(tmp_path: Path, plan: str, words: str) -> None:
    folder = run_folder(tmp_path / "a-run")
    write_atomic(folder.plan, plan)
    client = client_of(folder)
    told = got(client, "run")
    assert (told["kind"], [node["name"] for node in told["nodes"]]) == ("unknown", list(NODES))
    assert words in told["problem"]
    assert words in got(client, "state")["reason"]
    assert len(got(client, "logs")["lines"]) == 3
    assert got(client, "series", name="loss")["lines"] == []
    assert got(client, "events")["events"] == []


def test_a_folder_that_disappears_leaves_what_was_read(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    client = client_of(folder)
    before = got(client, "state")
    shutil.rmtree(folder.path)
    now = got(client, "state")
    assert (now["state"], now["over"], now["step"]) == ("gone", True, before["step"])
    assert "is not there any more" in now["reason"]
    assert got(client, "series", name="loss")["lines"][0]["steps"] == [1, 2, 3]
    assert got(client, "logs")["lines"] == []
    gone = got(client_of(folder), "state")
    assert gone["state"] == "gone"


def test_looking_changes_nothing_for_two_as_for_one(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    with_links(folder)
    for node in NODES:
        with_job(folder, node)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.path.rglob("*")}
    clients = [client_of(folder, "wish"), client_of(folder, "wish")]
    for path in ("run", "events", "logs"):
        assert got(clients[0], path) == got(clients[1], path)
    assert got(clients[0], "state")["cursor"] == got(clients[1], "state")["cursor"]
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.path.rglob("*")} == before


def heard(folder: RunFolder, node: str, state: str = "running", age_s: float = 0.0) -> None:
    """The playbook heard a node so long ago."""
    job = JobState(
        run_id=folder.path.name, node=node, state=state, pid=1, generation=0, ranks={NODES.index(node): "running"}
    )
    write_atomic(folder.heard(node), PollResult(job=job).model_dump_json(by_alias=True))
    then = time.time() - age_s
    os.utime(folder.heard(node), (then, then))


def test_a_run_that_a_playbook_follows_and_the_wish_to_stop_it(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    for node in NODES:
        heard(folder, node)
    heard(folder, "node3", age_s=20)
    client = client_of(folder, "wish")
    now = got(client, "state")
    assert (now["state"], now["over"]) == ("running", False)
    assert [node["state"] for node in now["nodes"]] == ["running", "running", "lost"]
    assert now["nodes"][2]["reason"].startswith("nothing was heard of it for 2")
    other = client.post("/dashboard/stop", json={"confirm": "another"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "another_run")
    assert not folder.stop_wish.exists()
    asked = client.post("/dashboard/stop", json={"confirm": "a-run"})
    assert (asked.status_code, asked.json()) == (202, {"run_id": "a-run", "nodes": ["node1", "node2"]})
    assert StopWish.model_validate_json(folder.stop_wish.read_bytes()).reason == "stopped at the dashboard"
    # Nobody follows, or nobody may: then it is said how else.
    alone = client_of(folder, "nobody").post("/dashboard/stop", json={"confirm": "a-run"})
    assert (alone.status_code, alone.json()["error"]["code"]) == (409, "not_from_here")
    assert "ansible-playbook stop.yml -e run_id=a-run" in alone.json()["error"]["message"]


def test_a_run_that_goes_on_without_this_machine(tmp_path: Path) -> None:
    """Detached: node1 is this machine itself, the others are elsewhere, and what was collected of them gets old."""
    folder = run_folder(tmp_path / "a-run")
    write_atomic(folder.detached, "")
    write_atomic(folder.node("node1") / "node.yaml", "")
    with_job(folder, "node1", "running", "running")
    for rank in (1, 2):
        shutil.rmtree(folder.node(NODES[rank]))
    client = client_of(folder, "wish")
    now = got(client, "state")
    assert (now["state"], now["over"], [node["state"] for node in now["nodes"]]) == (
        "running", False, ["running", "unknown", "unknown"],
    )  # fmt: skip
    [note] = now["notes"]
    assert note.startswith("node2, node3 go on without this machine (detached)")
    assert "ansible-playbook collect.yml -e run_id=a-run" in note
    # collect.yml brings what there is, and makes a summary of what it was: that is no end.
    with MetricsWriter(folder.metrics("node2", 1)) as metrics:
        metrics.write(record(7, 1))
    with_job(folder, "node2", "running", "running")
    write_atomic(folder.log("node2", 1), "2026-11-29T10:00:00Z INFO from node2\n")
    write_atomic(folder.summary, json.dumps({"status": "failed"}))
    now = got(client, "state")
    assert (now["over"], [(node["state"], node["step"]) for node in now["nodes"]]) == (
        False, [("running", 3), ("running", 7), ("unknown", None)],
    )  # fmt: skip
    assert now["nodes"][1]["remark"] == "", "nobody has looked whether it takes steps"
    assert "from node2" in [line["text"] for line in got(client, "logs")["lines"]]
    stop = client.post("/dashboard/stop", json={"confirm": "a-run"})
    assert (stop.status_code, stop.json()["error"]["code"]) == (409, "not_from_here")
    assert "ansible-playbook stop.yml -e run_id=a-run" in stop.json()["error"]["message"]
    # Collected once more, they have ended.
    folder.summary.unlink()
    for node in NODES:
        with_job(folder, node)
    assert (got(client, "state")["state"], got(client, "state")["over"]) == ("completed", True)
    assert got(client, "state")["notes"] == []


def test_a_node_that_the_playbook_lost(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    for node in NODES:
        heard(folder, node)
    note = {"state": "lost", "reason": "no answer for 15 s", "at_once": False, "time": TEN + 9}
    write_atomic(folder.followed("node2"), json.dumps(note))
    client = client_of(folder)
    lost = got(client, "state")["nodes"][1]
    assert (lost["state"], lost["reason"]) == ("lost", "no answer for 15 s")
    told = [one for one in got(client, "events")["events"] if one["kind"] == "leave"]
    assert [(one["node"], one["time"], one["text"]) for one in told] == [
        ("node2", TEN + 9, "node2 is lost: no answer for 15 s")
    ]


def test_clocks_that_are_off_are_put_right(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    write_atomic(folder.clock("node2"), ClockNote(offset_s=100.0, within_s=0.1).model_dump_json(by_alias=True))
    write_atomic(folder.log("node2", 1), "2026-11-29T10:01:42Z WARNING fault, as the config asks: delay\n")
    client = client_of(folder)
    [fault] = [one for one in got(client, "events")["events"] if one["kind"] == "fault"]
    assert (fault["time"], fault["rank"]) == (TEN + 2, 1)
    assert [line["times"][0] for line in got(client, "series", name="lr", by="rank")["lines"]] == [
        TEN + 1, TEN - 99, TEN + 1,
    ]  # fmt: skip
    assert [line["time"] for line in got(client, "logs")["lines"]] == [TEN, TEN, TEN + 2]


def test_the_wires_are_the_inventory_s(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run")
    wires = (
        Network(name="thunder", medium="thunderbolt", speed_mbps=20000, private=True,
                members={"node1": "10.0.0.1", "node2": "10.0.0.2"}, gateways={"lan": "node2"}),
        Network(name="lan", medium="ethernet", speed_mbps=1000, members={"node2": "10.1.0.2", "node3": "10.1.0.3"}),
    )  # fmt: skip
    nodes = tuple(Node(name=name, kind="macos", host=name, workdir="~/runs") for name in (*NODES, "tablet"))
    keep_topology(folder, ClusterSpec(name="home", controller="node1", nodes=nodes, networks=wires), NODES)
    told = got(client_of(folder), "run")
    assert [(node["kind"], node["controller"]) for node in told["nodes"]] == [
        ("macos", True), ("macos", False), ("macos", False),
    ]  # fmt: skip
    ways = {(way["src"], way["dst"]): way for way in told["links"]}
    assert ways["node1", "node2"]["networks"] == ["thunder"]
    assert (ways["node1", "node2"]["medium"], ways["node1", "node2"]["speed_mbps"]) == ("thunderbolt", 20000)
    far = ways["node1", "node3"]
    assert (far["networks"], far["gateways"], far["speed_mbps"]) == (["thunder", "lan"], ["node2"], 1000)
