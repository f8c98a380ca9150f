"""train.yml -e strategy=mp on three nodes of this machine: layers on each of them, and any run's contract."""

from __future__ import annotations

import json

import pytest
from ansible_lab import LONG, SHORT, Cluster, checkpointed
from test_train_local import assert_complete, summary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def with_layers(overrides: tuple[str, ...], count: int) -> tuple[str, ...]:
    return tuple(f"model.num_layers={count}" if each.startswith("model.num_layers=") else each for each in overrides)


def test_mp_from_the_plan_to_the_model(local: Cluster) -> None:
    tracked = ("training.track_gradients=true", "logging.tracker=tensorboard")
    more = ("training.activation_checkpointing=true", *tracked)
    outcome = local.play("train", "strategy=mp", override=(*with_layers(SHORT, 3), *more))
    run = assert_complete(local, outcome, ("node1", "node2", "node3"))
    assert "strategy  mp, 3 ranks, CHAIN" in outcome.text
    assert "node1  step 8/8" in outcome.text
    assert json.loads((run / "plan.json").read_text())["stages"] == [[0, 1], [1, 2], [2, 3]]
    # Told as it went on by a process beside the playbook, which ended with the report.
    assert json.loads((run / "tracking" / "live.json").read_text())["to"] == "tensorboard"
    assert (run / "tracking" / "log.txt").read_text() == ""
    assert list(json.loads((run / "tracking" / "sent.json").read_text())["sent"]) == ["tensorboard"]
    assert outcome.text.count("tensorboard: tensorboard --logdir") == 1
    # One batch of two samples of 32 tokens passes all stages, and counts once.
    assert summary(local, outcome.run_id)["tokens"] == 8 * 2 * 32
    assert not local.processes()


@pytest.mark.soak  # as one pipeline; that two train as one process: tests/train/test_mp_command.py
def test_two_pipelines_from_the_plan_to_the_model(local: Cluster) -> None:
    text = local.inventory.read_text()
    [line] = [line for line in text.splitlines() if line.strip().startswith("node3: {")]
    text = text.replace(line, f"{line}\n{line.replace('node3', 'node4')}")
    local.inventory.write_text(text.replace("node3: 127.0.0.1", "node3: 127.0.0.1, node4: 127.0.0.1"))
    outcome = local.play("train", "strategy=mp", override=(*with_layers(SHORT, 2), "replicas=2"))
    run = assert_complete(local, outcome, ("node1", "node2", "node3", "node4"))
    assert "strategy  mp, 4 ranks in 2 pipelines, CHAIN" in outcome.text
    assert "layers 0:1 on node1 and node3, 1:2 on node2 and node4" in outcome.text
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["stages"], plan["replicas"]) == ([[0, 1], [1, 2]], 2)
    # A sample of 32 tokens for each of the two.
    assert summary(local, outcome.run_id)["tokens"] == 8 * 2 * 32
    assert not local.processes()


@pytest.mark.soak
def test_mp_is_stopped_and_gone_on_with_by_fewer_stages(local: Cluster) -> None:
    overrides = (*with_layers(LONG, 3), "checkpoint.every_steps=5")
    outcome = local.play("train", "strategy=mp", "detach=true", override=overrides)
    assert outcome.code == 0, outcome.text
    checkpointed(local.runs / outcome.run_id)
    stopped = local.play("stop")
    assert stopped.code == 0, stopped.text
    assert not local.processes()
    assert local.play("collect").code in (0, 2)
    told = summary(local, outcome.run_id)
    assert (told["status"], told["exit_code"]) == ("stopped", 130)
    steps = int(str(told["steps"]))
    assert steps >= 5
    more = (f"training.max_steps={steps + 6}",)
    again = local.play("train", "resume=true", '{"nodes": ["node3", "node1"]}', override=more)
    assert again.code == 0, again.text
    told = summary(local, again.run_id)
    assert (told["status"], told["resumed_step"], told["steps"], told["world_size"]) == (
        "completed",
        steps,
        steps + 6,
        2,
    )
