"""The inventory plugin through ansible-inventory itself: groups, variables, and reports of what is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_lab import BIN, ROOT

GUIDE = ROOT / "tests" / "configs" / "fixtures"


def ask(inventory: Path | None, *flags: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    chosen = [] if inventory is None else ["-i", str(inventory)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return subprocess.run(
        [str(BIN / "ansible-inventory"), *chosen, *flags],
        cwd=cwd,
        env={**env, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def listed(inventory: Path | None) -> dict[str, Any]:
    done = ask(inventory, "--list")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def members(inventory: dict[str, Any], group: str) -> list[str]:
    return list(inventory.get(group, {}).get("hosts", []))


def test_the_default_inventory_is_three_nodes_on_this_machine() -> None:
    inventory = listed(None)
    nodes = ["node1", "node2", "node3"]
    assert members(inventory, "fsdp") == members(inventory, "classicdp") == nodes
    assert members(inventory, "single") == ["node1"]
    for node in nodes:
        values = inventory["_meta"]["hostvars"][node]
        assert values["ansible_connection"] == "ansible.builtin.local"
        assert values["smol_workdir"] == str(ROOT / "runs")
        assert Path(values["ansible_python_interpreter"]).parent == BIN
        # Whoever named none needs none for the next playbook either.
        assert values["smol_named"] == ""
        assert "smol_code" not in values, "only what starts something needs it"


def test_the_home_inventory_has_a_group_per_kind_and_per_strategy() -> None:
    inventory = listed(ROOT / "inventory" / "home.smol.yml")
    hosts = inventory["_meta"]["hostvars"]
    assert set(members(inventory, "macos")) >= {"mini1", "mini2", "mini3", "macbook"}
    assert set(members(inventory, "linux")) >= {"pi4", "pi5"}
    assert members(inventory, "windows") == ["win"]
    assert members(inventory, "ipados") == ["ipad"]
    assert hosts["mini1"]["ansible_connection"] == "ansible.builtin.ssh"
    assert hosts["win"]["ansible_shell_type"] == "powershell"
    assert "ipad" not in members(inventory, "fsdp")
    assert hosts["ipad"]["ansible_connection"] == "smolcluster_never_connects"
    # Ansible expands no ~ in an interpreter; a login begins at home.
    assert hosts["pi5"]["smol_python"] == "~/.smolcluster/venv/bin/python"
    assert hosts["pi5"]["ansible_python_interpreter"] == ".smolcluster/venv/bin/python"
    wires = ["10.10.0.0/24", "172.20.10.0/24", "192.168.50.0/24", "192.168.51.0/24"]
    assert hosts["mini2"]["smol_subnets"] == wires
    assert hosts["mini2"]["smol_named"] == "-i inventory/home.smol.yml "


def test_a_graph_shows_the_groups() -> None:
    done = ask(None, "--graph")
    assert done.returncode == 0
    assert "@fsdp:" in done.stdout
    assert "@linux:" in done.stdout or "@macos:" in done.stdout


CLUSTER_BLOCKS = sorted(GUIDE.glob("**/cluster_config_*.yaml"))


def test_the_guides_cluster_blocks_are_there() -> None:
    names = {re.sub(r"cluster_config_|\.yaml", "", path.name) for path in CLUSTER_BLOCKS}
    assert names >= {"fsdp", "classicdp", "edp", "syncps", "mp", "inference"}


@pytest.mark.parametrize("block", CLUSTER_BLOCKS, ids=lambda path: path.stem)
def test_every_cluster_block_of_the_guide_is_an_inventory(block: Path) -> None:
    inventory = listed(block)
    hosts = inventory["_meta"]["hostvars"]
    assert "mini1" in hosts
    assert all(values["ansible_host"] == name for name, values in hosts.items())
    assert set(members(inventory, "macos")) == {name for name in hosts if name.startswith(("mini", "macbook"))}
    assert set(members(inventory, "linux")) == {name for name in hosts if name.startswith("pi")}


def test_a_star_has_its_server_and_its_workers() -> None:
    (block,) = [path for path in CLUSTER_BLOCKS if path.stem == "cluster_config_edp"]
    inventory = listed(block)
    assert members(inventory, "edp_server") == ["mini1"]
    assert members(inventory, "edp_workers") == ["pi5", "win", "macbook"]


BROKEN = {
    "unknown key": (
        "machines:\n  node1: {connection: local, memmory_mb: 5}\n",
        ("bad.smol.yml:3", "memmory_mb", "memory_mb"),
    ),
    "wrong type": ("machines:\n  node1: {connection: local, ranks: many}\n", ("bad.smol.yml:3", "ranks")),
    "two nodes, one address": (
        "machines:\n  mini1: {}\n  mini2: {}\n"
        "networks:\n  tb: {medium: thunderbolt, subnet: 10.10.0.0/24, members: {mini1: 10.10.0.1, mini2: 10.10.0.1}}\n",
        ("bad.smol.yml:6", "10.10.0.1"),
    ),
    "outside the subnet": (
        "machines:\n  mini1: {}\n"
        "networks:\n  tb: {medium: thunderbolt, subnet: 10.10.0.0/24, members: {mini1: 10.11.0.1}}\n",
        ("bad.smol.yml:5", "10.11.0.1", "10.10.0.0/24"),
    ),
    "not YAML": ("machines: [\n", ("bad.smol.yml",)),
}


@pytest.mark.parametrize(("text", "told"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_inventory_fails_the_command_with_the_report(tmp_path: Path, text: str, told: tuple[str, ...]) -> None:
    path = tmp_path / "bad.smol.yml"
    path.write_text(f"schema: 1\n{text}name: bad\n")
    done = ask(path, "--list")
    assert done.returncode != 0
    assert done.stdout.strip() in ("", "{}")
    assert "nothing was started" in done.stderr
    for part in told:
        assert part in done.stderr
    assert done.stderr.count("nothing was started") == 1, "the report is told once"
    assert "Traceback" not in done.stderr


def test_all_problems_are_in_one_report(tmp_path: Path) -> None:
    path = tmp_path / "two.smol.yml"
    path.write_text("schema: 1\nname: two\nmachines:\n  node1: {connection: lokal}\n  mini1: {ssh_port: 99999}\n")
    done = ask(path, "--graph")
    assert done.returncode != 0
    assert "2 problems" in done.stderr
    assert "lokal" in done.stderr
    assert "ssh_port" in done.stderr


def test_a_missing_inventory_fails_the_playbook_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(BIN / "ansible-playbook"), "-i", str(tmp_path / "gone.smol.yml"), str(ROOT / "status.yml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "gone.smol.yml: there is no such file" in done.stderr
    assert "PLAY" not in done.stdout


def test_a_file_that_is_no_inventory_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts.ini").write_text("mini1\n")
    done = ask(tmp_path / "hosts.ini", "--list")
    assert done.returncode != 0
    assert "Completely failed to parse inventory source" in done.stderr


def test_group_vars_beside_a_persons_inventory_win(tmp_path: Path) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "linux.yml").write_text("smol_launcher: child\n")
    (tmp_path / "mine.smol.yml").write_text("schema: 1\nname: mine\nmachines:\n  pi5: {}\n")
    values = listed(tmp_path / "mine.smol.yml")["_meta"]["hostvars"]["pi5"]
    assert values["smol_launcher"] == "child"
    assert values["smol_python"] == "~/.smolcluster/venv/bin/python"
