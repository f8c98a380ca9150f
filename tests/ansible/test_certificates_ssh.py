"""Certificates over SSH: made, renewed, used by a run, and taken back. Each machine has a home of its own."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from ansible_lab import SHORT, Cluster
from ansible_sshd import Machines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NODES = ("node1", "node2", "node3")


@pytest.fixture
def homes(remote: Cluster, machines: Machines) -> dict[str, Path]:
    """By node; the controller gets one of this test's, so that whoever runs it keeps their own authority."""
    remote.env["HOME"] = str(remote.folder / "home")
    (remote.folder / "home").mkdir()
    (remote.folder / "home" / "work").mkdir()
    return {"node1": remote.folder / "home", **{each.name: each.home for each in machines.machines}}


def changed(text: str) -> dict[str, int]:
    """How many tasks changed something, by host."""
    return {name: int(count) for name, count in re.findall(r"^(\S+)\s+: .*changed=(\d+)", text, re.MULTILINE)}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_from_no_certificates_to_an_encrypted_run_and_a_lost_machine(remote: Cluster, homes: dict[str, Path]) -> None:
    refused = remote.play("train", override=(*SHORT, "encrypt=always"))
    assert refused.code == 2
    assert "always needs certificates, and the cluster has none yet" in refused.text
    assert f"ansible-playbook -i {remote.inventory.name} certificates.yml" in refused.text

    made = remote.play("certificates")
    assert made.code == 0, made.text
    assert "made the cluster's authority in" in made.text
    authority = homes["node1"] / ".smolcluster" / "ca"
    assert (mode(authority), mode(authority / "ca.key"), mode(authority / "issued.json")) == (0o700, 0o600, 0o600)
    certificates = {}
    for node in NODES:
        folder = homes[node] / ".smolcluster" / "certs" / node
        assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "crl.pem", "node.key", "node.pem"]
        assert (mode(folder), mode(folder / "node.key")) == (0o700, 0o600)
        key = (folder / "node.key").read_text()
        others = [path for name in NODES for path in (homes[name] / ".smolcluster").rglob("*") if path.is_file()]
        assert [path for path in others if key in path.read_text()] == [folder / "node.key"]
        certificates[node] = (folder / "node.pem").read_text()
    issued = json.loads((authority / "issued.json").read_text())["certificates"]
    names = {each["node"]: each["names"] for each in issued}
    assert {"127.0.0.3", "node3.local", "localhost"} <= set(names["node3"])

    again = remote.play("certificates")
    assert again.code == 0, again.text
    assert set(changed(again.text).values()) == {0}, again.text
    for node in NODES:
        folder = homes[node] / ".smolcluster" / "certs" / node
        assert (folder / "node.pem").read_text() == certificates[node]

    run = remote.play("train", "strategy=classicdp", override=(*SHORT, "encrypt=always"))
    assert run.code == 0, run.text
    plan = json.loads((remote.runs / run.run_id / "plan.json").read_text())
    assert [rank["encrypt"] for rank in plan["ranks"]] == [
        {"1": True, "2": True},
        {"0": True, "2": True},
        {"0": True, "1": True},
    ]
    assert json.loads((remote.runs / run.run_id / "summary.json").read_text())["status"] == "completed"

    lost = remote.play("certificates", "revoke=node3")
    assert lost.code == 0, lost.text
    assert "revoked 1 certificate of node3" in lost.text
    lists = {node: (homes[node] / ".smolcluster" / "certs" / node / "crl.pem").read_text() for node in NODES}
    assert lists["node1"] == lists["node2"] == (authority / "crl.pem").read_text() != lists["node3"]
    without = remote.play("train", override=(*SHORT, "encrypt=always"))
    assert without.code == 2
    assert "node3 was revoked on " in without.text
    assert not remote.processes()


def test_a_node_that_could_not_take_part_is_found_before_anything_starts(
    remote: Cluster, homes: dict[str, Path]
) -> None:
    assert remote.play("certificates").code == 0
    certs = homes["node2"] / ".smolcluster" / "certs" / "node2"
    (certs / "node.pem").unlink()
    # And one that was off when a list was sent round.
    old = homes["node3"] / ".smolcluster" / "certs" / "node3" / "crl.pem"
    before = old.read_text()
    assert remote.play("certificates", "revoke=node2", "nodes=node1").code == 0
    (homes["node2"] / ".smolcluster" / "certs" / "node2" / "node.key").unlink()
    assert remote.play("certificates", "nodes=node2").code == 0
    assert old.read_text() == before
    (certs / "node.pem").unlink()
    outcome = remote.play("train", override=(*SHORT, "encrypt=always"))
    assert outcome.code == 2
    assert "2 problems; nothing was started." in outcome.text
    assert "node2: this node has no certificate of this cluster" in outcome.text
    assert "node3: its list of revoked certificates is not the newest" in outcome.text
    assert outcome.text.count(f"fix: ansible-playbook -i {remote.inventory.name} certificates.yml (on the contr") == 2
    assert not remote.runs.exists()
    mended = remote.play("certificates")
    assert mended.code == 0, mended.text
    run = remote.play("train", override=(*SHORT, "encrypt=always"))
    assert run.code == 0, run.text
