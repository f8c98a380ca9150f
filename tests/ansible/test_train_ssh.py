"""The same over SSH: two machines behind sshds of their own, the controller as the third node."""

from __future__ import annotations

import json
import re
import stat
import sys
import threading

import pytest
import torch
from ansible_lab import LONG, SHORT, Cluster, Playing, gone_within
from ansible_sshd import Machines

from smolcluster.data.tokenizer import train_bpe
from smolcluster.models import build_model
from smolcluster.models.hf import load_pretrained, save_pretrained
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.spec.run import GPTSpec
from tests.dashboard.folders import client_of, got

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NODES = ("node1", "node2", "node3")


def copies(machines: Machines, remote: Cluster, names: str) -> dict[str, dict[str, int]]:
    """Data and weights that were shipped to each machine; a copy made again would have another inode."""
    stores = {node: machines.work(remote.folder, node) / ".data" for node in NODES[1:]}
    return {node: {path.name: path.stat().st_ino for path in store.glob(names)} for node, store in stores.items()}


@pytest.mark.core
def test_a_run_over_ssh_from_the_plan_to_the_model_and_one_from_given_weights(
    remote: Cluster, machines: Machines
) -> None:
    outcome = remote.play("train", "strategy=fsdp", override=SHORT)
    assert outcome.code == 0, outcome.text
    run = remote.runs / outcome.run_id
    told = json.loads((run / "summary.json").read_text())
    assert (told["status"], told["world_size"], told["steps"]) == ("completed", 3, 8)
    assert (run / "model" / "model.safetensors").is_file()
    for rank, node in enumerate(NODES):
        assert f"{node}  step 8/8" in outcome.text
        assert (run / "nodes" / node / f"rank-{rank}" / "metrics.jsonl").is_file()
        assert (run / "nodes" / node / f"rank-{rank}" / "log.txt").is_file()
    # What was shipped, and what never leaves a node.
    for node in ("node2", "node3"):
        there = machines.work(remote.folder, node) / outcome.run_id
        assert stat.S_IMODE((there / "secret").stat().st_mode) == 0o600
        assert (there / "secret").read_text() == (run / "secret").read_text()
        assert not (run / "nodes" / node / "control.json").exists()
        assert not (run / "nodes" / node / "node.yaml").exists()
        assert not (there / "nodes" / "node1").exists(), "a node has its own part only"
    assert (run / "secret").read_text() not in outcome.text
    assert not list(run.glob(".collect*"))
    assert not remote.processes()

    shipped = copies(machines, remote, "*")
    assert {node: len(found) for node, found in shipped.items()} == {"node2": 1, "node3": 1}

    # The data is there already, and weights to start from go to rank 0's node alone, which is not the controller.
    spec = GPTSpec(
        model_dim=32, num_layers=1, num_heads=2, ff_dim=64, dropout=0, max_seq_len=64, vocab_size=310
    )  # fmt: skip
    given = build_model(spec, seed=9)
    model = remote.folder / "given"
    train_bpe(["a text of few words"], 300).tokenizer.save(str(remote.folder / "tokenizer.json"))
    save_pretrained(given, remote.folder / "tokenizer.json", model)
    still = (*SHORT, "training.learning_rate=1e-9", "lr_schedule.min_lr=0", "training.weight_decay=0")
    again = remote.play("train", "strategy=fsdp", "nodes=node2,node3", f"init={model}", override=still)
    assert again.code == 0, again.text
    assert f"starts    from {model}" in again.text
    run = remote.runs / again.run_id
    assert "starts from the weights in" in (run / "nodes" / "node2" / "rank-0" / "log.txt").read_text()
    for mine, theirs in zip(load_pretrained(run / "model").parameters(), given.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)
    weights = copies(machines, remote, "init-*")
    assert {node: len(found) for node, found in weights.items()} == {"node2": 1, "node3": 0}
    for node in NODES[1:]:
        assert copies(machines, remote, "*")[node] == shipped[node] | weights[node], "the data was not shipped again"
    assert not (run / "nodes" / "node1").exists()


def test_a_node_that_is_off_is_one_clear_error_and_nothing_starts(remote: Cluster, machines: Machines) -> None:
    remote.inventory.write_text(machines.inventory(remote.folder, sys.executable, off="node3"))
    outcome = remote.play("train", "strategy=fsdp", override=SHORT, timeout=120)
    assert outcome.code == 2
    assert "1 problem; nothing was started." in outcome.text
    assert "node3: it cannot be reached at 127.0.0.3" in outcome.text
    assert "-e nodes=" in outcome.text
    assert outcome.text.count("cannot be reached") == 1
    assert not remote.runs.exists()
    assert not machines.work(remote.folder, "node2").exists()
    assert not remote.processes()

    status = remote.play("status")
    assert status.code == 0, status.text
    assert any(line.startswith("node3") and " off " in line for line in status.text.splitlines())
    assert any(line.startswith("node2") and " idle " in f"{line} " for line in status.text.splitlines())


def test_a_node_without_smolcluster_is_named(remote: Cluster) -> None:
    text = remote.inventory.read_text()
    remote.inventory.write_text(text.replace(f"python: {sys.executable}", "python: /nowhere/python", 1))
    outcome = remote.play("train", override=SHORT, timeout=120)
    assert outcome.code == 2
    assert "node2: " in outcome.text
    assert "/nowhere/python there must have smolcluster" in outcome.text
    assert not remote.runs.exists()


def begin(remote: Cluster, playing: list[Playing], *variables: str) -> tuple[Playing, str]:
    run = remote.begin("train", *variables, override=LONG)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    for node in NODES:
        run.until(rf"^{node}  step ", timeout=300)
    return run, run_id


def test_a_rank_killed_on_another_machine(remote: Cluster, playing: list[Playing]) -> None:
    run, run_id = begin(remote, playing, "max_restarts=0")
    (victim,) = [each for each in remote.processes() if "--rank" in each.cmdline() and each.cmdline()[-1] == "2"]
    victim.kill()
    outcome = run.end()
    assert outcome.code == 2
    assert "node3  failed: rank 2: ended by signal 9 (SIGKILL)" in outcome.text
    assert "rank 2 on node3 failed first" in outcome.text
    assert json.loads((remote.runs / run_id / "summary.json").read_text())["status"] == "failed"
    assert not remote.processes()


def test_a_killed_controller_ends_the_run_on_every_machine(remote: Cluster, playing: list[Playing]) -> None:
    run, run_id = begin(remote, playing)
    run.process.kill()
    gone_within(remote, 15)
    run.end()
    collected = remote.play("collect", f"run_id={run_id}")
    assert collected.code == 0, collected.text
    assert json.loads((remote.runs / run_id / "summary.json").read_text())["status"] == "stopped"


def test_a_node_whose_answers_are_slow_keeps_its_lease(remote: Cluster, playing: list[Playing]) -> None:
    """A Raspberry Pi that needs 10 s to start a Python while it trains; the lease is 12 s."""
    slow = remote.folder / "slow-python"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *" job poll "*) sleep 10;; esac\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    remote.inventory.write_text(remote.inventory.read_text().replace(f"python: {sys.executable}", f"python: {slow}"))
    run = remote.begin("train", override=LONG)
    playing.append(run)
    run.until(r"^node2  step ", timeout=300)
    # Polls of 10 s with a pause of 3 s in between would lose the lease about here.
    threading.Event().wait(18)
    assert run.process.poll() is None, "".join(run.lines)
    assert "lease" not in "".join(run.lines)
    run.interrupt()
    run.end(timeout=60)
    gone_within(remote, 15)


def test_a_run_without_a_controller_over_ssh(remote: Cluster) -> None:
    begun = remote.play("train", "detach=true", override=LONG)
    assert begun.code == 0, begun.text
    assert remote.processes()
    assert re.search(rf"ansible-playbook -i \S+\.smol\.yml stop\.yml -e run_id={begun.run_id}\n", begun.text)
    # Nobody here hears of machines elsewhere: what is collected is what the dashboard has, as often as that is done.
    assert f"watch it   python -m smolcluster dashboard runs/{begun.run_id} (of machines elsewhere it has" in begun.text
    seen = client_of(RunFolder(remote.runs / begun.run_id))
    assert [node["state"] for node in got(seen, "state")["nodes"]] == ["running", "unknown", "unknown"]
    fetched = remote.play("collect")
    assert fetched.code in (0, 2), fetched.text
    now = got(seen, "state")
    assert (now["state"], now["over"], [node["state"] for node in now["nodes"]]) == ("running", False, ["running"] * 3)
    assert all(node["step"] for node in now["nodes"])
    assert f"collect.yml -e run_id={begun.run_id} brings what is new" in now["notes"][-1]
    refused = remote.play("train", override=SHORT)
    assert refused.code == 2
    assert f"the run {begun.run_id} is active on {', '.join(NODES)}." in refused.text
    stopped = remote.play("stop", f"run_id={begun.run_id}")
    assert stopped.code == 0, stopped.text
    assert not remote.processes()
    collected = remote.play("collect")
    assert collected.code == 0, collected.text
    assert json.loads((remote.runs / begun.run_id / "summary.json").read_text())["status"] == "stopped"
