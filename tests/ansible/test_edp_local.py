"""train.yml -e strategy=edp on three nodes of this machine: a server, two workers, and any run's contract."""

from __future__ import annotations

import json

import pytest
from ansible_lab import LONG, SHORT, Cluster, checkpointed
from test_train_local import summary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_edp_from_the_plan_to_the_model(local: Cluster) -> None:
    outcome = local.play("train", "strategy=edp", override=(*SHORT, "use_quantization=true"))
    assert outcome.code == 0, outcome.text
    assert "strategy  edp, 3 ranks, STAR" in outcome.text
    assert "node1  step 8/8" in outcome.text
    run = local.runs / outcome.run_id
    told = summary(local, outcome.run_id)
    assert (told["status"], told["exit_code"], told["steps"], told["world_size"]) == ("completed", 0, 8, 3)
    # Two workers of two samples of 32 tokens: a step is their sum, whoever worked.
    assert told["tokens"] == 8 * 4 * 32
    account = told["gradients"]
    assert account["samples_applied"] == 8 * 4
    assert account["pushed"] == account["applied"] + sum(account["refused"].values())
    assert told["wire_bytes_per_step"] > 0
    lines = (run / "nodes" / "node1" / "rank-0" / "metrics.jsonl").read_text().splitlines()
    assert sum('"loss"' in line for line in lines) == 8
    measured = [json.loads(line) for line in lines if '"loss"' not in line]
    assert {record["step"] for record in measured} >= {8}
    assert (run / "model" / "model.safetensors").is_file()
    assert {path.suffix for path in (run / "plots").iterdir()} == {".svg", ".png"}
    for rank in range(3):
        result = json.loads((run / "nodes" / f"node{rank + 1}" / f"rank-{rank}" / "result.json").read_text())
        assert result["status"] == "completed"
    assert not local.processes()


@pytest.mark.soak
def test_edp_is_stopped_and_gone_on_with(local: Cluster) -> None:
    outcome = local.play("train", "strategy=edp", "detach=true", override=(*LONG, "checkpoint.every_steps=5"))
    assert outcome.code == 0, outcome.text
    checkpointed(local.runs / outcome.run_id)
    stopped = local.play("stop")
    assert stopped.code == 0, stopped.text
    assert not local.processes()
    assert local.play("collect").code in (0, 2)
    told = summary(local, outcome.run_id)
    assert (told["status"], told["exit_code"]) == ("stopped", 130)
    steps = int(told["steps"])
    assert steps >= 5
    again = local.play("train", "resume=true", override=(f"training.max_steps={steps + 6}",))
    assert again.code == 0, again.text
    told = summary(local, again.run_id)
    assert (told["status"], told["resumed_step"], told["steps"]) == ("completed", steps, steps + 6)
