"""train.yml -e strategy=syncps on three nodes of this machine: a server that may train too, and two workers."""

from __future__ import annotations

import json

import pytest
from ansible_lab import SHORT, Cluster
from test_train_local import summary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    "trains",
    [pytest.param(False, marks=pytest.mark.soak, id="the server serves"), pytest.param(True, id="the server trains")],
)
def test_syncps_from_the_plan_to_the_model(local: Cluster, trains: bool) -> None:
    settings = ("use_quantization=true", f"server_trains={str(trains).lower()}", "timeout=60")
    outcome = local.play("train", "strategy=syncps", override=(*SHORT, *settings))
    assert outcome.code == 0, outcome.text
    assert "strategy  syncps, 3 ranks, STAR" in outcome.text
    assert "node1  step 8/8" in outcome.text
    run = local.runs / outcome.run_id
    told = summary(local, outcome.run_id)
    assert (told["status"], told["exit_code"], told["steps"], told["world_size"]) == ("completed", 0, 8, 3)
    # Those who compute take two samples of 32 tokens each. With so long a timeout nobody is late.
    computing = 2 + trains
    assert told["tokens"] == 8 * computing * 2 * 32
    account = told["gradients"]
    assert (account["pushed"], account["applied"], account["late"]) == (8 * computing, 8 * computing, 0)
    assert account["samples_applied"] == 8 * computing * 2
    assert told["staleness_max"] == 3  # weights are pulled every fourth step
    lines = (run / "nodes" / "node1" / "rank-0" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if '"loss"' in line]
    assert [step["staleness"] for step in steps] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert (run / "model" / "model.safetensors").is_file()
    for rank in range(3):
        result = json.loads((run / "nodes" / f"node{rank + 1}" / f"rank-{rank}" / "result.json").read_text())
        assert result["status"] == "completed"
    assert not local.processes()
