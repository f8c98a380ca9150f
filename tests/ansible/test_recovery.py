"""A run that is shot at through the playbook: restarts that the playbook shows, and -e resume after the end of all."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from ansible_lab import LONG, TINY, Cluster, Playing, checkpointed, gone_within
from ansible_sshd import Machines
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 400
# Ranks that take every step together: what is resumed ends as what was not, to the bit.
SETTINGS = (
    *TINY, f"training.max_steps={STEPS}", "training.eval_steps=200", "checkpoint.every_steps=20", "staleness_bound=0",
)  # fmt: skip


def model(cluster: Cluster, run_id: str) -> dict[str, torch.Tensor]:
    return load_file(cluster.runs / run_id / "model" / "model.safetensors")


def rank_of(cluster: Cluster, rank: int):
    (found,) = [each for each, words in said(cluster) if words[-2:] == ["--rank", str(rank)]]
    return found


def said(cluster: Cluster) -> Iterator[tuple[psutil.Process, list[str]]]:
    """Each process of the cluster with its command line; one that ends meanwhile is none."""
    for each in cluster.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            yield each, each.cmdline()


def supervisor_of(cluster: Cluster, node: str):
    (found,) = [
        each
        for each, words in said(cluster)
        if "smolcluster.supervisor" in words and f"/nodes/{node}/node.yaml" in " ".join(words)
    ]
    return found


@pytest.mark.soak
def test_shot_at_and_resumed_it_ends_with_the_weights_of_an_undisturbed_run(
    local: Cluster, playing: list[Playing]
) -> None:
    whole = local.play("train", "strategy=fsdp", override=SETTINGS)
    assert whole.code == 0, whole.text

    run = local.begin("train", "strategy=fsdp", override=SETTINGS)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    folder: Path = local.runs / run_id
    for node in ("node1", "node2", "node3"):
        run.until(rf"^{node}  step ", timeout=300)
    checkpointed(folder)
    rank_of(local, 1).kill()
    run.until(r"^node2  rank 1: ended by signal 9 .*; starting again$", timeout=120)
    run.until(r"^node1  generation 1 starts from step \d+$", timeout=300)
    supervisor_of(local, "node3").kill()
    run.until(r"^node3  its supervisor died, killed or with the machine; starting it again$", timeout=60)
    run.until(r"^node3  generation 2 starts from step \d+$", timeout=300)

    run.process.kill()
    for process in local.processes():
        process.kill()
    gone_within(local, 15)
    assert not (folder / "model").exists(), "it was to be killed before its end"
    resumed = local.play("train", "strategy=fsdp", "resume=true", override=SETTINGS)
    assert resumed.code == 0, resumed.text
    assert f"resumes   run {run_id}, from step " in resumed.text
    told = json.loads((local.runs / resumed.run_id / "summary.json").read_text())
    assert (told["resumed_from"], told["steps"], told["restarts"]) == (run_id, STEPS, 0)
    assert told["resumed_step"] >= 20
    ours, theirs = model(local, resumed.run_id), model(local, whole.run_id)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_over_ssh_a_rank_is_started_again_and_other_machines_resume_from_what_was_collected(
    remote: Cluster, machines: Machines, playing: list[Playing]
) -> None:
    run = remote.begin("train", "strategy=fsdp", override=(*LONG, "checkpoint.every_steps=20"))
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    folder = remote.runs / run_id
    for node in ("node1", "node2", "node3"):
        run.until(rf"^{node}  step ", timeout=300)
    checkpointed(folder)
    rank_of(remote, 2).kill()
    run.until(r"^node3  rank 2: ended by signal 9 .*; starting again$", timeout=120)
    run.until(r"^node3  generation 1 starts from step \d+$", timeout=300)
    supervisor_of(remote, "node2").kill()
    run.until(r"^node2  its supervisor died, killed or with the machine; starting it again$", timeout=60)
    run.until(r"^node2  generation 2 starts from step \d+$", timeout=300)
    run.interrupt()
    run.end(timeout=60)
    gone_within(remote, 15)

    collected = remote.play("collect", "checkpoints=true")
    assert collected.code == 0, collected.text
    for node in ("node1", "node2", "node3"):
        assert list((folder / "nodes" / node).glob("checkpoints/step-*/rank-*.safetensors"))
    for node in ("node2", "node3"):  # their own disks are lost: what was collected is all there is
        shutil.rmtree(machines.work(remote.folder, node) / run_id)
    resumed = remote.begin("train", "strategy=classicdp", "resume=true", "nodes=node2,node3", override=LONG)
    playing.append(resumed)
    step = int(resumed.until(rf"^  resumes   run {run_id}, from step (\d+)$")[1])
    assert step >= 20
    resumed.until(rf"^node3  generation 0 starts from step {step}$", timeout=300)
    resumed.interrupt()
    resumed.end(timeout=60)
    gone_within(remote, 15)


def test_resuming_from_nothing_is_refused_before_anything_was_written(local: Cluster) -> None:
    nothing = local.play("train", "strategy=single", "resume=true", override=SETTINGS)
    assert nothing.code == 2
    assert "-e resume true: there is no " in nothing.text
    assert "fix: name a run under runs/" in nothing.text
    assert not local.runs.exists()
