"""Every host's node.yaml and unit file, from the project's templates/: a preview of what a playbook puts on the hosts.

Pure text in, text out; the caller writes the files. Folders are those of the inventory, under a run id of its own, so
that the same plan renders to the same bytes; a playbook uses the real run's id and the folders found on the host. A ~
stays where the inventory does not name the machine's user, and so nothing tells their home.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import jinja2

from smolcluster.certs.places import NODES_HOME
from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.systemd_text import systemd_path, systemd_word
from smolcluster.plan.types import NODE_SCHEMA, NodeConfig, Plan, ProfilePlan, ServePlan
from smolcluster.spec.cluster import ClusterSpec, Kind, Node

LEASE_S = 12.0
NODE_TEMPLATE = "node.yaml.j2"
UNIT_TEMPLATES: dict[Kind, str] = {
    "linux": "smolcluster.service.j2",
    "macos": "smolcluster.plist.j2",
    "windows": "smolcluster-task.xml.j2",
}
TEMPLATES = Path(__file__).resolve().parents[2] / "templates"


@dataclass(frozen=True)
class Rendered:
    """One file of one host. `path` is relative: host/name."""

    path: str
    text: str


def render(plan: Plan | ServePlan, cluster: ClusterSpec, templates: Path = TEMPLATES) -> tuple[Rendered, ...]:
    """node.yaml and the unit file of every host of the plan, in rank order. ConfigError without the templates."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - YAML and units; the XML templates escape with `e` themselves
    )
    environment.filters |= {"systemd_word": systemd_word, "systemd_path": systemd_path}
    files: list[Rendered] = []
    for name in dict.fromkeys(rank.node for rank in plan.ranks):
        node = cluster.node(name)
        config = node_config(plan, node)
        folder = _path(node, config.run_dir) / "nodes" / name
        values: dict[str, object] = {
            "smol": config.model_dump(by_alias=True),
            "smol_unit": f"smolcluster-{config.run_id}-{name}",
            "smol_user": node.user,
            "smol_node_file": str(folder / "node.yaml"),
            "smol_supervisor_log": str(folder / "supervisor.txt"),
        }
        unit = UNIT_TEMPLATES[node.kind]
        files += [
            Rendered(f"{name}/{template.removesuffix('.j2')}", _text(environment, template, values))
            for template in (NODE_TEMPLATE, unit)
        ]
    return tuple(files)


def node_config(plan: Plan | ServePlan, node: Node) -> NodeConfig:
    """The node's node.yaml for a run named after the plan, in the folders the inventory gives."""
    digest = plan.digest()
    run_id = f"preview-{plan.kind if isinstance(plan, ServePlan | ProfilePlan) else plan.run.strategy}-{digest[:4]}"
    run_dir = _path(node, _at_home(node, node.workdir)) / run_id
    has_stage = any(rank.node == node.name and rank.role == "stage" for rank in plan.ranks)
    return NodeConfig(
        schema=NODE_SCHEMA,
        run_id=run_id,
        node=node.name,
        generation=0,
        run_dir=str(run_dir),
        plan_file=str(run_dir / "plan.json"),
        plan_digest=digest,
        secret_file=str(run_dir / "secret"),
        data_dir=str(run_dir / "data"),
        python=node.python or ("python" if node.kind == "windows" else "python3"),
        lease_s=LEASE_S,
        ranks=tuple(rank.rank for rank in plan.ranks if rank.node == node.name),
        model_dir=str(run_dir / "model") if has_stage else None,
        certificates=str(_path(node, _at_home(node, NODES_HOME)) / node.name) if plan.ca else None,
    )


def _at_home(node: Node, folder: str) -> str:
    """A folder there, its ~ as the user's home where that is known."""
    if not folder.startswith("~") or node.user is None:
        return folder
    homes = {"macos": "/Users/", "windows": "C:/Users/", "linux": "/home/"}
    home = "/root" if node.user == "root" else homes[node.kind] + node.user
    return home + folder.removeprefix("~")


def _path(node: Node, text: str) -> PurePath:
    return PureWindowsPath(text) if node.kind == "windows" else PurePosixPath(text)


def _text(environment: jinja2.Environment, template: str, values: dict[str, object]) -> str:
    try:
        return environment.get_template(template).render(values)
    except jinja2.TemplateNotFound:
        where = str(TEMPLATES / template)
        fix = "run in a clone of the repository, which has templates/"
        raise ConfigError([Problem(where, 0, "", "there is no such template", fix)]) from None
    except jinja2.UndefinedError as error:
        raise ConfigError(
            [Problem(template, 0, "", f"asks for what is not given: {error}", "see its header")]
        ) from None
