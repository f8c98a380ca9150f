"""Clusters and cables written for one test."""

from __future__ import annotations

from pathlib import Path

from smolcluster.network.values import Cable, CableEnd
from smolcluster.spec.cluster import ClusterSpec, Network, Node
from smolcluster.spec.inventory import load_inventory

ROOT = Path(__file__).resolve().parents[2]
HOME_FILE = ROOT / "inventory" / "home.smol.yml"


def home(*, pis: bool = True) -> ClusterSpec:
    cluster = load_inventory(HOME_FILE)
    return cluster.model_copy(update={"pis_reach_each_other": pis})


def cable(a: str, b: str) -> Cable:
    """`mini1:en2`, `mini2:en3`."""
    ends = [CableEnd(node=end.split(":")[0], device=end.split(":")[1]) for end in sorted((a, b))]
    return Cable(a=ends[0], b=ends[1])


TRIANGLE = (cable("mini1:en2", "mini2:en2"), cable("mini2:en3", "mini3:en2"), cable("mini3:en3", "mini1:en3"))
CHAIN = TRIANGLE[:2]


def machines(**kinds: str) -> tuple[Node, ...]:
    return tuple(Node(name=name, kind=kind, host=f"{name}.local", workdir="~") for name, kind in kinds.items())  # type: ignore[arg-type]


def wire(name: str, subnet: str | None, members: dict[str, str], **more: object) -> Network:
    values: dict[str, object] = {"medium": "ethernet", "speed_mbps": 1000, "private": True, **more}
    return Network(name=name, subnet=subnet, members=members, **values)  # type: ignore[arg-type]


def cluster(nodes: tuple[Node, ...], *networks: Network) -> ClusterSpec:
    return ClusterSpec(name="test", controller="localhost", nodes=nodes, networks=networks)
