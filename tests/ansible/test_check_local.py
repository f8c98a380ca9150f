"""check.yml, the doctor: machines, predictions, what to change; nothing is changed, and a dead machine is a row."""

from __future__ import annotations

import json

import pytest
from ansible_lab import TINY, Cluster

from smolcluster.doctor.report import Check
from smolcluster.plan.profile import Profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SPEEDS = '{"schema": 1, "speeds": {"node1": 3000, "node2": 3000, "node3": 600}}'


def figures(cluster: Cluster) -> dict[str, object]:
    """Of the newest check."""
    newest = max((cluster.runs / "check").iterdir())
    return dict(json.loads((newest / "check.json").read_text()))


def test_the_local_default_twice(local: Cluster) -> None:
    (local.inventory.parent / "profile.json").write_text(SPEEDS)
    for _ in range(2):
        outcome = local.play("check", "strategy=classicdp", override=("staleness_bound=0",))
        assert outcome.code == 0, outcome.text
        assert "changed=0" in outcome.text
        assert "changed=1" not in outcome.text
        told = figures(local)
        machines = told["machines"]
        assert isinstance(machines, list)
        assert [machine["name"] for machine in machines] == ["node1", "node2", "node3"]
        assert all(machine["looked"]["versions"]["torch"] for machine in machines)
        assert told["strategy"] == "classicdp"
        # The first of three that share an address has no way to dial itself.
        assert (len(told["ways"]), told["untried"]) == (4, [])  # type: ignore[arg-type]
        assert "4 of 4 ways were tried, 4 got through" in outcome.text
        assert "what to change to gain most, from classicdp" in outcome.text
        assert "without node3" in outcome.text
        assert "figures: " in outcome.text
    assert {path.name for path in local.runs.iterdir()} == {"check"}, "no run was made"
    assert not local.processes()


def measured(cluster: Cluster, nodes: tuple[str, ...]) -> None:
    """check.yml -e profile=true: measured first, then all that is predicted is predicted from that."""
    outcome = cluster.play(
        "check", "strategy=classicdp", "profile=true", f"nodes={','.join(nodes)}",
        override=TINY, timeout=800,
    )  # fmt: skip
    assert outcome.code == 0, outcome.text
    assert "Traceback" not in outcome.text
    (measurement,) = (line.split()[1] for line in outcome.text.splitlines() if line.startswith("Measurement "))
    assert {path.name for path in cluster.runs.iterdir()} >= {"check", measurement}
    profile = Profile.model_validate_json((cluster.inventory.parent / "profile.json").read_bytes())
    assert profile.measured is not None
    told = Check.model_validate(figures(cluster))
    assert told.measured is not None
    assert (told.measured.date, told.measured.old) == (profile.measured.date, False)
    assert tuple(told.measured.speeds) == nodes
    assert [machine.name for machine in told.machines] == list(nodes)
    # All but mp, which has fewer layers than machines.
    missing = {one.strategy: one.why_not for one in told.predictions if one.tokens_per_s is None}
    assert set(missing) == {"mp"}, missing
    assert told.serving is not None
    assert told.serving.one_stream or "layers" in told.serving.why_not
    assert not cluster.processes()


def test_machines_are_measured_first_where_that_is_asked_for(local: Cluster) -> None:
    measured(local, ("node1", "node2", "node3"))


@pytest.mark.soak
def test_machines_elsewhere_are_measured_first(remote: Cluster) -> None:
    measured(remote, ("node1", "node2"))


@pytest.mark.core
def test_a_machine_that_is_off_is_a_row_and_a_misspelt_one_is_guessed(local: Cluster) -> None:
    text = local.inventory.read_text()
    off = "  node3: {connection: ssh, kind: linux, host: 127.0.0.1, ssh_port: 1, threads: 1}\n"
    lines = [off if line.startswith("  node3:") else line for line in text.splitlines(keepends=True)]
    # Any free port cannot be told to a machine elsewhere.
    local.inventory.write_text("".join(lines).replace("port: 0", "port: 61234"))
    outcome = local.play("check")
    assert outcome.code == 2, outcome.text
    assert "Traceback" not in outcome.text
    told = figures(local)
    blocked = [one for one in told["findings"] if one["blocks"]]  # type: ignore[attr-defined]
    assert [one["node"] for one in blocked] == ["node3"]
    assert "A run with all these machines could not start" in outcome.text
    fewer = local.play("check", "nodes=node1,node2")
    assert fewer.code == 0, fewer.text
    wrong = local.play("check", "nodes=node1,node2", "stategy=mp")
    assert wrong.code == 2
    assert "did you mean strategy?" in wrong.text


def test_auto_is_all_where_nothing_is_chosen_and_refused_where_something_is_done(local: Cluster) -> None:
    """Its playbook would have no hosts, do nothing, and call it success."""
    outcome = local.play("check", "nodes=auto")
    assert outcome.code == 0, outcome.text
    machines = figures(local)["machines"]
    assert [one["name"] for one in machines if one["looked"]] == ["node1", "node2", "node3"]  # type: ignore[attr-defined]
    for playbook in ("network", "setup", "stop", "status", "collect"):
        refused = local.play(playbook, "nodes=auto")
        assert refused.code == 2, refused.text
        words = "this playbook has no such thing" if playbook == "collect" else "leave it away for all"
        assert words in " ".join(refused.text.split()), refused.text
    unknown = local.play("check", "serve=smollm2", "download=true")
    assert unknown.code == 2
    assert "-e download=...: this playbook has no such thing" in unknown.text
