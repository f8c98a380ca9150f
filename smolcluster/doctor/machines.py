"""What look.py found on the machines, read, and what of it is wrong. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from smolcluster import __version__
from smolcluster.doctor.look import SCHEMA
from smolcluster.errors import ConfigError, Problem
from smolcluster.network.choose import dialled_on
from smolcluster.network.parse import FormatError
from smolcluster.network.read import found_host
from smolcluster.provision.clocks import ALLOWED_S
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.values import ip_of

LEAST_DISK_MB = 2048
HOT_C = 80.0


class Clock(Frozen):
    """The controller's clock when it asked and when it had the answer, and the machine's in between. Seconds."""

    asked: float
    here: float
    answered: float | None = None

    @property
    def off_s(self) -> float:
        """By how much the machine's is certainly off: 0 where it lies between the two."""
        if self.here < self.asked:
            return self.here - self.asked
        return max(0.0, self.here - self.answered) if self.answered is not None else 0.0


class Certificate(Frozen):
    """What a node finds wrong with its own certificate, empty where nothing is, and the authority's fingerprint that it
    has; empty where it has none.
    """

    what: str = ""
    fix: str = ""
    authority: str = ""


class Looked(Frozen):
    """One machine's answer; None is what it could not tell."""

    schema_: int = Field(default=SCHEMA, alias="schema", serialization_alias="schema")
    system: str
    processor: str | None = None
    versions: dict[str, str | None]
    clock: Clock
    cores: int | None
    load: float | None
    disk_free_mb: int | None
    memory_mb: int | None
    memory_free_mb: int | None
    temperature_c: float | None
    throttled: str | None
    certificate: Certificate | None = None


class Machine(Frozen):
    """One row: what was found, or why nothing was. `addresses`: by network, what it has there; None: not told."""

    name: str
    kind: str
    looked: Looked | None = None
    why_not: str = ""
    addresses: dict[str, str] | None = None


class Finding(Frozen):
    """Something wrong. `blocks`: no run with this machine can start."""

    node: str
    what: str
    fix: str
    blocks: bool = False


def read_machines(cluster: ClusterSpec, told: Mapping[str, Any], asked: tuple[str, ...] = ()) -> list[Machine]:
    """The rows of the machines that were asked (none named: all), in the inventory's order. ConfigError: not ours."""
    found = []
    for node in cluster.nodes:
        if asked and node.name not in asked:
            continue
        said = told.get(node.name, {})
        if not isinstance(said, Mapping):
            raise not_ours(node.name, "is no object")
        if node.connection == "none":
            found.append(Machine(name=node.name, kind=node.kind, why_not="nobody logs into it"))
        elif not said.get("looked"):
            # JSON may hold half of a character, which no terminal shows and no file takes.
            why = str(said.get("why") or "it gave no answer").encode(errors="replace").decode()
            found.append(Machine(name=node.name, kind=node.kind, why_not=why))
        else:
            try:
                looked = Looked.model_validate(said["looked"])
            except ValidationError as error:
                first = error.errors()[0]
                raise not_ours(node.name, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
            if looked.schema_ != SCHEMA:
                raise not_ours(node.name, f"is version {looked.schema_}; this smolcluster reads {SCHEMA}")
            found.append(Machine(name=node.name, kind=node.kind, looked=looked, addresses=_addresses(cluster, said)))
    return found


def _addresses(cluster: ClusterSpec, said: Mapping[str, Any]) -> dict[str, str] | None:
    """By network, what the machine has there, as gather.py's answer tells; None if there is none."""
    if not said.get("network"):
        return None
    try:
        host = found_host(json.dumps(said["network"]))
    except FormatError:
        return None
    mine = [network for network in cluster.networks if host.node in network.members]
    on = {network.name: dialled_on(network, host, cluster) for network in mine}
    return {name: address for name, address in on.items() if address is not None}


def not_ours(node: str, what: str) -> ConfigError:
    """What check.yml handed over cannot be read."""
    return ConfigError(
        [Problem("what the machines said", 0, node, what, "run check.yml again, with one version of it")]
    )


def findings_of(
    cluster: ClusterSpec, machines: list[Machine], controller_torch: str | None, controller_code: str | None = None
) -> list[Finding]:
    """What is wrong with the machines. What the controller has of PyTorch and as codehash.py's hash is not compared
    where it is None.
    """
    found: list[Finding] = []
    for machine in machines:
        if machine.looked is None:
            if cluster.node(machine.name).connection != "none":
                fix = "switch it on, or leave it out: -e nodes=..."
                found.append(Finding(node=machine.name, what=machine.why_not, fix=fix, blocks=True))
            continue
        claimed_mb = cluster.node(machine.name).memory_mb
        found += _of_one(machine.name, machine.looked, controller_torch, controller_code, claimed_mb)
        found += _of_addresses(cluster, machine)
    return found


def _of_one(
    name: str, looked: Looked, controller_torch: str | None, controller_code: str | None, claimed_mb: int | None
) -> list[Finding]:
    found = []

    def say(what: str, fix: str, blocks: bool = False) -> None:
        found.append(Finding(node=name, what=what, fix=fix, blocks=blocks))

    own, torch = looked.versions.get("smolcluster"), looked.versions.get("torch")
    if looked.versions.get("python") is None:
        say(
            "has no Python where the inventory says", "machines.python in the inventory; setup.yml puts one there", True
        )
    elif own is None:
        say("has no smolcluster", "install it there: setup.yml", True)
    elif own != __version__:
        say(f"has smolcluster {own}, the controller {__version__}", "the same on all: setup.yml", True)
    elif controller_code is not None and looked.versions.get("code") not in (None, controller_code):
        say(f"its smolcluster {own} is not the code that is here", "the same on all: setup.yml", True)
    elif torch is None:
        say("has no torch", "install it there: setup.yml", True)
    elif controller_torch is not None and _release(torch) != _release(controller_torch):
        say(f"has torch {torch}, the controller {controller_torch}", "the same release on all: setup.yml")
    if abs(looked.clock.off_s) > ALLOWED_S:
        say(f"its clock is off by {looked.clock.off_s:+,.0f} s", "switch network time on there")
    if looked.disk_free_mb is not None and looked.disk_free_mb < LEAST_DISK_MB:
        say(f"has {looked.disk_free_mb:,} MB of disk left", "make room where its runs lie (workdir)")
    if looked.temperature_c is not None and looked.temperature_c >= HOT_C:
        say(f"is at {looked.temperature_c:.0f} °C", "a fan, or a cooler place: it slows down when it is hot")
    if looked.throttled:
        say(f"is slowed down: {looked.throttled}", "its power supply and its cooling")
    if claimed_mb is not None and looked.memory_mb is not None and claimed_mb > looked.memory_mb * 1.1:
        say(f"has {looked.memory_mb:,} MB of memory, the inventory says {claimed_mb:,}", "write what it has")
    if looked.load is not None and looked.cores and looked.load > looked.cores:
        say(f"is busy: a load of {looked.load:.1f} on {looked.cores} cores", "end what else runs there")
    return found


def _of_addresses(cluster: ClusterSpec, machine: Machine) -> list[Finding]:
    """Addresses of the inventory that it has not got."""
    found = []
    for network in cluster.networks if machine.addresses is not None else ():
        wanted, has = network.members.get(machine.name), (machine.addresses or {}).get(network.name)
        if network.medium == "loopback" or not wanted or ip_of(wanted) is None or wanted == has:
            continue
        if has:
            what, fix = f"has {has} on {network.name}, the inventory says {wanted}", "ansible-playbook network.yml"
        else:
            what = f"has no address on {network.name}, the inventory says {wanted}"
            fix = "look at its cable or Wi-Fi; then ansible-playbook network.yml"
        found.append(Finding(node=machine.name, what=what, fix=f"{fix} --check --diff"))
    return found


def _release(version: str) -> str:
    """2.13.0+cpu and 2.13.0 are one release."""
    return version.split("+")[0]
