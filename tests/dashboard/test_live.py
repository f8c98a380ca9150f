"""A run of three nodes as it goes: seen from its first step on, one of them throttled, one killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.run import RecoverySpec
from tests.dashboard.folders import NODES, client_of, got
from tests.faults.crew import crew
from tests.train.train_folders import data_folder, plan_of, run_spec

SHARES = (2, 2, 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_throttled_and_one_killed(tmp_path: Path) -> None:
    run = run_spec("fsdp", SHARES, max_steps=100_000, eval_steps=100_000)
    slow = FaultSpec(rank=1, kind="slow", factor=4, step=1)
    settings = {"recovery": RecoverySpec(max_restarts=0), "faults": (slow,)}
    plan = plan_of(run.model_copy(update=settings), SHARES)
    with crew(tmp_path / "a-run", plan, data_folder(tmp_path / "data")) as run_:
        client = client_of(run_.folder, "wish")
        begun = got(client, "state")
        assert (begun["state"], begun["over"], begun["step"]) == ("starting", False, None)
        run_.start()
        run_.until(lambda: (got(client, "state")["step"] or 0) > 20, "steps are seen", pause_s=0.3)
        now = got(client, "state")
        assert (now["state"], now["over"], [node["state"] for node in now["nodes"]]) == (
            "running", False, ["running"] * 3,
        )  # fmt: skip
        assert now["eta_s"] > 0
        assert now["tokens_per_s"] > 0
        run_.until(
            lambda: (got(client, "state")["slowest"] or {}).get("node") == "node2", "who is slow is told", pause_s=0.3
        )
        assert "node2 is the slowest: it computes" in got(client, "state")["slowest"]["why"]
        before = got(client, "series", name="loss")
        run_.until(lambda: got(client, "state")["step"] > before["last_step"], "further steps", pause_s=0.3)
        more = got(client, "series", name="loss", since_step=before["last_step"])
        assert more["lines"][0]["steps"][0] == before["last_step"] + 1
        newest = got(client, "logs", limit=20)
        run_.kill_rank(1)
        run_.until(lambda: got(client, "state")["over"], "the end is seen", pause_s=0.3)
        end = got(client, "state")
        assert end["state"] == "failed"
        assert end["reason"].startswith("node2: rank 1: ended by signal 9")
        dead = end["nodes"][1]
        assert dead["state"] == "failed"
        assert dead["ranks"][0]["doing"].startswith("ended by signal 9 (SIGKILL)")
        assert [node["state"] for node in end["nodes"]] == ["failed"] * 3
        kinds = {(one["node"], one["kind"]) for one in got(client, "events")["events"]}
        assert {("node2", "leave"), ("node2", "fault")} <= kinds
        # What the others say of it comes after what was read before, in order of time.
        told = got(client, "logs", after=newest["after"], limit=2000)["lines"]
        assert {line["node"] for line in told} == set(NODES)
        assert [line["time"] for line in told] == sorted(line["time"] for line in told)
        # Another backend knows as much.
        assert got(client_of(run_.folder), "state")["reason"] == end["reason"]
