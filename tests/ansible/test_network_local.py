"""network.yml and rollback.yml where there is nothing to set: three nodes of one machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_lab import Cluster

pytestmark = pytest.mark.slow


@pytest.mark.core
def test_nothing_is_set_on_loopback(local: Cluster) -> None:
    done = local.play("network", "apply=false")
    assert done.code == 0, done.text
    assert "nothing to do on node1, node2, node3" in done.text
    assert "nothing is changed (-e apply=false)" in done.text
    assert "changed=1" not in done.text
    (report,) = local.runs.glob("network/*/report.json")
    assert '"status": "completed"' in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("playbook", "variables", "words"),
    [
        ("network", ("--limit", "node1"), "--limit cannot choose the machines"),
        ("network", ("aply=false",), "-e aply=...: nobody reads it. Fix: did you mean apply?"),
        ("network", ("strategy=fsdp",), "-e strategy=...: this playbook has no such thing. It reads nodes, apply"),
        ("rollback", ("apply=false",), "-e apply=...: this playbook has no such thing. It reads nodes"),
        ("network", ("nodes=node1,nod2",), "there is no machine nod2 in the inventory. Fix: did you mean node2?"),
        ("teardown", ("nodes=win",), "there is no machine win in the inventory. Fix: there are node1, node2, node3"),
        ("certificates", ("revoke=node2", "--limit", "node1"), "--limit cannot choose the machines"),
    ],
)
def test_a_call_that_cannot_be_meant_is_refused(
    local: Cluster, playbook: str, variables: tuple[str, ...], words: str
) -> None:
    done = local.play(playbook, *variables)
    assert done.code == 2, done.text
    assert words in done.text
    assert not (local.runs / "network").exists()


def test_what_stayed_is_taken_back_and_a_second_time_there_is_nothing(local: Cluster) -> None:
    place, made = local.folder / "kept", local.folder / "made"
    made.write_text("new")
    place.mkdir()
    back = {"argv": [], "path": str(made), "text": None}
    (place / "plan.json.kept").write_text(json.dumps({"rollback": [back]}))
    done = local.play("rollback", *mine(place))
    assert done.code == 0, done.text
    assert "node1: taken back" in done.text
    assert not made.exists()
    assert not place.exists()
    again = local.play("rollback", *mine(place))
    assert again.code == 0, again.text
    assert "node1: nothing to take back" in again.text


def test_where_nobody_could_look_it_is_not_called_nothing(local: Cluster) -> None:
    """As where sudo wants a password: what is there stays, and the playbook fails."""
    place = local.folder / "kept"
    place.mkdir()
    (place / "plan.json.kept").write_text("{ broken")
    done = local.play("rollback", *mine(place))
    assert done.code == 2, done.text
    assert "node1: not asked, nobody could look what is there" in done.text
    assert "nothing to take back" not in done.text
    assert (place / "plan.json.kept").exists()


def test_a_machine_that_is_off_is_named_and_the_others_are_taken_back_all_the_same(local: Cluster) -> None:
    text = local.inventory.read_text()
    off = "  node3: {connection: ssh, kind: linux, host: 127.0.0.1, ssh_port: 1, threads: 1}\n"
    lines = [off if line.startswith("  node3:") else line for line in text.splitlines(keepends=True)]
    # Any free port cannot be told to a machine elsewhere.
    local.inventory.write_text("".join(lines).replace("port: 0", "port: 61234"))
    place, made = local.folder / "kept", local.folder / "made"
    made.write_text("new")
    place.mkdir()
    (place / "plan.json.kept").write_text(json.dumps({"rollback": [{"argv": [], "path": str(made), "text": None}]}))
    done = local.play("rollback", *mine(place, "node1,node3"))
    assert done.code == 2, done.text
    assert "node1: taken back" in done.text
    assert not made.exists()
    assert "node3: not asked, it cannot be reached at 127.0.0.1: " in done.text
    assert "fix: bring it up and play rollback.yml again, or leave it out with -e nodes=..." in done.text
    assert "Traceback" not in done.text
    again = local.play("rollback", *mine(place))
    assert again.code == 0, again.text


def mine(place: Path, nodes: str = "node1") -> tuple[str, ...]:
    """A place of the test's own, without an administrator's rights, on one of the three nodes."""
    return (f"nodes={nodes}", f"smol_network_dir={place}", "network_rollback_become=false")
