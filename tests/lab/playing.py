"""Playbooks on a lab's controller, and what every host has, byte for byte."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .disk import USER
from .lab import Lab

ROOT = Path(__file__).parents[2]
INVENTORY = "/etc/smolcluster/lab.smol.yml"
_PLAY_S = 1800.0
# What network.yml may touch besides what the tools tell: files that are read at boot, and where it keeps its own.
_FILES = {
    "macos": "/Library/Preferences/SystemConfiguration /Library/LaunchDaemons /var/db/smolcluster",
    "linux": "/etc/NetworkManager /etc/sysctl.d /etc/systemd/system /var/lib/smolcluster",
}


def command(*words: str, inventory: str = INVENTORY) -> list[str]:
    """A playbook's command line, to be run on the controller by its user."""
    script = f'cd {ROOT} && exec {Path(sys.executable).parent}/ansible-playbook -i "$0" "$@"'
    return ["sh", "-c", script, inventory, *words]


def environment() -> Mapping[str, str]:
    """The clone's settings and code, whichever environment the interpreter is of."""
    return {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PYTHONPATH": str(ROOT), "ANSIBLE_NOCOLOR": "1"}


def play(lab: Lab, *words: str, inventory: str = INVENTORY) -> subprocess.CompletedProcess[str]:
    """Run a playbook on the lab's controller."""
    return lab.controller.run(
        command(*words, inventory=inventory), user=USER, environment=environment(), check=False, timeout=_PLAY_S
    )


def changed(told: str) -> dict[str, int]:
    """How many changes the recap counts, for each host."""
    return {name: int(count) for name, count in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", told, re.MULTILINE)}


def write_inventory(lab: Lab, path: str = INVENTORY, **networks: dict[str, Any] | None) -> None:
    """The lab's inventory on its controller; a network's keys may be laid over, None takes a key away."""
    content = json.loads(lab.inventory())
    for name, more in networks.items():
        merged = content["networks"][name] | (more or {})
        content["networks"][name] = {key: value for key, value in merged.items() if value is not None}
    lab.controller.write(path, json.dumps(content))


def state(lab: Lab) -> dict[str, str]:
    """What each host's tools say of its network, and what lies in the files that are read at boot."""
    gather = str(ROOT / "smolcluster" / "network" / "gather.py")
    found = {}
    for name, host in lab.hosts.items():
        told = host.run(["python3", gather, name, host.machine.kind, "none"]).stdout
        # Another one after each reboot: the number of a cable's other end, outside the host, and what NetworkManager
        # calls the loopback's connection, which it keeps nowhere.
        told = re.sub(r'\\"link_index\\":\d+,', "", told)
        told = re.sub(r"[0-9a-f-]{36}(?=:lo:loopback:lo)", "", told)
        found[name] = told.replace("\\n", "\n") + files(lab, name)
    return found


def files(lab: Lab, name: str) -> str:
    """The files of one host that are read at boot."""
    folders = _FILES[lab.host(name).machine.kind]
    script = f'find {folders} -type f 2>/dev/null | sort | while read -r file; do echo "$file"; cat "$file"; done'
    return lab.host(name).run(["sh", "-c", script]).stdout
