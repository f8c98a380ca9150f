"""train.yml and its companions on three nodes of this machine, called as a person calls them."""

from __future__ import annotations

import json
import re
import shutil
import stat
from pathlib import Path

import pytest
from ansible_lab import LONG, SHORT, Cluster, Outcome, Playing, gone_within

from tests.data.idx_files import write_idx

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def summary(cluster: Cluster, run_id: str) -> dict[str, object]:
    value: dict[str, object] = json.loads((cluster.runs / run_id / "summary.json").read_text())
    return value


def assert_complete(cluster: Cluster, outcome: Outcome, nodes: tuple[str, ...]) -> Path:
    """The run's contract: what DESIGN section 7 says a completed run leaves behind."""
    assert outcome.code == 0, outcome.text
    run = cluster.runs / outcome.run_id
    told = summary(cluster, outcome.run_id)
    assert told["status"] == "completed"
    assert told["exit_code"] == 0
    assert told["world_size"] == len(nodes)
    assert told["steps"] == 8
    assert (run / "plan.json").is_file()
    assert (run / "model" / "config.json").is_file()
    assert (run / "model" / "model.safetensors").is_file()
    assert {path.suffix for path in (run / "plots").iterdir()} == {".svg", ".png"}
    for rank, node in enumerate(nodes):
        assert (run / "nodes" / node / "supervisor.txt").is_file()
        assert (run / "nodes" / node / f"rank-{rank}" / "log.txt").is_file()
        lines = (run / "nodes" / node / f"rank-{rank}" / "metrics.jsonl").read_text().splitlines()
        assert sum('"loss"' in line for line in lines) == 8
    assert (cluster.runs / "latest").resolve() == run.resolve()
    return run


@pytest.mark.core
def test_fsdp_from_the_plan_to_the_model(local: Cluster) -> None:
    outcome = local.play("train", "strategy=fsdp", override=SHORT)
    run = assert_complete(local, outcome, ("node1", "node2", "node3"))
    for node in ("node1", "node2", "node3"):
        assert f"{node}  step 8/8" in outcome.text
    assert "rank 2    node3" in outcome.text, "the plan is shown"
    assert 'try it: python -m smolcluster generate runs/latest "Once upon"' in outcome.text
    secret = (run / "secret").read_text()
    assert stat.S_IMODE((run / "secret").stat().st_mode) == 0o600
    assert len(secret) == 64
    assert secret not in outcome.text
    assert not local.processes()


def test_a_name_of_its_own_a_list_of_overrides_and_a_place_without_links(local: Cluster) -> None:
    local.runs.mkdir()
    (local.runs / "latest").mkdir()
    (local.runs / "latest" / "in the way").touch()
    nothing = local.play("collect")
    assert nothing.code == 2
    assert "There is no run" in nothing.text
    shutil.rmtree(local.runs / "latest")

    variables = json.dumps({"override": list(SHORT), "run_id": "mine", "strategy": "single"})
    outcome = local.play("train", variables)
    assert_complete(local, outcome, ("node1",))
    assert outcome.run_id == "mine"
    again = local.play("train", variables)
    assert again.code == 2
    assert "There is a run mine already" in again.text

    (local.runs / "latest").unlink()
    (local.runs / "latest").write_text("mine\n")
    assert local.play("collect").code == 0


BAD = {
    "a strategy, nearly": (("strategy=fsdpp",), ("--strategy fsdpp: there is no such strategy", "did you mean fsdp?")),
    "a strategy, not at all": (("strategy=magic",), ("--strategy magic", "use one of single, classicdp, fsdp")),
    "a strategy that comes later": (("strategy=mp",), ("mp",)),
    "variables of the command line, and a served model's": (
        ("overide=training.max_steps=3", "modle=nn", "download=true"),
        (
            "-e modle=...: nobody reads it. Fix: did you mean model?",
            "-e overide=...: nobody reads it. Fix: did you mean override?",
            "-e download=...: this playbook has no such thing",
        ),
    ),
    "an override's key and another's value": (
        ('{"override": ["training.batch_sise=4", "training.batch_size=many"]}',),
        ("training.batch_sise: unknown key", "did you mean batch_size?", 'a whole number, not the text "many"'),
    ),
    "a node": (("nodes=node1,node9",), ("node9",)),
    "a config that is not there": (("config=nowhere.yaml",), ("nowhere.yaml",)),
    "a data set": (("dataset=nowhere.txt",), ("nowhere.txt",)),
    "--limit": (
        ("strategy=fsdp", "--limit", "node1"),
        ("--limit cannot choose the machines of a run", "-e nodes=node1"),
    ),
    "a name of the run": (("run_id=../../etc",), ("run_id may hold letters",)),
    "a hidden name of the run": (("run_id=.active",), ("run_id may hold letters",)),
    "a number of runs that stay": (("keep=2O",), ("it is 2O", "-e keep=20")),
    "the name of the link": (("run_id=latest",), ("run_id latest", "the link to the newest run")),
}


@pytest.mark.parametrize(("variables", "told"), BAD.values(), ids=BAD.keys())
def test_a_bad_wish_is_refused_before_anything_was_written(
    local: Cluster, variables: tuple[str, ...], told: tuple[str, ...]
) -> None:
    outcome = local.play("train", *variables)
    assert outcome.code == 2, outcome.text
    for part in told:
        assert part in outcome.text
    assert outcome.text.count("FAILED [") == 1
    assert "Traceback" not in outcome.text
    assert not local.runs.exists()
    assert not local.processes()


@pytest.mark.core
def test_a_machine_that_cannot_train_yet_is_named(local: Cluster) -> None:
    """A kind of machine may say why in its group_vars; it is not even asked."""
    variables = local.folder / "group_vars"
    variables.mkdir()
    (variables / "windows.yml").write_text("smol_cannot_train: it is being repaired\n")
    local.inventory.write_text(
        "schema: 1\nname: test\nmachines:\n"
        f"  node1: {{connection: local, workdir: {local.folder}/runs}}\n  win: {{host: 127.0.0.9}}\n"
        "networks:\n  wire: {medium: ethernet, private: true, members: {node1: 127.0.0.1, win: 127.0.0.9}}\n"
        "defaults: {data: {dataset: pydoc}}\n"
    )
    outcome = local.play("train", "nodes=node1,win")
    assert outcome.code == 2
    assert "win: it is being repaired." in outcome.text
    assert not local.runs.exists()


@pytest.mark.soak
def test_a_run_without_a_controller(local: Cluster) -> None:
    """detach, status, a second run refused and changing nothing, one that replaces it, stop, collect."""
    begun = local.play("train", "strategy=fsdp", "detach=true", override=LONG)
    assert begun.code == 0, begun.text
    run_id = begun.run_id
    for playbook in ("status", "stop", "collect"):
        assert f"ansible-playbook -i {local.inventory.name} {playbook}.yml" in begun.text
    assert local.processes()

    status = local.play("status")
    assert status.code == 0, status.text
    for node in ("node1", "node2", "node3"):
        lines = [line for line in status.text.splitlines() if line.startswith(node) and run_id in line]
        assert any("running" in line for line in lines), status.text

    before = sorted(path.name for path in local.runs.iterdir())
    refused = local.play("train", "strategy=fsdp", override=SHORT)
    assert refused.code == 2
    assert "1 problem; nothing was started." in refused.text
    assert f"1. the run {run_id} is active on node1, node2, node3." in refused.text
    assert "ends by itself" not in refused.text, "it has no lease"
    assert "-e replace=true" in refused.text
    assert f"ansible-playbook -i {local.inventory.name} stop.yml" in refused.text
    assert sorted(path.name for path in local.runs.iterdir()) == before

    second = local.play("train", "strategy=fsdp", "replace=true", "detach=true", override=LONG)
    assert second.code == 0, second.text
    for node in ("node1", "node2", "node3"):
        replaced = json.loads((local.runs / run_id / "nodes" / node / "job.json").read_text())
        assert replaced["state"] == "stopped"
    run_id = second.run_id

    stopped = local.play("stop")
    assert stopped.code == 0, stopped.text
    assert f"node1: stopped {run_id}" in stopped.text
    assert not local.processes()

    collected = local.play("collect")
    assert collected.code == 0, collected.text
    assert summary(local, run_id)["status"] == "stopped"
    assert "No run is active." in local.play("stop").text


def begin(local: Cluster, playing: list[Playing], *variables: str) -> tuple[Playing, str]:
    """A long run that has made its first steps on every node; and its name."""
    run = local.begin("train", *variables, override=LONG)
    playing.append(run)
    run_id = run.until(r"^Run (\S+)$")[1]
    for node in ("node1", "node2", "node3"):
        run.until(rf"^{node}  step ", timeout=300)
    return run, run_id


@pytest.mark.soak
def test_a_killed_rank_ends_the_run_everywhere_and_is_named(local: Cluster, playing: list[Playing]) -> None:
    run, run_id = begin(local, playing, "max_restarts=0")
    (victim,) = [each for each in local.processes() if "--rank" in each.cmdline() and each.cmdline()[-1] == "1"]
    victim.kill()
    outcome = run.end()
    assert outcome.code == 2
    assert "node2  failed: rank 1: ended by signal 9 (SIGKILL)" in outcome.text
    assert outcome.text.count("ended by signal 9") == 1, "once in a run"
    assert "rank 1 on node2 failed first" in outcome.text
    told = summary(local, run_id)
    assert told["status"] == "failed"
    assert told["exit_code"] != 0
    assert not local.processes()


@pytest.mark.soak
def test_a_killed_controller_ends_the_run_on_every_node(local: Cluster, playing: list[Playing]) -> None:
    run, run_id = begin(local, playing)
    refused = local.play("train", "strategy=fsdp", override=SHORT)
    (left,) = re.findall(r"if its playbook has ended, it ends by itself within (\d+) s", refused.text)
    assert 0 < int(left) <= 30, "once for the run"
    run.process.kill()
    gone_within(local, 15)
    run.end()
    nodes = local.runs / run_id / "nodes"
    jobs = [json.loads((nodes / node / "job.json").read_text()) for node in ("node1", "node2", "node3")]
    assert {job["state"] for job in jobs} == {"stopped"}
    # Where the lease ran out first the ranks agreed on a last step; the others ended with them.
    assert any("lease" in job["reason"] for job in jobs), jobs


def test_ctrl_c_ends_the_run_and_says_how_to_collect(local: Cluster, playing: list[Playing]) -> None:
    run, run_id = begin(local, playing)
    run.interrupt()
    outcome = run.end(timeout=30)
    assert outcome.code != 0
    assert re.search(rf"ansible-playbook -i \S+\.smol\.yml collect\.yml -e run_id={run_id}\n", outcome.text)
    gone_within(local, 15)
    collected = local.play("collect", f"run_id={run_id}")
    assert collected.code == 0, collected.text
    assert summary(local, run_id)["status"] == "stopped"


def test_classicdp_on_a_subset_of_the_nodes_and_resume_alone_goes_on_as_it_was(local: Cluster) -> None:
    nodes = "nodes=node1,node3"
    first = local.play("train", "strategy=classicdp", nodes, "run_id=first", override=(*SHORT, "seed=7"))
    run = assert_complete(local, first, ("node1", "node3"))
    assert not (run / "nodes" / "node2").exists()
    refused = local.play("train", "resume=latest", nodes, "dataset=nowhere.txt", "init=nothing")
    assert refused.code == 2
    assert refused.text.count("FAILED [") == 1
    for said in ("2 problems", "--init nothing", "nowhere.txt"):
        assert said in refused.text
    both = local.play("train", "resume=nothing", "dataset=nowhere.txt")
    assert (both.code, both.text.count("FAILED [")) == (2, 1)
    assert "-e resume nothing: there is no " in both.text
    assert "nowhere.txt" in both.text
    resumed = local.play("train", "resume=latest", nodes, override=("training.max_steps=12",))
    assert resumed.code == 0, resumed.text
    assert "resumes   run first, from step 8" in resumed.text
    assert "are taken from " in resumed.text
    told = summary(local, resumed.run_id)
    assert (told["strategy"], told["steps"], told["resumed_from"], told["resumed_step"]) == (
        "classicdp",
        12,
        "first",
        8,
    )
    before, after = (
        json.loads((local.runs / run / "plan.json").read_text())["run"] for run in ("first", resumed.run_id)
    )
    before["training"]["max_steps"] = 12
    assert after == before


@pytest.mark.soak
def test_simplenn_on_pictures(local: Cluster) -> None:
    pictures = write_idx(local.folder / "pictures")
    small = ("num_epochs=1", "batch_size=30")
    outcome = local.play(
        "train", "strategy=classicdp", "nodes=node1,node2", "model=nn", f"dataset={pictures}", override=small
    )
    assert outcome.code == 0, outcome.text
    told = summary(local, outcome.run_id)
    assert (told["status"], told["steps"], told["counts"]) == ("completed", 5, "samples")
    assert "SimpleNN 784-128-10" in outcome.text
    assert "samples/s" in outcome.text
    assert f"{100 * float(str(told['val_accuracy'])):.2f} % of the validation samples" in outcome.text
    assert "tokenizer" not in outcome.text
    assert "try it" not in outcome.text


@pytest.mark.parametrize(("playbook", "wrong"), [("stop", "runid"), ("collect", "runid"), ("status", "node")])
def test_a_misspelt_variable_is_refused_where_it_would_mean_every_run(
    local: Cluster, playbook: str, wrong: str
) -> None:
    refused = local.play(playbook, f"{wrong}=some")
    assert refused.code == 2
    assert f"-e {wrong}=...: nobody reads it. Fix: did you mean " in refused.text
