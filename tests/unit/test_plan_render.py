"""Every host's files: node.yaml that the supervisor can read, units that their systems' own parsers accept."""

from __future__ import annotations

import plistlib
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from smolcluster.errors import ConfigError
from smolcluster.jobs import launchd, schtasks, systemd
from smolcluster.jobs.preview import preview
from smolcluster.plan.make import make_plan
from smolcluster.plan.systemd_text import systemd_word
from smolcluster.plan.types import NodeConfig, Plan
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.inventory import load_inventory
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve_any

HOME = Path(__file__).resolve().parents[2] / "inventory" / "home.smol.yml"
TASK = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


def planned(inventory: Path = HOME) -> tuple[Plan, ClusterSpec]:
    # Named, so that Windows machines are among them: their files are made before they can be started.
    everybody = tuple(node.name for node in load_inventory(inventory).nodes if node.train)
    resolved = resolve_any(Request(inventory, "fsdp", nodes=everybody))
    return make_plan(resolved.cluster, resolved.run), resolved.cluster


def rendered(inventory: Path = HOME) -> dict[str, str]:
    return {file.path: file.text for file in preview(*planned(inventory))}


def test_every_host_has_its_two_files() -> None:
    assert set(rendered()) == {
        *(f"{name}/node.yaml" for name in ("mini1", "mini2", "mini3", "macbook", "pi5", "pi4", "win")),
        *(f"{name}/smolcluster.plist" for name in ("mini1", "mini2", "mini3", "macbook")),
        *(f"{name}/smolcluster.service" for name in ("pi5", "pi4")),
        "win/smolcluster-task.xml",
    }
    assert all(text.endswith("\n") for text in rendered().values())


def test_node_yaml_is_a_node_config() -> None:
    plan, _ = planned()
    for name, ranks in (("mini1", (0,)), ("win", (6,))):
        config = NodeConfig.model_validate(yaml.safe_load(rendered()[f"{name}/node.yaml"]))
        assert (config.node, config.ranks, config.plan_digest) == (name, ranks, plan.digest())


def test_rendering_is_deterministic() -> None:
    assert rendered() == rendered()


def test_awkward_folders_survive(tmp_path: Path) -> None:
    """Spaces, percent signs, quotes and ampersands in folders mean themselves in every format."""
    inventory = tmp_path / "own.smol.yml"
    inventory.write_text(
        "schema: 1\nname: own\nmachines:\n"
        "  pi1: {workdir: '/srv/100% mine', python: '/opt/my py/bin/python'}\n"
        "  mini1: {workdir: '/Users/a & <b>', user: ann}\n"
        "  win1: {workdir: 'C:\\my \"runs', user: bob}\n"
        "networks: {lan: {medium: ethernet, private: true, "
        "members: {pi1: 10.0.0.1, mini1: 10.0.0.2, win1: 10.0.0.3}}}\n"
    )
    files = rendered(inventory)
    unit = files["pi1/smolcluster.service"]
    (command,) = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = [word.replace("%%", "%") for word in shlex.split(command)]
    properties = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    asked = systemd.command("unit", Path("/log"), Path("/"), ("python",), user_id=0)
    for name, value in (word.removeprefix("--property=").split("=") for word in asked if word.startswith("--property")):
        assert properties[name].startswith(value.partition("/")[0]), "the unit is what systemd-run is asked for"
    assert words[:3] == ["/opt/my py/bin/python", "-m", "smolcluster.supervisor"]
    assert words[3].startswith("/srv/100% mine/preview-fsdp-")
    assert words[3].endswith("/nodes/pi1/node.yaml")
    assert "WorkingDirectory=/srv/100%% mine/preview-fsdp-" in unit
    plist = plistlib.loads(files["mini1/smolcluster.plist"].encode())
    assert plist["UserName"] == "ann"
    assert plist["WorkingDirectory"].startswith("/Users/a & <b>/preview-fsdp-")
    assert plist["ProgramArguments"][-1].endswith("/nodes/mini1/node.yaml")
    assert plist["KeepAlive"] is False
    assert plist["Label"].startswith(f"{launchd.PREFIX}.preview-fsdp-")
    task = ElementTree.fromstring(files["win1/smolcluster-task.xml"].encode(schtasks.ENCODING))
    assert task.findtext(f".//{TASK}Hidden") == "true"
    assert (task.findtext(f".//{TASK}Arguments") or "").split("--task ")[1].startswith("\\smolcluster\\preview-fsdp-")
    assert (task.findtext(f".//{TASK}WorkingDirectory") or "").startswith('C:\\my "runs\\preview-fsdp-')
    assert task.findtext(f".//{TASK}UserId") == "bob"
    config = NodeConfig.model_validate(yaml.safe_load(files["win1/node.yaml"]))
    assert config.run_dir.startswith('C:\\my "runs\\preview-fsdp-')


@pytest.mark.parametrize(
    ("kind", "user", "start"),
    [("pi", "ann", "/home/ann/.smol"), ("pi", "root", "/root/.smol"), ("mini", "ann", "/Users/ann/.smol"),
     ("win", "ann", "C:\\Users\\ann\\.smol"), ("pi", None, "~/.smol")],
)  # fmt: skip
def test_the_home_folder_where_the_user_is_known(tmp_path: Path, kind: str, user: str | None, start: str) -> None:
    inventory = tmp_path / "own.smol.yml"
    entry = f"{{user: {user}}}" if user else "{}"
    inventory.write_text(f"schema: 1\nname: own\nmachines: {{{kind}1: {entry}}}\n")
    config = NodeConfig.model_validate(yaml.safe_load(rendered(inventory)[f"{kind}1/node.yaml"]))
    assert config.run_dir.startswith(start)


def test_systemd_knows_the_home_folder() -> None:
    assert systemd_word("~/runs") == "%h/runs"
    assert systemd_word("a b") == '"a b"'


def test_missing_templates_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such template"):
        preview(*planned(), templates=tmp_path)


def test_a_template_that_asks_for_more_is_said(tmp_path: Path) -> None:
    (tmp_path / "node.yaml.j2").write_text("{{ smol.nothing }}")
    with pytest.raises(ConfigError, match=r"node\.yaml\.j2: asks for what is not given"):
        preview(*planned(), templates=tmp_path)
