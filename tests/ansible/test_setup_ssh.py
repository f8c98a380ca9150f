"""setup.yml and teardown.yml over SSH: bare homes, a folder of wheels that installs in seconds, and no other network.

From real wheels, on hosts that have nothing of this project in sight: tests/lab/test_setup.py.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_lab import LONG, SHORT, Cluster, Outcome, gone_within
from ansible_sshd import Machines
from ansible_wheels import make_folder, make_wheel

from smolcluster import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NODES = ("node2", "node3")
# The machines share this machine's firewall and polkit, which no test may touch.
TAGS = ("--tags", "runtime,clock,certificates,boot")
PYTHON = str(Path(sys.base_prefix, "bin", "python3"))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """As everywhere here, but for the project, which setup.yml is to bring."""
    if reason := Machines.why_not():
        pytest.skip(reason)
    with Machines(Path(tempfile.mkdtemp(prefix="smol-ssh-")), shows_project=False) as running:
        yield running


@pytest.fixture
def bare(remote: Cluster, machines: Machines) -> Cluster:
    """The machines before setup.yml. What they call home is not where sshd lets a login begin: so the interpreter is
    named with its whole path."""
    lines = []
    for line in remote.inventory.read_text().splitlines(keepends=True):
        name = line.strip().partition(":")[0]
        own = f"{home(machines, name)}/.smolcluster/venv/bin/python" if name in NODES and "python:" in line else ""
        moved = line.replace(f"python: {sys.executable}", f"python: {own}")
        lines.append(re.sub(r"'~/work-[^']+'", "~/.smolcluster/runs", moved) if own else line)
    remote.inventory.write_text("".join(lines))
    # The controller's authority, and the certificate of the node that it is itself.
    remote.env["HOME"] = str(remote.folder / "home")
    return remote


def home(machines: Machines, name: str) -> Path:
    return next(machine.home for machine in machines.machines if machine.name == name)


def listing(path: Path) -> set[str]:
    return {each.relative_to(path).as_posix() for each in path.rglob("*")}


def changed(outcome: Outcome) -> dict[str, int]:
    return {name: int(count) for name, count in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", outcome.text, re.M)}


def setup_of(cluster: Cluster) -> dict[str, Any]:
    """What the last call of setup.yml kept; each is looked at once."""
    (path,) = cluster.runs.glob("setup/*/setup.json")
    report: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    return report


def plant_service(folder: Path, workdir: Path, node: str) -> Path:
    """A unit with its link and its note, as `-e on_boot=true` leaves them; the file in which what plays the service
    manager writes down what it is told."""
    told, unit = folder / "told", folder / "smolcluster-boot.service"
    link = folder / "wanted" / unit.name
    link.parent.mkdir(parents=True)
    unit.touch()
    link.symlink_to(unit)
    note = {
        "schema": 1,
        "run_id": "first",
        "run_dir": str(workdir / "first"),
        "node": node,
        "kind": "linux",
        "name": unit.name,
        "system": False,
        "files": {str(unit): "[Unit]\n"},
        "link": str(link),
        "reload": ["sh", "-c", f"test ! -e {unit} && test ! -L {link} && printf 'reload ' >> {told}"],
        "end": ["sh", "-c", f"test -e {unit} && printf 'stop ' >> {told}"],
    }
    (workdir / ".boot").mkdir(parents=True)
    (workdir / ".boot" / f"{node}.json").write_text(json.dumps(note))
    return told


def test_from_a_bare_home_to_a_training_and_back(
    bare: Cluster, machines: Machines, wheels: Path, tmp_path: Path
) -> None:
    before = {name: listing(home(machines, name)) for name in NODES}
    given = (f"wheels={wheels}", f"interpreter={PYTHON}", f"runtime_cache={bare.folder}/built")

    refused = bare.play("train", override=SHORT)
    assert refused.code == 2
    assert re.search(r"fix: ansible-playbook -i \S+\.smol\.yml setup\.yml puts", refused.text), refused.text

    done = bare.play("setup", *TAGS, *given)
    assert done.code == 0, done.text
    assert min(changed(done)[name] for name in NODES) > 0
    assert re.search(r"ansible-playbook -i \S+\.smol\.yml train\.yml -e strategy=fsdp\n", done.text)
    note = json.loads((home(machines, "node2") / ".smolcluster" / "runtime.json").read_text())
    assert (note["schema"], note["build"], note["extras"]) == (1, "cpu", ["serve"])
    first = setup_of(bare)
    again = bare.play("setup", *TAGS, *given)
    assert again.code == 0, again.text
    assert {changed(again)[name] for name in (*NODES, "localhost")} == {0}
    for report, state in ((first, "install"), (setup_of(bare), "ready")):
        rows = {row["name"]: row for row in report["machines"]}
        assert set(rows) == {"node1", *NODES}
        assert {(row["reached"], row["well"], row["failed"]) for row in rows.values()} == {(True, True, None)}
        there = [rows[name]["environment"] for name in NODES]
        assert {(one["state"], one["whole"], one["torch"]) for one in there} == {(state, True, note["torch"])}
        assert rows["node2"]["address"] == "127.0.0.2"

    for folder in (home(machines, "node2"), home(machines, "node3"), Path(bare.env["HOME"])):
        assert len([*(folder / ".smolcluster" / "certs").glob("*/node.pem")]) == 1

    run = bare.play("train", "strategy=fsdp", override=(*SHORT, "encrypt=always"))
    assert run.code == 0, run.text
    assert json.loads((bare.runs / run.run_id / "plan.json").read_text())["ca"]
    # The machines' own copy of smolcluster did it.
    summary = json.loads((bare.runs / run.run_id / "summary.json").read_text())
    assert (summary["status"], summary["world_size"]) == ("completed", 3)

    # As a model that was served at boot leaves it, when that has been ended; and one that is served at boot here.
    (home(machines, "node2") / ".smolcluster" / "runs" / ".boot").mkdir()
    told = plant_service(tmp_path / "units", bare.runs, "node1")
    left_alone_while_it_trains(bare, machines, given)
    assert not told.exists()
    back = bare.play("teardown", *TAGS, "runs=true")
    assert back.code == 0, back.text
    assert told.read_text() == "stop reload "
    assert {name: listing(home(machines, name)) for name in NODES} == before
    assert {changed(bare.play("teardown", *TAGS, "runs=true"))[name] for name in NODES} == {0}


def left_alone_while_it_trains(bare: Cluster, machines: Machines, given: Sequence[str]) -> None:
    """Nothing goes before the refusal, there or here, whatever part of it was asked for."""
    nodes = "nodes=node1,node2"
    run = bare.play("train", "strategy=fsdp", nodes, "detach=true", override=(*LONG, "encrypt=always"))
    assert run.code == 0, run.text
    homes = (home(machines, "node2"), Path(bare.env["HOME"]))
    there = [_standing(folder) for folder in homes]
    for tags in (TAGS, ("--tags", "certificates")):
        refused = bare.play("teardown", *tags, nodes, "runs=true")
        assert refused.code == 2, refused.text
        for name in ("node1", "node2"):
            why = f"{name}: a run is active there, and what it needs would be taken from under it."
            assert why in refused.text
            assert f"{name}: not all was done; the reason stands above" in refused.text
        assert re.search(r"fix: ansible-playbook -i \S+\.smol\.yml stop\.yml, or wait for its end", refused.text)
        assert {changed(refused)[name] for name in ("node1", "node2")} == {0}
        for folder, before in zip(homes, there, strict=True):
            assert before - _standing(folder) == set()
        assert (bare.runs / run.run_id / "plan.json").exists()
    # As after a git pull on the controller.
    note = homes[0] / ".smolcluster" / "runtime.json"
    text = note.read_text()
    note.write_text(json.dumps({**json.loads(text), "fingerprint": "another"}))
    refused = bare.play("setup", *TAGS, *given, "nodes=node2")
    assert refused.code == 2, refused.text
    assert "node2: a run is active there, and its code would change under it." in refused.text
    note.write_text(text)
    # What is served at boot here is of another run, and stays.
    stopped = bare.play("stop", f"run_id={run.run_id}")
    assert stopped.code == 0, stopped.text
    gone_within(bare, 15)


def _standing(folder: Path) -> set[str]:
    """What of ours is in a home, but for what the run itself writes and deletes."""
    base = folder / ".smolcluster"
    deeper = (path for part in ("certs", "runs") for path in (base / part).glob("*"))
    return {path.as_posix() for path in (*base.iterdir(), *deeper, *(base / "certs").rglob("*"))}


# What plays uv: it "gets" the interpreter of the tests.
_UV = f"""\
#!/bin/sh
[ "$1 $2 $3 $4" = "--no-config python install --no-bin" ] || exit 1
mkdir -p "$UV_PYTHON_INSTALL_DIR/cpython/bin" && ln -sf {PYTHON} "$UV_PYTHON_INSTALL_DIR/cpython/bin/python3"
"""
# A machine on which nothing else is found.
_NO_PYTHON = "network_gather_find='ls $HOME/.smolcluster/python/*/bin/python3 2>/dev/null; true'"


def test_a_machine_without_python_a_half_install_and_another_version(
    bare: Cluster, machines: Machines, wheels: Path, tmp_path: Path
) -> None:
    before = listing(home(machines, "node2"))
    root = home(machines, "node2") / ".smolcluster"
    folder = Path(shutil.copytree(wheels, tmp_path / "wheels"))
    given = ("nodes=node2", f"wheels={folder}", f"runtime_cache={bare.folder}/built")

    wrong = bare.play("setup", *TAGS, "nodes=node2", f"wheels={tmp_path}", "extras=serv")
    assert wrong.code == 2
    assert "2 problems.\n" in wrong.text
    assert "-e extras=serv: there is no such extra" in wrong.text
    assert f"-e wheels={tmp_path}: is no folder of wheels" in wrong.text
    (row,) = (row for row in setup_of(bare)["machines"] if row["name"] == "node2")
    assert (row["reached"], row["well"], row["environment"]) == (True, False, None)
    assert row["failed"]["task"] == "Refuse what nobody could install"
    assert "there is no such extra" in row["failed"]["message"]

    without = bare.play("setup", *TAGS, *given, _NO_PYTHON)
    assert without.code == 2
    assert "node2: there is no Python from 3.11 to 3.13, and uv, which could get one, cannot be had" in without.text
    assert f"{folder} has no wheel of uv for Linux on {platform.machine()}" in without.text

    make_wheel(folder, "uv", "0.1", {"uv-0.1.data/scripts/uv": _UV}, f"py3-none-manylinux2014_{platform.machine()}")
    done = bare.play("setup", *TAGS, *given, _NO_PYTHON, f"interpreter={PYTHON}")
    assert done.code == 0, done.text
    assert (root / "python" / "cpython" / "bin" / "python3").exists()
    assert (root / "runtime.json").exists()

    # Another version there, of which preflight says how it is mended.
    brought = f"fix: ansible-playbook -i {bare.inventory.name} setup.yml -e nodes=node2 brings this one there"
    (package,) = root.glob("venv/lib/python*/site-packages/smolcluster")
    version = package / "__init__.py"
    version.write_text(version.read_text().replace("__version__ = ", '__version__ = "0.0.1" or '))
    refused = bare.play("train", "nodes=node1,node2", override=SHORT)
    assert refused.code == 2
    assert "node2: it has smolcluster 0.0.1, the controller " in refused.text
    assert brought in refused.text

    # The same version, and a line of one of its modules is another: what a `git pull` leaves that only one side had.
    version.write_text(version.read_text().replace('"0.0.1" or ', "") + "# an older line\n")
    refused = bare.play("train", "nodes=node1,node2", override=SHORT)
    assert refused.code == 2
    assert f"node2: its smolcluster {__version__} is not the code that is here." in refused.text
    assert brought in refused.text

    # What was cut off in the middle, and a file that is not what it was, are made good.
    (root / "runtime.json").unlink()
    (root / "venv" / "junk").touch()
    torch = next((root / "wheels").glob("torch-*"))
    whole = torch.read_bytes()
    torch.write_bytes(b"half")
    mended = bare.play("setup", *TAGS, *given, f"interpreter={PYTHON}")
    assert mended.code == 0, mended.text
    assert torch.read_bytes() == whole
    assert not (root / "venv" / "junk").exists()
    assert "0.0.1" not in version.read_text()

    # A half install again, of one that is served at boot: what its note names and its key go all the same.
    shutil.rmtree(root / "venv")
    told = plant_service(tmp_path / "units", root / "runs", "node2")
    back = bare.play("teardown", *TAGS, "nodes=node2", "runs=true")
    assert back.code == 0, back.text
    assert told.read_text() == "stop reload "
    assert listing(home(machines, "node2")) == before


# What plays timedatectl: its state is a file.
_TIMEDATECTL = """\
#!/bin/sh
case "$1" in
show) cat {state} ;;
set-ntp) if [ "$2" = true ]; then echo yes; else echo no; fi > {state} ;;
esac
"""


def test_network_time_is_switched_on_where_it_is_off_and_off_again(bare: Cluster, machines: Machines) -> None:
    before = listing(home(machines, "node2"))
    state, tool = bare.folder / "network-time", bare.folder / "timedatectl"
    state.write_text("no\n")
    tool.write_text(_TIMEDATECTL.format(state=state))
    tool.chmod(0o755)
    asked = {
        "clock_asking": {"linux": [str(tool), "show"]},
        "clock_switching": {"linux": [str(tool), "set-ntp"]},
        # Any clock counts as off.
        "clock_warn_s": -1.0,
        "clock_wait_s": 0.0,
        "ansible_become": False,
        # Ansible's own ~ is not where these logins begin.
        "clock_note": f"{home(machines, 'node2')}/.smolcluster/clock.json",
    }
    given = ("nodes=node2", "set_clock=true", json.dumps(asked))
    done = bare.play("setup", "--tags", "clock", *given)
    assert done.code == 0, done.text
    assert "node2: its clock is " in done.text
    assert state.read_text() == "yes\n"
    again = bare.play("setup", "--tags", "clock", *given)
    assert (again.code, changed(again)["node2"]) == (0, 0), again.text
    back = bare.play("teardown", "--tags", "clock,runtime", "nodes=node2", json.dumps(asked))
    assert back.code == 0, back.text
    assert state.read_text() == "no\n"
    assert listing(home(machines, "node2")) == before
