"""What preflight says, from the nodes' answers: its template alone, without a node."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from ansible_lab import ROOT

TEMPLATE = ROOT / "roles" / "preflight" / "templates" / "problems.txt.j2"
# Ansible changes the interpreter that imports it (sys.intern), after which torch.export fails there. Backslashes as the
# lookup that the role calls has them.
RENDER = """
import json, sys
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
text = trust_as_template(open(sys.argv[1]).read())
of = [Templar(loader=DataLoader(), variables=each) for each in json.load(sys.stdin)]
told = [each.template(text, escape_backslashes=False) for each in of]
print(json.dumps([(each or "").strip() for each in told]))
"""
WELL: dict[str, Any] = {"version": "1.0", "code": "c0de", "certificate_problem": "", "jobs": []}
LOST = "n: this node has no certificate of this cluster\n    fix: ansible-playbook certificates.yml (on the controller)"
ACTIVE = {"active": True, "lease_s": None, "job": {"run_id": "a-run"}}
# A node's answer -> what helps.
HELPS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"failed": True, "msg": "No module named smolcluster"}, "setup.yml puts smolcluster there"),
    (WELL | {"version": "0.9"}, "setup.yml -e nodes=n brings this one there"),
    (WELL | {"code": "0ther"}, "setup.yml -e nodes=n brings this one there"),
    (WELL | {"certificate_problem": LOST}, "certificates.yml (on the controller)"),
    (WELL | {"jobs": [ACTIVE]}, "stop.yml, or take over with -e replace=true"),
)


def asked(answer: dict[str, Any], connection: str = "ssh", named: str = "", code: str = "c0de") -> dict[str, Any]:
    """What the template knows where the run's one node gave this answer."""
    node = {
        "smol_cannot_train": "",
        "smol_python": "~/.smolcluster/venv/bin/python",
        "smol_connection": connection,
        "preflight_answer": answer,
    }
    return {
        "hostvars": {"n": node},
        "preflight_nodes": ["n"],
        "preflight_task": "train",
        "preflight_replace": False,
        "preflight_code": code,
        "smol_version": "1.0",
        "smol_named": named,
    }


def said(*variables: dict[str, Any]) -> list[str]:
    """The report for each."""
    command = [sys.executable, "-c", RENDER, str(TEMPLATE)]
    done = subprocess.run(command, input=json.dumps(variables), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("named", ["-i my.smol.yml ", ""])
def test_what_helps_names_the_inventory_that_was_given(named: str) -> None:
    reports = said(*(asked(answer, named=named) for answer, _ in HELPS))
    for report, (_, fix) in zip(reports, HELPS, strict=True):
        assert f"fix: ansible-playbook {named}{fix}" in report


def test_code_is_compared_with_nodes_elsewhere_that_tell_it() -> None:
    other = WELL | {"code": "0ther"}
    silent = {key: value for key, value in WELL.items() if key != "code"}
    # Where every node is this machine nothing was hashed.
    here = (asked(other, connection="local"), asked(WELL, connection="local", code=""))
    differs, *well = said(asked(other), asked(WELL), asked(silent), *here)
    assert "its smolcluster 1.0 is not the code that is here" in differs
    assert well == [""] * 4
