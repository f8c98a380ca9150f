"""A host's node.yaml, from the project's templates/, as a playbook puts it there: for a run that is only planned.

Pure text in, text out. Folders are those of the inventory, under a run id of its own, so that the same plan renders to
the same bytes; a playbook uses the real run's id and the folders found on the host. A ~ stays where the inventory does
not name the machine's user, and so nothing tells their home.
"""

from __future__ import annotations

from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import jinja2

from smolcluster.certs.places import NODES_HOME
from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.types import NODE_SCHEMA, NodeConfig, Plan, ProfilePlan, ServePlan
from smolcluster.spec.cluster import Node

LEASE_S = 12.0
NODE_TEMPLATE = "node.yaml.j2"
TEMPLATES = Path(__file__).resolve().parents[2] / "templates"


def node_yaml(config: NodeConfig, templates: Path = TEMPLATES) -> str:
    """The text of a node.yaml. ConfigError without its template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - YAML
    )
    return _text(environment, NODE_TEMPLATE, {"smol": config.model_dump(by_alias=True)})


def node_folder(node: Node, config: NodeConfig) -> PurePath:
    """Where a node.yaml lies on its host, beside the supervisor's log."""
    return _path(node, config.run_dir) / "nodes" / node.name


def node_config(plan: Plan | ServePlan, node: Node) -> NodeConfig:
    """The node's node.yaml for a run named after the plan, in the folders the inventory gives."""
    digest = plan.digest()
    run_id = f"preview-{plan.kind if isinstance(plan, ServePlan | ProfilePlan) else plan.run.strategy}-{digest[:4]}"
    run_dir = _path(node, _at_home(node, node.workdir)) / run_id
    has_stage = any(rank.node == node.name and rank.role == "stage" for rank in plan.ranks)
    has_tablets = isinstance(plan, ServePlan) and bool(plan.tablets) and plan.ranks[0].node == node.name
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
        tablet_dir=str(run_dir / "tablet") if has_tablets else None,
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
