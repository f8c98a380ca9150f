"""The role clock on a node of this machine whose clock is played: a script that says what the machine's would."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ansible_lab import Cluster, Outcome

PLAY = """\
- name: Compare
  hosts: node1
  vars:
    smol_kind: {kind}
  tasks:
    - name: Compare
      ansible.builtin.import_role:
        name: clock
"""
# An hour and a second behind (it knows whole seconds) until `switch` was called; what asks says whether network time is
# on.
TIME = """\
#!/bin/sh
now=$(date +%s)
[ -e {folder}/switched ] && {right} && echo "$now" || echo $((now - 3601))
"""


class Machine:
    """`on`: whether network time is; `right`: whether that sets the clock."""

    def __init__(self, cluster: Cluster, kind: str = "linux", on: bool = False, right: bool = True) -> None:
        self.cluster = cluster
        self.switched = cluster.folder / "switched"
        self.play = cluster.folder / "clock.yml"
        self.play.write_text(PLAY.format(kind=kind))
        words = {"folder": cluster.folder, "right": "true" if right else "false"}
        self.time = self._script("time", TIME.format(**words))
        self.asking = self._script("asking", f"#!/bin/sh\necho {'yes' if on else 'no'}\n")
        self.switch = self._script("switch", f"#!/bin/sh\ntouch {self.switched}\n")

    def _script(self, name: str, text: str) -> Path:
        path = self.cluster.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def compare(self, *variables: str) -> Outcome:
        stand_ins = {
            "clock_command": str(self.time),
            "clock_asking": {"linux": [str(self.asking)], "macos": [str(self.asking)]},
            "clock_switching": {"linux": [str(self.switch)], "macos": [str(self.switch)]},
            "clock_note": str(self.cluster.folder / "clock.json"),
            "ansible_become": False,
        }
        return self.cluster.play(str(self.play), json.dumps(stand_ins), *variables, timeout=60)


@pytest.mark.slow
def test_a_clock_that_is_off_is_told_and_with_strict_refused(local: Cluster) -> None:
    machine = Machine(local)
    told = machine.compare()
    assert told.code == 0, told.text
    assert re.search(r"node1: its clock is 360\d\.\d s behind the controller's", told.text)
    assert "fix: sudo timedatectl set-ntp true, or setup.yml -e set_clock=true" in told.text
    assert not machine.switched.exists()
    refused = machine.compare("strict=true")
    assert refused.code == 2
    assert re.search(r"its clock is 360\d\.\d s behind", refused.text)
    allowed = machine.compare("strict=true", "clock_warn_s=7200")
    assert allowed.code == 0, allowed.text
    assert "its clock is" not in allowed.text


def test_network_time_that_is_switched_on_gets_time_to_set_the_clock(local: Cluster) -> None:
    machine = Machine(local)
    done = machine.compare("strict=true", "set_clock=true")
    assert done.code == 0, done.text
    assert "its clock is" not in done.text
    assert machine.switched.exists()
    assert json.loads((local.folder / "clock.json").read_text())["network_time"] == "off"


@pytest.mark.slow
@pytest.mark.parametrize(("on", "wait"), [(False, 1.5), (True, 3600)])
def test_a_clock_that_network_time_does_not_set_is_refused(local: Cluster, on: bool, wait: float) -> None:
    """Within the time it is given; where it was on all along, at once."""
    machine = Machine(local, on=on, right=False)
    refused = machine.compare("strict=true", "set_clock=true", f"clock_wait_s={wait}")
    assert refused.code == 2
    assert "fix: network time is on there, and the clock is not right yet" in refused.text
    assert machine.switched.exists() != on


def test_windows_is_not_told_of_what_does_nothing_there(local: Cluster) -> None:
    machine = Machine(local, kind="windows")
    told = machine.compare("set_clock=true")
    assert told.code == 0, told.text
    assert "fix: Set-Service w32time" in told.text
    assert "set_clock" not in told.text
    assert not machine.switched.exists()
