"""Playbooks where one of the machines is a tablet: nobody logs into it, and nothing may fail because of that."""

from __future__ import annotations

import pytest
from ansible_lab import Cluster

pytestmark = pytest.mark.slow


@pytest.fixture
def tablet(local: Cluster) -> Cluster:
    """Three nodes of this machine, and an iPad."""
    text = local.inventory.read_text(encoding="utf-8")
    text = text.replace("machines:\n", "machines:\n  ipad: {host: 172.20.10.3}\n", 1)
    wifi = "networks:\n  wifi: {medium: wifi, private: false, members: {node1: 172.20.10.1, ipad: 172.20.10.3}}\n"
    local.inventory.write_text(text.replace("networks:\n", wifi, 1), encoding="utf-8")
    return local


@pytest.mark.parametrize(
    ("playbook", "words"),
    [
        ("status", "an iPad takes part in inference only"),
        ("stop", "No run is active."),
        ("rollback", "ipad: nobody logs into it; nothing was set on it"),
    ],
)
def test_a_tablet_is_left_alone(tablet: Cluster, playbook: str, words: str) -> None:
    done = tablet.play(playbook, "network_rollback_become=false", f"smol_network_dir={tablet.folder / 'kept'}")
    assert done.code == 0, done.text
    assert words in done.text
    assert "FAILED" not in done.text
    assert "smolcluster_never_connects" not in done.text


def test_status_of_chosen_machines_is_theirs_alone(tablet: Cluster) -> None:
    done = tablet.play("status", "nodes=node1")
    assert done.code == 0, done.text
    assert "node1" in done.text
    assert "ipad" not in done.text


@pytest.mark.parametrize("playbook", ["train", "collect", "inference"])
def test_limit_is_refused_in_its_own_words(tablet: Cluster, playbook: str) -> None:
    done = tablet.play(playbook, "--limit", "ipad")
    assert done.code == 2, done.text
    assert "--limit cannot choose the machines of a run" in done.text
