"""network.yml and rollback.yml where there is nothing to set: three nodes of one machine."""

from __future__ import annotations

import pytest
from ansible_lab import Cluster

pytestmark = pytest.mark.slow


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
    ],
)
def test_a_call_that_cannot_be_meant_is_refused(
    local: Cluster, playbook: str, variables: tuple[str, ...], words: str
) -> None:
    done = local.play(playbook, *variables)
    assert done.code == 2, done.text
    assert words in done.text
    assert not (local.runs / "network").exists()
