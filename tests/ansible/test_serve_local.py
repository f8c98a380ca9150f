"""inference.yml and its companions on three nodes of this machine, called as a person calls them."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
import sys
import time

import pytest
from ansible_lab import Cluster, Playing, gone_within
from ansible_served import PORTS, PROMPT, Tiny, ask, rank_of
from test_dashboard_ssh import until

from smolcluster.jobs.registry import Registry
from smolcluster.runtime.onetime import LINK_S, read_onetime
from smolcluster.runtime.runfolder import JobState, RunFolder, ServingNote, write_atomic
from tests.dashboard.folders import client_of, got

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def begin(local: Cluster, playing: list[Playing], *variables: str) -> tuple[Playing, str, str]:
    """A model being served: the playbook, the run's name, the API's address."""
    run = local.begin("inference", *variables, override=PORTS)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    run.until(r"^node1  ready$", timeout=300)
    return run, run_id, run.until(r"^ +api +(http://\S+)$")[1]


@pytest.mark.core
def test_it_answers_survives_a_stage_and_ends_with_ctrl_c(local: Cluster, tiny: Tiny, playing: list[Playing]) -> None:
    run, run_id, url = begin(local, playing, f"model={tiny.folder}")
    text = "".join(run.lines)
    assert f"serves    {tiny.folder}, 4 layers" in text
    assert "rank 3    node1        API and page" in text
    assert ask(url, PROMPT) == tiny.answer
    run.until(r"^node1  1 request  .*tokens/s$")

    rank_of(local, 1).kill()
    run.until(r"^node2  rank 1: ended by signal 9 .*; starting again$", timeout=120)
    run.until(r"^node1  lost: ")
    run.until(r"^node1  ready again", timeout=300)
    assert ask(url, PROMPT) == tiny.answer

    status = local.play("status")
    assert status.code == 0, status.text
    assert f"{tiny.folder}: layers 0:" in status.text
    assert f"API {url}" in status.text

    run.interrupt()
    outcome = run.end(timeout=30)
    assert outcome.code != 0
    assert re.search(rf"ansible-playbook -i \S+\.smol\.yml collect\.yml -e run_id={run_id}\n", outcome.text)
    gone_within(local, 15)
    collected = local.play("collect", f"run_id={run_id}")
    assert collected.code == 0, collected.text
    folder = local.runs / run_id
    told = json.loads((folder / "summary.json").read_text())
    assert (told["kind"], told["status"], told["requests"], told["failed"]) == ("inference", "stopped", 2, 0)
    assert (told["tokens"], told["steps"]) == (16, None)
    assert told["restarts"] == 1, "the stage that was killed; one that only sees the head leave has not failed"
    lines = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    assert [(line["completion_tokens"], line["finish"]) for line in lines] == [(8, "length"), (8, "length")]
    assert PROMPT not in (folder / "requests.jsonl").read_text()
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    assert (local.runs / "latest" / "model" / "config.json").is_file(), "it can be served again by that name"
    assert not (folder / "api_key").exists(), "on loopback nobody is asked"


def test_detached_it_is_seen_stopped_and_collected(local: Cluster, tiny: Tiny) -> None:
    begun = local.play("inference", f"model={tiny.folder}", "detach=true", override=PORTS)
    assert begun.code == 0, begun.text
    assert f"{begun.run_id} runs on node1, node2, node3 and needs nobody." in begun.text
    (url,) = re.findall(r"^ +api +(http://\S+)$", begun.text, re.MULTILINE)
    assert f"watch it   python -m smolcluster dashboard runs/{begun.run_id}\n" in begun.text
    seen = client_of(RunFolder(local.runs / begun.run_id))
    assert got(seen, "state")["serving"]["requests"] == 0
    assert ask(url, PROMPT) == tiny.answer
    (pasted,) = re.findall(r"^ +try +(curl \S+/completions .+)$", begun.text, re.MULTILINE)
    answered = subprocess.run(shlex.split(pasted), capture_output=True, timeout=60, check=True)
    answer = json.loads(answered.stdout)
    assert answer["model"] == str(tiny.folder)
    until(lambda: got(seen, "state")["serving"]["requests"] == 2, "the dashboard sees how it goes on")
    assert got(seen, "state")["notes"] == [], "all of it is on this machine"
    status = local.play("status", "nodes=node1,node2")
    for part in (" ready ", url, f"{tiny.folder}: layers "):
        assert part in status.text

    refused = local.play("inference", f"model={tiny.folder}", override=PORTS)
    assert refused.code == 2
    assert f"1. the run {begun.run_id} is active on node1, node2, node3." in refused.text
    assert "ends by itself" not in refused.text, "it has no lease"

    stopped = local.play("stop", f"run_id={begun.run_id}")
    assert stopped.code == 0, stopped.text
    assert not local.processes()
    collected = local.play("collect")
    assert collected.code == 0, collected.text
    assert "2, 0 failed" in collected.text
    told = json.loads((local.runs / begun.run_id / "summary.json").read_text())
    assert (told["status"], told["requests"], told["tokens"]) == (
        "stopped",
        2,
        8 + answer["usage"]["completion_tokens"],
    )


def test_one_that_does_not_become_ready_is_ended_and_told(local: Cluster, tiny: Tiny) -> None:
    outcome = local.play("inference", f"model={tiny.folder}", "follow_ready_s=0", override=PORTS)
    assert outcome.code == 2
    assert "node1  failed: not ready after " in outcome.text
    assert "node1: failed, see above" in outcome.text
    told = json.loads((local.runs / outcome.run_id / "summary.json").read_text())
    assert told["status"] == "failed"
    assert not local.processes()


# A run made by hand whose API is ready beyond loopback: the key is made, and shown when the node is followed.
KEY = """\
- hosts: localhost
  vars:
    home: {home}
    plan_text: "{{{{ lookup('file', '{plan}') }}}}"
    plan_run:
      {{id: home, dir: {home}, kind: inference, key: true, detach: false, chdir: {home}, flags: [
        -i, {inventory}, --strategy, inference, --model, {model}]}}
  roles:
    - role: run_folder
- hosts: node1
  tasks:
    - follow:
        {{node: node1, nodes: [node1], run_dir: {home}, home: {home}, python: python3, local: true, serves: true,
          api: true, until_ready: true, api_key_file: {home}/api_key}}
"""


BAD = {
    "variables of the command line, and a training's": (
        ("modle=x", "detatch=true", "strategy=fsdp"),
        (
            "-e modle=...: nobody reads it. Fix: did you mean model?",
            "-e detatch=...: nobody reads it. Fix: did you mean detach?",
            "-e strategy=...: this playbook has no such thing",
        ),
    ),
    "a model, nearly": (("model=smolm2",), ("--model smolm2", "did you mean smollm2?")),
    "a model that is nowhere here": (("model=causal_gpt2",), ("gpt2", "--download")),
    "a node": (("model={tiny}", "nodes=node1,node9"), ("node9",)),
    "an override": (("model={tiny}", "override=web_interface.api_prot=1"), ("did you mean api_port?",)),
    "an address": (("model={tiny}", "override=web_interface.listen=[0.0.0.0]"), ("0.0.0.0",)),
    "--limit": (("model={tiny}", "--limit", "node1"), ("--limit cannot choose the machines of a run",)),
}


@pytest.mark.parametrize(("variables", "told"), BAD.values(), ids=BAD.keys())
def test_a_bad_wish_is_refused_before_anything_was_written(
    local: Cluster, tiny: Tiny, variables: tuple[str, ...], told: tuple[str, ...]
) -> None:
    # Neither a hub's cache of this machine nor the hub itself.
    local.env |= {"HF_HOME": str(local.folder / "hub"), "HF_HUB_OFFLINE": "1"}
    outcome = local.play("inference", *(variable.format(tiny=tiny.folder) for variable in variables))
    assert outcome.code == 2, outcome.text
    for part in told:
        assert part in outcome.text
    assert outcome.text.count("FAILED [") == 1
    assert "Traceback" not in outcome.text
    assert not local.runs.exists()


def test_a_run_s_key_is_its_owner_s_and_shown_once(local: Cluster, tiny: Tiny) -> None:
    """Nothing here may listen beyond loopback: the two places that handle the key, on a run made by hand."""
    home = RunFolder(local.folder / "home")
    job = JobState(run_id="home", node="node1", state="running", pid=1, generation=0, ranks={0: "running"})
    write_atomic(home.job_state("node1"), job.model_dump_json(by_alias=True))
    Registry.of_run(home.path, "node1").claim("home", home.path)
    urls = {"api": "http://192.0.2.1:8080", "page": "http://192.0.2.1:5050"}
    note = ServingNote(time=time.time(), state="ready", urls=urls)
    write_atomic(home.serving("node1", 0), note.model_dump_json(by_alias=True))
    plan, playbook = local.folder / "plan.json", local.folder / "key.yml"
    asked = ("plan", "-i", str(local.inventory), "--strategy", "inference", "--model", str(tiny.folder))
    made = subprocess.run([sys.executable, "-m", "smolcluster", *asked], capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    plan.write_text(made.stdout)
    playbook.write_text(KEY.format(home=home.path, inventory=local.inventory, model=tiny.folder, plan=plan))
    local.env["ANSIBLE_LOG_PATH"] = str(local.folder / "log")
    outcome = local.play(str(playbook))
    assert outcome.code == 0, outcome.text
    key = (home.path / "api_key").read_text()
    assert stat.S_IMODE((home.path / "api_key").stat().st_mode) == 0o600
    assert len(key) == 43
    assert key.isalnum()
    assert outcome.text.count(key) == 1, "for clients; the link has a key of its own"
    [onetime] = re.findall(r"page  http://192\.0\.2\.1:5050/\?key=(\S+)", outcome.text)
    found = read_onetime(key, onetime)
    assert found is not None
    assert abs(found.until - note.time - LINK_S) <= 1
    log = (local.folder / "log").read_text()
    assert "node1  ready" in log
    assert key not in log
    assert onetime not in log
