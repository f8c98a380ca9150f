"""Every host's files of a run that is only planned: node.yaml, and what its system's service manager would be given.

Both are made by what makes them for a run that is started, in the folders that the inventory names; of the supervisor's
command line only the starter's claim is missing. A Mac's runs are plain children: its plist is what launchd gets where
it is asked for (launchd.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

from smolcluster.jobs import launchd, schtasks, systemd
from smolcluster.plan.render import TEMPLATES, node_config, node_folder, node_yaml
from smolcluster.plan.types import NodeConfig, Plan, ServePlan
from smolcluster.spec.cluster import ClusterSpec, Node


@dataclass(frozen=True)
class Preview:
    """One file of one host. `path` is relative: host/name."""

    path: str
    text: str
    encoding: str = "utf-8"


def preview(plan: Plan | ServePlan, cluster: ClusterSpec, templates: Path = TEMPLATES) -> tuple[Preview, ...]:
    """The two files of every host of the plan, in rank order. Pure. ConfigError without the template of node.yaml."""
    files: list[Preview] = []
    for name in dict.fromkeys(rank.node for rank in plan.ranks):
        node = cluster.node(name)
        config = node_config(plan, node)
        files.append(Preview(f"{name}/node.yaml", node_yaml(config, templates)))
        files.append(_service(node, config, node_folder(node, config)))
    return tuple(files)


def _service(node: Node, config: NodeConfig, folder: PurePath) -> Preview:
    run_dir, log = folder.parent.parent, folder / "supervisor.txt"
    command: tuple[str, ...] = (config.python, "-m", "smolcluster.supervisor", str(folder / "node.yaml"))
    about = f"smolcluster {config.run_id} on {node.name}"
    name, user = (config.run_id, node.name, config.generation), node.user or ""
    if node.kind == "macos":
        text = launchd.definition(launchd.label(*name), log, run_dir, command, user)
        return Preview(f"{node.name}/smolcluster.plist", text)
    if node.kind == "windows":
        command = (*command, "--log", str(log), "--task", schtasks.task_name(*name))
        text = schtasks.definition(about, user, run_dir, command)
        return Preview(f"{node.name}/smolcluster-task.xml", text, schtasks.ENCODING)
    return Preview(f"{node.name}/smolcluster.service", systemd.transient(about, log, run_dir, command))
