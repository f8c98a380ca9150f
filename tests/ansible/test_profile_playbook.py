"""profile.yml, and train.yml -e profile=true: machines are measured where they are, and the plan goes by it."""

from __future__ import annotations

import json
import stat

import pytest
from ansible_lab import SHORT, TINY, Cluster

from smolcluster.plan.profile import Profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# Two whole runs, one after the other, on a machine that may be busy with other tests.
BOTH_S = 900.0
NODES = ("node1", "node2", "node3")


def variables(*override: str, **others: object) -> str:
    """As JSON: a fault has spaces, at which Ansible would cut key=value."""
    return json.dumps({"override": list(override), **others})


def profile_of(cluster: Cluster) -> Profile:
    return Profile.model_validate_json((cluster.inventory.parent / "profile.json").read_bytes())


def test_a_training_measures_before_it_plans(local: Cluster) -> None:
    slow = "faults=[{kind: slow, rank: 1, step: 1, factor: 8}]"
    outcome = local.play(
        "train", variables(*SHORT, "balance=auto", slow, strategy="classicdp", profile=True), timeout=BOTH_S
    )
    assert outcome.code == 0, outcome.text
    profile = profile_of(local)
    assert tuple(profile.speeds) == NODES
    assert profile.measured is not None
    assert (profile.measured.cluster, profile.measured.batch_size) == ("test", 2)
    assert {(link.src, link.dst) for link in profile.links} == {(a, b) for a in NODES for b in NODES if a != b}
    measurement = next(line.split()[1] for line in outcome.text.splitlines() if line.startswith("Measurement "))
    run = local.runs / outcome.run_id
    assert measurement != outcome.run_id
    assert outcome.text.index(f"Measurement {measurement}") < outcome.text.index(f"Run {outcome.run_id}")
    assert (local.runs / measurement / "profile.json").read_bytes() == (
        local.inventory.parent / "profile.json"
    ).read_bytes()
    assert stat.S_IMODE((local.runs / measurement / "secret").stat().st_mode) == 0o600
    plan = json.loads((run / "plan.json").read_text())
    shares = [rank["samples"] for rank in plan["ranks"]]
    assert (sum(shares), shares[1]) == (6, 1)
    assert "balance auto: node1 " in outcome.text
    assert "predicted: " in outcome.text
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["kind"], summary["status"], summary["steps"]) == ("train", "completed", 8)
    assert (local.runs / "latest").resolve() == run.resolve()
    assert not local.processes()


def test_measuring_alone(local: Cluster) -> None:
    outcome = local.play("profile", "nodes=node1,node3", override=TINY)
    assert outcome.code == 0, outcome.text
    assert tuple(profile_of(local).speeds) == ("node1", "node3")
    assert "links, while all computed and sent" in outcome.text
    assert "profile.json; plans of this inventory go by it" in outcome.text
    assert not (local.runs / "latest").exists(), "there is no model in it"
    assert not local.processes()


def test_a_measurement_that_fails_starts_no_training(local: Cluster) -> None:
    outcome = local.play("train", variables(*SHORT, "faults=[{kind: crash, rank: 2, step: 1}]", profile="true"))
    assert outcome.code == 2, outcome.text
    assert "node3" in outcome.text
    assert "Traceback" not in outcome.text
    assert "Run " not in outcome.text
    assert [path.name for path in local.runs.glob("*-fsdp-*")] == []
    assert not (local.inventory.parent / "profile.json").exists()
    assert not local.processes()


def test_a_served_model_has_no_such_flag(local: Cluster) -> None:
    outcome = local.play("inference", "profile=true")
    assert outcome.code == 2
    assert "-e profile=...: this playbook has no such thing" in outcome.text


def test_machines_elsewhere_are_measured_over_ssh(remote: Cluster) -> None:
    outcome = remote.play("profile", "nodes=node1,node2", override=TINY)
    assert outcome.code == 0, outcome.text
    profile = profile_of(remote)
    assert tuple(profile.speeds) == ("node1", "node2")
    assert {(link.src, link.dst) for link in profile.links} == {("node1", "node2"), ("node2", "node1")}
    assert not remote.processes()
