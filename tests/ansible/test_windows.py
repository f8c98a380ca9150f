"""A Windows PC takes part: the real plays, over a real SSH, with Ansible's own PowerShell shell. What stands at the
other end is played (windows_pc.py), so none of this says that a real PC does the same.
"""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_lab import LONG, ROOT, SHORT, TINY, Cluster, Playing, gone_within
from ansible_served import PORTS, PROMPT, Tiny, ask
from ansible_sshd import free_port
from ansible_windows import Home

from smolcluster.plan.profile import Profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EDP = ROOT / "tests" / "configs" / "fixtures" / "cluster_config_edp.yaml"
PROFILE = "C:\\Users\\win"


def modules(home: Home, since: int) -> list[tuple[str, Any]]:
    """What Ansible asked the PC since then."""
    return [entry for entry in home.played()[since:] if entry[0] != "command"]


def test_the_guides_edp_trains_with_a_windows_worker(mixed: Cluster, home: Home) -> None:
    """The block as it stands in the guide: server mini1, workers pi5, win and macbook."""
    before = len(home.played())
    port = f"port={free_port('127.0.0.2', '127.0.0.3', '127.0.0.4', '127.0.0.5')}"
    # Nobody waits for a worker that comes late: long enough that this one has its steps.
    steps = ("training.max_steps=2000", "training.eval_steps=2000")
    outcome = mixed.play("train", "strategy=edp", f"cluster_config={EDP}", override=(*TINY, *steps, port), timeout=600)
    assert outcome.code == 0, outcome.text
    run = mixed.runs / outcome.run_id
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["world_size"]) == ("completed", 4)
    assert re.search(r"^win +step \d+", outcome.text, re.MULTILINE), "its progress was followed"
    assert (run / "nodes" / "win" / "rank-2" / "metrics.jsonl").is_file()
    assert (run / "nodes" / "win" / "rank-2" / "log.txt").is_file()
    assert not (run / "nodes" / "win" / "control.json").exists()
    assert not list(run.glob(".collect*"))
    # What was asked of it, in the words of Windows.
    asked = modules(home, before)
    assert [(name, each["state"]) for name, each in asked] == [
        ("smolcluster_job.ps1", "checked"),
        ("smolcluster_tree.ps1", "opened"),
        ("smolcluster_tree.ps1", "closed"),
        ("smolcluster_tree.ps1", "opened"),
        ("smolcluster_tree.ps1", "closed"),
        ("smolcluster_job.ps1", "started"),
        ("smolcluster_tree.ps1", "packed"),
    ]
    there = f"{PROFILE}\\work-{mixed.folder.name}\\runs/{outcome.run_id}"
    assert asked[0][1]["workdir"] == f"~/work-{mixed.folder.name}/runs"
    assert asked[1][1]["run_dir"] == there
    assert [file["name"] for file in asked[1][1]["files"]] == ["plan.json", "secret"]
    assert asked[5][1]["node_file"] == f"{there}/nodes/win/node.yaml"
    assert {each["python"] for _, each in asked} == {"~\\.smolcluster\\venv\\Scripts\\python.exe"}
    secret = (run / "secret").read_text()
    assert secret not in json.dumps(home.played()) + outcome.text, "a secret is a file, never an argument"
    assert (home.work(mixed.folder, "win") / outcome.run_id / "secret").read_text() == secret
    # Followed by a command, whose paths are quoted.
    (*_, (_, words)) = [entry for entry in home.played() if entry[0] == "command"]
    assert words[1:] == ["-m", "smolcluster", "job", "poll", "--run-dir", there, "--node", "win"]
    assert not mixed.processes()

    # The second time its data is there already.
    before = len(home.played())
    again = mixed.play("train", "strategy=fsdp", "nodes=mini1,win", override=SHORT, timeout=600)
    assert again.code == 0, again.text
    assert re.search(r"^win +step 8/8", again.text, re.MULTILINE)
    assert [each["state"] for name, each in modules(home, before) if name == "smolcluster_tree.ps1"] == [
        "opened", "closed", "opened", "packed",
    ]  # fmt: skip
    assert (mixed.runs / again.run_id / "model" / "model.safetensors").is_file()


def test_detached_with_status_stop_and_collect(mixed: Cluster, home: Home) -> None:
    begun = mixed.play("train", "strategy=classicdp", "nodes=mini1,win", "detach=true", override=LONG)
    assert begun.code == 0, begun.text
    refused = mixed.play("train", "nodes=win,pi5", override=SHORT)
    assert refused.code == 2
    assert f"the run {begun.run_id} is active on win." in refused.text
    status = mixed.play("status")
    assert status.code == 0, status.text
    assert re.search(rf"^win +{begun.run_id} +running +\d+/60000", status.text, re.MULTILINE), status.text
    stopped = mixed.play("stop")
    assert stopped.code == 0, stopped.text
    assert f"win: stopped {begun.run_id}" in stopped.text
    assert not mixed.processes()
    collected = mixed.play("collect", "checkpoints=true")
    assert collected.code == 0, collected.text
    run = mixed.runs / begun.run_id
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
    assert (run / "nodes" / "win" / "rank-1" / "log.txt").is_file()
    # Resumed where win is rank 0: what was collected goes there.
    step = json.loads((run / "summary.json").read_text())["steps"]
    override = (*TINY, f"training.max_steps={step + 4}", "training.eval_steps=60000")
    resumed = mixed.play("train", f"resume={begun.run_id}", "nodes=win,pi5", override=override)
    assert resumed.code == 0, resumed.text
    assert json.loads((mixed.runs / resumed.run_id / "summary.json").read_text())["steps"] == step + 4


def test_a_killed_controller_ends_the_run_there_too(mixed: Cluster, playing: list[Playing]) -> None:
    run = mixed.begin("train", "strategy=fsdp", "nodes=mini1,win", override=LONG)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    run.until(r"^win +step ", timeout=300)
    run.process.kill()
    gone_within(mixed, 30)
    run.end()
    collected = mixed.play("collect", f"run_id={run_id}")
    assert collected.code == 0, collected.text
    assert json.loads((mixed.runs / run_id / "summary.json").read_text())["status"] == "stopped"


def test_a_supervisor_that_was_killed_there_is_started_again(
    mixed: Cluster, home: Home, playing: list[Playing]
) -> None:
    before = len(home.played())
    run = mixed.begin("train", "strategy=classicdp", "nodes=mini1,win", override=LONG)
    playing.append(run)
    run.until(r"^win +step ", timeout=300)
    (victim,) = [
        each for each in mixed.processes()
        if "smolcluster.supervisor" in each.cmdline() and "nodes/win/" in " ".join(each.cmdline())
    ]  # fmt: skip
    victim.kill()
    run.until(r"^win +its supervisor died, killed or with the machine; starting it again", timeout=120)
    deadline, pause = time.monotonic() + 300, threading.Event()
    while [each["state"] for _, each in modules(home, before)].count("started") < 2:
        assert time.monotonic() < deadline, "".join(run.lines)
        pause.wait(0.1)
    seen = len(run.lines)
    while not any(re.match(r"win +step ", line) for line in run.lines[seen:]):
        assert time.monotonic() < deadline, "".join(run.lines)
        pause.wait(0.1)
    run.interrupt()
    run.end(timeout=120)
    gone_within(mixed, 30)


def test_a_machine_with_python_missing_or_off_is_named(mixed: Cluster, home: Home) -> None:
    text = mixed.inventory.read_text()
    mixed.inventory.write_text(text.replace("win: {", "win: {python: 'C:\\Users\\win\\none.exe', "))
    outcome = mixed.play("train", "nodes=mini1,win", override=SHORT, timeout=120)
    assert outcome.code == 2
    assert "none.exe there must have smolcluster (inventory key python)" in outcome.text
    mixed.inventory.write_text(home.inventory(mixed.folder, "python3", off="win"))
    outcome = mixed.play("train", "nodes=mini1,win", override=SHORT, timeout=120)
    assert outcome.code == 2
    assert "win: it cannot be reached at 127.0.0.3" in outcome.text
    assert not Path(mixed.runs).exists()


def test_a_model_is_served_with_a_stage_there(mixed: Cluster, home: Home, tiny: Tiny, playing: list[Playing]) -> None:
    before = len(home.played())
    run = mixed.begin("inference", f"model={tiny.folder}", "nodes=mini1,win", override=PORTS)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    run.until(r"^mini1 +ready$", timeout=300)
    url = run.until(r"^ +api +(http://\S+)$")[1]
    assert ask(url, PROMPT) == tiny.answer
    status = mixed.play("status", "nodes=win")
    assert re.search(rf"^win +{run_id} +running ", status.text, re.MULTILINE), status.text
    stopped = mixed.play("stop", f"run_id={run_id}")
    assert stopped.code == 0, stopped.text
    assert run.end(timeout=120).code == 0
    told = json.loads((mixed.runs / run_id / "summary.json").read_text())
    assert (told["status"], told["requests"]) == ("stopped", 1)
    (model,) = (home.work(mixed.folder, "win") / ".data").iterdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (model / name).read_bytes() == (tiny.folder / name).read_bytes()
    states = [each["state"] for name, each in modules(home, before) if name == "smolcluster_tree.ps1"]
    assert states == ["opened", "closed", "opened", "closed", "packed"]
    assert not mixed.processes()


def test_it_is_measured(mixed: Cluster) -> None:
    outcome = mixed.play("profile", "nodes=mini1,win", override=TINY)
    assert outcome.code == 0, outcome.text
    profile = Profile.model_validate_json((mixed.inventory.parent / "profile.json").read_bytes())
    assert tuple(profile.speeds) == ("mini1", "win")
    assert {(link.src, link.dst) for link in profile.links} == {("mini1", "win"), ("win", "mini1")}
