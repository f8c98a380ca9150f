"""setup.yml from bare hosts with real wheels and no outside network, a training on what it made, and the way back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import Lab
from .disk import USER
from .playing import changed, play
from .training import ROOT, SMALL, inside, inventory_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
NODES = ("mini1", "mini2")
WHEELS = ROOT / ".cache" / "wheels"
# What setup.yml could change on a host. Logs and what runs are the host's own.
_FOLDERS = "/Users /Library /etc /opt /usr/local /var/lib /var/db"


@pytest.fixture(scope="session")
def wheels() -> Path:
    """Everything that a node needs, from the index that this machine's pip knows; made once."""
    sources = [ROOT / "constraints.txt", ROOT / "pyproject.toml"]
    stamp = WHEELS / "made-of"
    told = "".join(path.read_text() for path in sources)
    if not stamp.exists() or stamp.read_text() != told:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--constraint",
            "constraints.txt",
            "--dest",
            str(WHEELS),
        ]
        subprocess.run([*command, ".[serve]"], cwd=ROOT, check=True, timeout=1800)
        stamp.write_text(told)
    return WHEELS


@pytest.fixture(scope="module")
def bare(namespaces: None, wheels: Path) -> Iterator[Lab]:
    """Two minis without anything of ours; the MacBook is the controller."""
    with Lab(only=["macbook", *NODES]) as running:
        content = json.loads(running.inventory())
        for name in NODES:
            del content["machines"][name]["python"]
        running.controller.write(inventory_of(running), json.dumps(content), owner=USER)
        yield running


def listing(lab: Lab, name: str) -> str:
    """Every file of a host that somebody could have left there."""
    script = f"find {_FOLDERS} -xdev ! -path '*/lab-*' -printf '%y %p %l\\n' 2>/dev/null | sort"
    return lab.host(name).run(["sh", "-c", script]).stdout


def test_from_bare_hosts_to_a_training_and_back(bare: Lab, wheels: Path) -> None:
    inventory = inventory_of(bare)
    for name in NODES:
        assert bare.host(name).run(["python3", "-c", "import smolcluster"], user=USER, check=False).returncode
        assert bare.host(name).run(["python3", "-c", "import torch"], user=USER, check=False).returncode
    before = {name: listing(bare, name) for name in NODES}

    done = play(bare, "setup.yml", "-e", f"wheels={wheels}", inventory=inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in NODES:
        assert f"{name}  sending " in done.stdout
        note = json.loads(bare.host(name).read(f"{bare.host(name).home}/.smolcluster/runtime.json"))
        assert (note["python"], note["torch"].partition("+")[0]) == ("/usr/bin/python3.11", "2.13.0")
    again = play(bare, "setup.yml", "-e", f"wheels={wheels}", inventory=inventory)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {changed(again.stdout)[name] for name in NODES} == {0}

    flags = ["-e", "strategy=fsdp", "-e", "dataset=pydoc", "-e", f"nodes={','.join(NODES)}", "-e", "ship_lease_s=150"]
    run = play(
        bare, "train.yml", *flags, "-e", "follow_answer_s=150", "-e", f"override={','.join(SMALL)}", inventory=inventory
    )
    assert run.returncode == 0, run.stdout + run.stderr
    match = re.search(r"^Run (\S+)$", run.stdout, re.MULTILINE)
    assert match, run.stdout
    told = json.loads((inside(bare, ROOT / "runs" / match[1]) / "summary.json").read_text())
    assert (told["status"], told["world_size"], told["steps"]) == ("completed", 2, 8)

    bare.switch_off("mini2")
    back = play(bare, "teardown.yml", "-e", "runs=true", inventory=inventory)
    assert back.returncode != 0
    assert "mini2: it cannot be reached" in back.stdout + back.stderr
    assert listing(bare, "mini1") == before["mini1"]
    bare.reboot("mini2")
    back = play(bare, "teardown.yml", "-e", "runs=true", inventory=inventory)
    assert back.returncode == 0, back.stdout + back.stderr
    assert {name: listing(bare, name) for name in NODES} == before
