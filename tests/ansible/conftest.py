"""Fixtures: a cluster on this machine, the same over SSH, and the promise that nothing of either is left behind."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ansible_lab import Cluster, Playing
from ansible_served import Tiny, make_tiny
from ansible_sshd import Machines
from ansible_windows import Home

LOCAL = """\
schema: 1
name: test
controller: localhost
machines:
{machines}
networks:
  loopback: {{medium: loopback, subnet: 127.0.0.0/8, members: {{{members}}}}}
defaults:
  port: 0
  data: {{dataset: pydoc}}
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A model to serve, made once."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has room for a hundred characters."""
    path = Path(tempfile.mkdtemp(prefix="smol-"))
    yield path
    left = list(Cluster(path, path, path).processes())
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)
    shutil.rmtree(path)
    assert not left, f"left running: {left}"


@pytest.fixture
def local(folder: Path, cache: Path) -> Cluster:
    """Three nodes on this machine, as the embedded default, with a runs folder of their own."""
    names = ("node1", "node2", "node3")
    inventory = folder / "local.smol.yml"
    lines = [f"  {name}: {{connection: local, threads: 1, workdir: {folder}/runs}}" for name in names]
    members = ", ".join(f"{name}: 127.0.0.1" for name in names)
    inventory.write_text(LOCAL.format(machines="\n".join(lines), members=members))
    return Cluster(folder, inventory, cache)


@pytest.fixture
def playing() -> Iterator[list[Playing]]:
    """Playbooks begun by a test: whatever happens they are ended."""
    begun: list[Playing] = []
    yield begun
    for each in begun:
        if each.process.poll() is None:
            each.process.kill()
        each.end()


@pytest.fixture(scope="session")
def machines() -> Iterator[Machines]:
    """Three machines behind sshds of their own."""
    if reason := Machines.why_not():
        pytest.skip(reason)
    with Machines(Path(tempfile.mkdtemp(prefix="smol-ssh-"))) as running:
        yield running


@pytest.fixture(scope="session")
def home() -> Iterator[Home]:
    """The guide's machines for edp, a Windows PC among them that is played."""
    if reason := Machines.why_not() or Home.why_no_files():
        pytest.skip(reason)
    with Home(Path(tempfile.mkdtemp(prefix="smol-home-"))) as running:
        yield running


@pytest.fixture
def mixed(home: Home, folder: Path, cache: Path) -> Cluster:
    """mini1 is the controller itself; pi5, win and macbook are reached over SSH."""
    inventory = folder / "home.smol.yml"
    inventory.write_text(home.inventory(folder, sys.executable))
    return Cluster(folder, inventory, cache, env=home.environment())


@pytest.fixture
def remote(machines: Machines, folder: Path, cache: Path) -> Cluster:
    """node1 is the controller itself; node2 and node3 are reached over SSH, each with a home of its own."""
    inventory = folder / "lab.smol.yml"
    inventory.write_text(machines.inventory(folder, sys.executable))
    return Cluster(folder, inventory, cache, env=machines.environment())
