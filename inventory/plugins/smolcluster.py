"""Inventory plugin: the machines of a smolcluster inventory as Ansible hosts. Thin over smolcluster.spec.

What it knows: the file's problems as one report, a group per kind of machine, per strategy and of those that
nobody logs into, each host's variables.
What it deliberately does not know: what a run does; that is `python -m smolcluster plan`.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible import constants
from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.vars import reserved

if TYPE_CHECKING:
    from smolcluster.spec.cluster import ClusterSpec, Node

DOCUMENTATION = r"""
name: smolcluster
short_description: The machines and networks of a smolcluster inventory
description:
  - Reads an inventory file of smolcluster (C(*.smol.yml)), or makes an inventory from a cluster YAML alone
    (C(cluster_config_*.yaml)).
  - A file with problems fails the command with all of them; nothing is ever matched in part.
author: smolcluster
options: {}
"""

EXAMPLES = r"""
# ansible-inventory -i inventory/home.smol.yml --graph
# ansible-inventory -i my/cluster_config_fsdp.yaml --list
"""

# `-e strategy=fsdp` is meant: Ansible would begin every run with a warning that one of its own keywords has that name.
# This plugin is loaded before the variables are looked at; ansible-core has no setting for it.
reserved._RESERVED_NAMES = reserved._RESERVED_NAMES - {"strategy"}

_ACCEPTED = re.compile(r"(.*\.smol\.ya?ml|cluster_config_\w+\.ya?ml)$")
_ROOT = Path(__file__).resolve().parents[2]
_GROUP_VARS = _ROOT / "inventory" / "group_vars"
_KINDS = ("macos", "linux", "windows", "ipados")
# A machine that is never logged into gets a connection that does not exist: a task that strays onto it fails.
_CONNECTIONS = {"local": "ansible.builtin.local", "ssh": "ansible.builtin.ssh", "none": "smolcluster_never_connects"}
_NOT_LOGGED_INTO = "not_logged_into"


class InventoryReport(AnsibleParserError):  # type: ignore[misc]
    """What is wrong with an inventory file: the report names files and lines itself."""

    # Ansible would add where the error comes from, and repeat the whole report with it.
    _formatted_source_context = None


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]
    """Hosts, groups (per kind, per strategy) and variables from one file."""

    NAME = "smolcluster"
    # The file is the person's own, as any inventory; without trust --list would wrap every text as unsafe.
    trusted_by_default = True

    def verify_file(self, path: str) -> bool:
        """Whether the name is one of ours. A file that is not there is accepted, so that its report can say so."""
        return bool(_ACCEPTED.match(Path(path).name))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory. AnsibleParserError carries the whole report of a file with problems."""
        super().parse(inventory, loader, path, cache)
        cluster, groups = _read(Path(path))
        for kind in _KINDS:
            self.inventory.add_group(kind)
            for key, value in self._kind_defaults(kind).items():
                self.inventory.set_variable(kind, key, value)
        for node in cluster.nodes:
            self.inventory.add_host(node.name, group=node.kind)
            for key, value in _host_vars(node, self._kind_defaults(node.kind), cluster).items():
                self.inventory.set_variable(node.name, key, value)
        # status.yml and stop.yml ask all but these: not even a role's arguments could be validated there.
        self.inventory.add_group(_NOT_LOGGED_INTO)
        for node in cluster.nodes:
            if node.connection == "none":
                self.inventory.add_host(node.name, group=_NOT_LOGGED_INTO)
        for group, members in groups.items():
            self.inventory.add_group(group)
            for name in members:
                self.inventory.add_host(name, group=group)
        for key, value in _common_vars(Path(path).absolute(), cluster).items():
            self.inventory.set_variable("all", key, value)

    def _kind_defaults(self, kind: str) -> dict[str, Any]:
        """The shipped group variables of a kind: an inventory anywhere else has them too; its own group_vars win."""
        return dict(self.loader.load_from_file(str(_GROUP_VARS / f"{kind}.yml"), trusted_as_template=True))


def _read(path: Path) -> tuple[ClusterSpec, dict[str, tuple[str, ...]]]:
    try:
        from smolcluster.errors import ConfigError
        from smolcluster.spec.groups import strategies_of
        from smolcluster.spec.inventory import load_inventory
    except ImportError as error:
        raise InventoryReport(
            f"{sys.executable} has no smolcluster ({error}).\n"
            "    fix: run `make setup` once, then call .venv/bin/ansible-playbook (`make train` does)"
        ) from None
    try:
        cluster = load_inventory(path)
        return cluster, dict(strategies_of(cluster, path))
    except ConfigError as error:
        raise InventoryReport(str(error)) from None


def _common_vars(path: Path, cluster: ClusterSpec) -> dict[str, Any]:
    """Variables of every host, localhost too: where the project and its runs lie on the controller."""
    from smolcluster import __version__

    return {
        "smol_inventory": str(path),
        "smol_named": _named(path),
        "smol_cluster": cluster.name,
        "smol_controller": cluster.controller,
        "smol_root": str(_ROOT),
        "smol_runs": str(_ROOT / "runs"),
        "smol_version": __version__,
    }


def _named(path: Path) -> str:
    """What whoever calls the next playbook has to say, with a space after it; nothing where it is the inventory that is
    taken anyway.
    """
    taken = [Path(each).resolve() for each in constants.DEFAULT_HOST_LIST]
    return "" if taken == [path.resolve()] else f"-i {shlex.quote(os.path.relpath(path))} "


def _host_vars(node: Node, defaults: dict[str, Any], cluster: ClusterSpec) -> dict[str, Any]:
    python = node.python or (sys.executable if node.connection == "local" else defaults["smol_default_python"])
    values: dict[str, Any] = {
        "ansible_host": node.host,
        "ansible_connection": _CONNECTIONS[node.connection],
        # Ansible quotes it, so that no shell expands a ~; sshd starts what it is told in the user's home.
        "ansible_python_interpreter": python.removeprefix("~/") if node.connection == "ssh" else python,
        "smol_node": node.name,
        "smol_kind": node.kind,
        "smol_connection": node.connection,
        "smol_python": python,
        "smol_workdir": node.workdir,
        "smol_device": node.device,
        "smol_memory_mb": node.memory_mb,
        "smol_ranks": node.ranks,
        "smol_train": node.train,
        "smol_subnets": _subnets(cluster),
    }
    if node.connection == "ssh":
        values["ansible_port"] = node.ssh_port
        if node.user:
            values["ansible_user"] = node.user
    return values


def _subnets(cluster: ClusterSpec) -> list[str]:
    """From where machines of the cluster may come, gateways included; nothing where a wire's addresses are unknown."""
    wires = [wire for wire in cluster.networks if wire.medium != "loopback"]
    known = {str(wire.subnet) for wire in wires if wire.subnet}
    return sorted(known) if all(wire.subnet for wire in wires) else []
