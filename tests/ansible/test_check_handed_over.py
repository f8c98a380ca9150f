"""What check.yml asks, and what it hands over to the doctor: its templates alone, without a node."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_lab import ROOT
from test_preflight import RENDER

MACHINES = ROOT / "roles" / "doctor_report" / "templates" / "machines.json.j2"
GATHER = ROOT / "roles" / "network_gather" / "vars" / "main.yml"


def rendered(template: Path, *variables: dict[str, Any]) -> list[str]:
    command = [sys.executable, "-c", RENDER, str(template)]
    done = subprocess.run(command, input=json.dumps(variables), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def handed(**more: Any) -> dict[str, Any]:
    """Two machines: mini1 did not listen, mini2 has no address that anything tells."""
    pair = {"src": "mini2", "dst": "mini1"}
    untold = [{"src": "mini1", "dst": "mini2", "node": "mini2", "network": "lan"}]
    hostvars = {
        "mini1": {"network_probe_listening": {"rc": 127, "msg": "python: not found", "stderr": "python: not found"}},
        "mini2": {
            "network_probe_ports": {"ports": {"10.0.0.2": 65432}},
            "network_probe_listening": {"rc": 0, "msg": "", "stderr": "10.0.0.3: Address already in use"},
            "network_probe_dialling": {"unreachable": True, "msg": "Connection timed out"},
        },
    }
    common = {"groups": {"smol_network": ["mini1", "mini2"]}, "hostvars": hostvars}
    [text] = rendered(MACHINES, {**common, "network_verify_plan": {"pairs": [pair], "untold": untold}, **more})
    return dict(json.loads(text))


def test_what_could_not_be_tried_goes_to_the_doctor_with_its_reason() -> None:
    told = handed()
    mini1, mini2 = told["machines"]["mini1"], told["machines"]["mini2"]
    assert [one["node"] for one in mini1["untold"]] == ["mini2"]
    assert (mini1["listens"], mini1["listening"], mini1["dialling"]) == ([], "python: not found", "")
    assert mini2["listens"] == ["10.0.0.2"]
    assert (mini2["listening"], mini2["dialling"]) == ("10.0.0.3: Address already in use", "Connection timed out")
    assert told["pairs_failed"] == ""


def test_the_words_of_a_plan_that_failed_go_too() -> None:
    nobody = {"network_verify_plan": {"pairs": [], "untold": []}}
    assert handed(**nobody, network_verify_pairs={"rc": 2, "stderr": "1 problem."})["pairs_failed"] == "1 problem."
    assert handed(**nobody, network_verify_pairs={"rc": 1, "stderr": ""})["pairs_failed"] == "it ended with 1"
    assert handed(**nobody, network_verify_pairs={"rc": 0, "stderr": "note: x"})["pairs_failed"] == ""
    assert handed(**nobody, network_verify_pairs={"skipped": True})["pairs_failed"] == ""


@pytest.mark.parametrize(("nodes", "asked"), [(None, "all"), ("auto", "all"), (" auto", "all"), ("a,b", "a,b")])
def test_auto_asks_all_machines(tmp_path: Path, nodes: str | None, asked: str) -> None:
    """No machine has that name: nobody would be asked, and nothing found wrong."""
    told = yaml.safe_load(GATHER.read_text(encoding="utf-8"))
    assert "network_gather_pattern" in told["network_gather_machines"]
    (tmp_path / "pattern").write_text(told["network_gather_pattern"])
    assert rendered(tmp_path / "pattern", {"nodes": nodes} if nodes else {}) == [asked]
