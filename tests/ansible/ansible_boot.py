"""What plays systemd and a sudo that asks, for the role boot_service: the real ones no test may touch."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import yaml
from ansible_lab import ROOT, Cluster

from tests.jobs.node import FakeNode, make_node

# The real plugin, on a machine that systemd seems to run, for a user who is not root.
_PLUGIN = """\
from pathlib import Path, PurePath
from ansible.plugins.loader import action_loader
from smolcluster.jobs import bootservice, systemd
from smolcluster.jobs.upkeep import Upkeep, act
place = Path({place!r})

class ActionModule(action_loader.get("smolcluster_job", class_only=True)):
    def _act(self, given):
        bootservice._SYSTEM_UNITS = PurePath(place / "etc")
        Path.home = classmethod(lambda cls: place / "home")
        systemd.present = lambda: True
        systemd.usable = lambda: (place / "lingers").exists()
        systemd.user_id = lambda: 1000
        return act(Upkeep(**given))
"""
# Without its file it wants a password that nobody gives, as real ones do where -K is not given.
_SUDO = """\
#!/bin/sh
[ -e {place}/password ] || {{ echo 'sudo: a password is required' >&2; exit 1; }}
while [ "${{1#-}}" != "$1" ]; do [ "$1" = -u ] && shift; shift; done
SUDO=yes exec "$@"
"""
# A manager of the user's is there only while their services outlive a login.
_SYSTEMCTL = """\
#!/bin/sh
echo "${{SUDO:+sudo }}$*" >> {place}/told
[ "$1" != --user ] || [ -e {place}/lingers ]
"""


@dataclass(frozen=True)
class Machine:
    """`place` has what a machine has in /etc and in a home."""

    cluster: Cluster
    place: Path

    @classmethod
    def make(cls, cluster: Cluster) -> Machine:
        """This machine, for that cluster's playbooks."""
        place = cluster.folder / "machine"
        for folder in ("bin", "etc", "home", "plugins"):
            (place / folder).mkdir(parents=True)
        (place / "plugins/smolcluster_boot.py").write_text(_PLUGIN.format(place=str(place)))
        for name, text in (("sudo", _SUDO), ("systemctl", _SYSTEMCTL)):
            (place / "bin" / name).write_text(text.format(place=place))
            (place / "bin" / name).chmod(stat.S_IRWXU)
        cluster.env |= {
            "ANSIBLE_ACTION_PLUGINS": os.pathsep.join([f"{place}/plugins", f"{ROOT}/playbooks/action_plugins"]),
            # Root's tests ask the sudo, too.
            "ANSIBLE_BECOME_ALLOW_SAME_USER": "true",
            "PATH": f"{place}/bin{os.pathsep}{os.environ['PATH']}",
        }
        return cls(cluster, place)

    def give(self, what: str, there: bool = True) -> None:
        """From now on: the `password` of sudo is given, the user `lingers`."""
        (self.place / what).touch() if there else (self.place / what).unlink()

    def told(self) -> list[str]:
        """What the service manager has been told since the last time."""
        path = self.place / "told"
        words = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return words

    def units(self) -> list[str]:
        """The services that there are, and the links that enable them."""
        return sorted(
            path.relative_to(self.place).as_posix().replace(path.name, path.name.partition("-node")[0])
            for folder in ("etc", "home")
            for path in (self.place / folder).rglob("*.service")
        )

    def run(self, run_id: str) -> FakeNode:
        """A run of node1 that serves."""
        return make_node(self.cluster.runs, ("run", "run"), run_id=run_id, serves=True)

    def role(self, tasks: str, **variables: object) -> str:
        """A playbook of one file of the role's tasks, on node1."""
        role = {"name": "boot_service", "tasks_from": tasks}
        play = {"hosts": "node1", "vars": variables, "tasks": [{"ansible.builtin.include_role": role}]}
        path = self.cluster.folder / f"boot-{tasks}"
        path.write_text(yaml.safe_dump([play]))
        return str(path)
