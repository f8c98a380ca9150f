"""A Windows PC takes part: the real plays, over a real SSH, with Ansible's own PowerShell shell. What stands at the
other end is played (windows_pc.py), so none of this says that a real PC does the same.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_lab import LONG, ROOT, SHORT, TINY, Cluster, Playing, gone_within
from ansible_served import PORTS, PROMPT, Tiny, ask
from ansible_sshd import free_port
from ansible_windows import Home

from smolcluster.jobs.bootservice import BootService, read_note, write_note
from smolcluster.jobs.schtasks import FOLDER
from smolcluster.plan.profile import Profile
from smolcluster.runtime.newrun import fill_folder
from smolcluster.runtime.runfolder import RunFolder
from tests.jobs.node import make_plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EDP = ROOT / "tests" / "configs" / "fixtures" / "cluster_config_edp.yaml"
PROFILE = "C:\\Users\\win"


def modules(home: Home, since: int) -> list[tuple[str, Any]]:
    """What Ansible asked the PC since then."""
    return [entry for entry in home.played()[since:] if entry[0] != "command"]


def only(cluster: Cluster, hosts: str, role: str, tasks: str) -> str:
    """A playbook of one file of a role's tasks."""
    play = {"hosts": hosts, "tasks": [{"ansible.builtin.include_role": {"name": role, "tasks_from": tasks}}]}
    path = cluster.folder / f"{role}-{tasks}"
    path.write_text(yaml.safe_dump([play]))
    return str(path)


def test_the_guides_edp_trains_with_a_windows_worker(mixed: Cluster, home: Home) -> None:
    """The block as it stands in the guide: server mini1, workers pi5, win and macbook."""
    before = len(home.played())
    port = f"port={free_port('127.0.0.2', '127.0.0.3', '127.0.0.4', '127.0.0.5')}"
    # Nobody waits for a worker that comes late: the others are slow, so that this one has its steps.
    slow = ", ".join(f"{{kind: slow, rank: {rank}, step: 1, factor: 100}}" for rank in (1, 3))
    steps = ("training.max_steps=300", "training.eval_steps=300", f"faults=[{slow}]")
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
        # The data: is it there, then which of its files, by their hashes.
        ("smolcluster_tree.ps1", "opened"),
        ("smolcluster_tree.ps1", "opened"),
        ("smolcluster_tree.ps1", "closed"),
        ("smolcluster_job.ps1", "started"),
        ("smolcluster_tree.ps1", "packed"),
    ]
    there = f"{PROFILE}\\work-{mixed.folder.name}\\runs/{outcome.run_id}"
    assert asked[0][1]["workdir"] == f"~/work-{mixed.folder.name}/runs"
    assert asked[1][1]["run_dir"] == there
    assert [file["name"] for file in asked[1][1]["files"]] == ["plan.json", "secret"]
    assert asked[6][1]["node_file"] == f"{there}/nodes/win/node.yaml"
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


@pytest.mark.soak  # as of other machines; the way there is proven by those that stay
def test_detached_with_status_stop_and_collect(mixed: Cluster, home: Home) -> None:
    begun = mixed.play("train", "strategy=classicdp", "nodes=mini1,win", "detach=true", override=LONG)
    assert begun.code == 0, begun.text
    refused = mixed.play("train", "nodes=win,pi5", override=SHORT)
    assert refused.code == 2
    assert f"the run {begun.run_id} is active on win." in refused.text
    setup = mixed.play(only(mixed, "win", "runtime", "idle.yml"))
    assert setup.code == 2
    assert "win: a run is active there, and its code would change under it." in setup.text
    status = mixed.play("status")
    assert status.code == 0, status.text
    assert re.search(rf"^win +{begun.run_id} +running +\d+/60000", status.text, re.MULTILINE), status.text
    stopped = mixed.play("stop")
    assert stopped.code == 0, stopped.text
    assert f"win: stopped {begun.run_id}" in stopped.text
    assert not mixed.processes()
    setup = mixed.play(only(mixed, "win", "runtime", "idle.yml"))
    assert setup.code == 0, setup.text
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


@pytest.mark.soak  # as of other machines; the way there is proven by those that stay
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


@pytest.mark.soak
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
    assert states == ["opened", "closed", "opened", "opened", "closed", "packed"]
    assert not mixed.processes()


@pytest.mark.soak  # as of other machines; the way there is proven by those that stay
def test_it_is_measured(mixed: Cluster) -> None:
    outcome = mixed.play("profile", "nodes=mini1,win", override=TINY)
    assert outcome.code == 0, outcome.text
    profile = Profile.model_validate_json((mixed.inventory.parent / "profile.json").read_bytes())
    assert tuple(profile.speeds) == ("mini1", "win")
    assert {(link.src, link.dst) for link in profile.links} == {("mini1", "win"), ("win", "mini1")}


@pytest.mark.soak  # as of other machines; the way there is proven by those that stay
def test_its_old_runs_go_too(mixed: Cluster, home: Home) -> None:
    before = len(home.played())
    old = RunFolder(home.work(mixed.folder, "win") / "old-1")
    fill_folder(old, make_plan("win", ("run",)).to_json())
    old.summary.write_text("{}")
    os.utime(old.plan, (1_000_000, 1_000_000))
    run = mixed.play("train", "strategy=fsdp", "nodes=mini1,win", "keep=1", override=SHORT, timeout=600)
    assert run.code == 0, run.text
    assert "win: deleted old-1: 0.0 MB freed" in run.text
    assert not old.path.exists()
    assert (old.path.parent / run.run_id).is_dir()
    (asked,) = [each for name, each in modules(home, before) if name == "smolcluster_runs.ps1"]
    assert asked["workdir"] == f"{PROFILE}\\work-{mixed.folder.name}\\runs"
    assert asked["python"] == "~\\.smolcluster\\venv\\Scripts\\python.exe"


@pytest.fixture
def at_boot(mixed: Cluster, home: Home) -> BootService:
    """A run's task and note on the PC, as its smolcluster leaves them there."""
    run = home.work(mixed.folder, "win") / "run-1"
    xml = run / "nodes" / "win" / "smolcluster-boot.xml"
    xml.parent.mkdir(parents=True)
    xml.write_text("")
    name = f"boot-win-{mixed.folder.name}"
    service = BootService(
        run_id="run-1", run_dir=str(run), node="win", kind="windows", name=FOLDER + name, system=True,
        files={str(xml): ""}, end=("schtasks", "/End", "/TN", FOLDER + name),
    )  # fmt: skip
    write_note(service)
    (home.scheduler().folder / f"{name}.task").write_text("")
    return service


def test_status_shows_what_it_serves_at_boot_and_stop_takes_it_away(
    mixed: Cluster, home: Home, at_boot: BootService
) -> None:
    status = mixed.play("status", "nodes=win")
    assert status.code == 0, status.text
    assert re.search(r"^win +run-1 +on boot +- +served again when the machine starts", status.text, re.MULTILINE)
    before = len(home.played())
    other = mixed.play("stop", "nodes=win", "run_id=run-2")
    assert other.code == 0, other.text
    assert read_note(home.work(mixed.folder, "win"), "win") == at_boot
    stopped = mixed.play("stop", "nodes=win")
    assert stopped.code == 0, stopped.text
    assert "win: run-1 is not served any more when the machine starts" in stopped.text
    assert [(name, each["state"]) for name, each in modules(home, before)] == [
        ("smolcluster_job.ps1", "listed"),
        ("smolcluster_boot.ps1", "found"),
        ("smolcluster_job.ps1", "listed"),
        ("smolcluster_boot.ps1", "found"),
        ("smolcluster_boot.ps1", "removed"),
    ]
    assert read_note(home.work(mixed.folder, "win"), "win") is None
    assert not Path(at_boot.path).exists()
    assert at_boot.name.removeprefix(FOLDER) not in home.scheduler().tasks()
    assert home.scheduler().calls()[-2:] == [
        ["schtasks", "/End", "/TN", at_boot.name],
        ["schtasks", "/Delete", "/TN", at_boot.name, "/F"],
    ]


def test_teardowns_step_takes_it_away_too(mixed: Cluster, home: Home, at_boot: BootService) -> None:
    taken = mixed.play(only(mixed, "win", "boot_service", "remove.yml"))
    assert taken.code == 0, taken.text
    assert read_note(home.work(mixed.folder, "win"), "win") is None
    assert not Path(at_boot.path).exists()
    before = len(home.played())
    again = mixed.play(only(mixed, "win", "boot_service", "remove.yml"))
    assert again.code == 0, again.text
    assert [each["state"] for _, each in modules(home, before)] == ["found"]


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs this machine: it would be asked")
def test_serving_at_boot_is_asked_of_it_and_refused_in_its_words(mixed: Cluster, home: Home, tiny: Tiny) -> None:
    """What plays the PC has no service manager that smolcluster knows."""
    before = len(home.played())
    refused = mixed.play("inference", f"model={tiny.folder}", "nodes=mini1,win", "on_boot=true", override=PORTS)
    assert refused.code == 2, refused.text
    assert "on_boot: 2 problems; nothing was started." in refused.text
    assert "win: nothing here starts what is to be served when the machine starts" in refused.text
    assert [each["state"] for _, each in modules(home, before)] == ["checked", "asked"]
    before = len(home.played())
    installed = mixed.play(only(mixed, "win", "boot_service", "main.yml"), "ship_folder=~/runs/run-1")
    assert installed.code == 2
    assert "cannot be read: No such file" in installed.text
    ((name, asked),) = modules(home, before)
    assert (name, asked["state"]) == ("smolcluster_boot.ps1", "installed")
    assert asked["node_file"] == "~/runs/run-1/nodes/win/node.yaml"


def test_who_is_no_administrator_there_cannot_serve_at_boot(mixed: Cluster) -> None:
    """The words alone: nobody is asked."""
    answer = {"boot_service_asked": {"changed": False, "administrator": True}}
    told = (
        "{{ lookup('ansible.builtin.template', '" + str(ROOT / "roles/boot_service/templates/problems.txt.j2") + "') }}"
    )
    tasks = [{"ansible.builtin.set_fact": answer}, {"smolcluster_say": {"text": told}, "run_once": True}]
    path = mixed.folder / "told.yml"
    path.write_text(yaml.safe_dump([{"hosts": "mini1,win", "tasks": tasks}]))
    outcome = mixed.play(str(path))
    assert outcome.code == 0, outcome.text
    assert "on_boot: 1 problem; nothing was started." in outcome.text
    assert (
        "1. win: a task that starts with the PC takes an administrator, and the user who is logged in" in outcome.text
    )
    assert "fix: name one as user in the inventory" in outcome.text
