"""Tablets among the stages of a served model: what they need of the files, and what is refused of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smolcluster.errors import Problem
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.clusterfile import InferenceFile
from smolcluster.spec.document import KeyPath
from smolcluster.spec.layers import Merged
from smolcluster.spec.problems import did_you_mean, listed

# Where a tablet's app listens, or its page is served, unless `port` says otherwise.
TABLET_PORT = 8000


def tablet_port(ports: Mapping[str, int], tablet: Node) -> int:
    """The port of an app that is dialled, or of a browser's page: any free one where the file leaves ports free."""
    free = tablet.app == "browser" and ports.get("default") == 0
    return ports.get(tablet.name, 0 if free else TABLET_PORT)


def check_tablets(
    places: Mapping[str, KeyPath], cluster: ClusterSpec, file: InferenceFile, origin: Merged
) -> list[Problem]:
    """What cannot be of the tablets among these machines, each with its place in the file, rank 0 first."""
    names = tuple(node.name for node in cluster.nodes)
    nodes = [cluster.node(name) for name in places if name in names]
    tablets = [node for node in nodes if node.app is not None]
    problems: list[Problem] = []
    computers = [node.name for node in nodes if node.app is None]
    if nodes and nodes[0].app is not None:
        what = f"{nodes[0].name} is a tablet, and the first stage has the embeddings: a computer's, as rank 0"
        fix = f"begin with {computers[0]}" if computers else "name a computer before it"
        problems.append(origin.problem(places[nodes[0].name], what, fix))
    for tablet in tablets:
        if tablet.app == "native" and tablet_port(file.port or {}, tablet) == 0:
            what = f"0 is no port that the app of {tablet.name} could be dialled at"
            problems.append(origin.problem(("port", tablet.name), what, f"write {TABLET_PORT}, or the app's own"))
        if tablet.app == "native" and file.encrypt == "always":
            what = f"always cannot be kept on the way to {tablet.name}: its app speaks without TLS"
            fix = "write encrypt: auto; or `app: browser` for it in the inventory, whose page comes by HTTPS"
            problems.append(origin.problem(("encrypt",), what, fix))
    return problems + _check_optional(file, names, cluster, origin)


def optional_of(file: InferenceFile, stages: Sequence[str], cluster: ClusterSpec) -> tuple[str, ...]:
    """The tablets among the stages that serving goes on without."""
    return tuple(name for name in stages if name in file.optional and cluster.node(name).app is not None)


def _check_optional(file: InferenceFile, names: tuple[str, ...], cluster: ClusterSpec, origin: Merged) -> list[Problem]:
    tablets = tuple(node.name for node in cluster.nodes if node.app is not None)
    problems: list[Problem] = []
    for name in file.optional:
        if name not in names:
            fix = did_you_mean(name, tablets, f"tablets of {cluster.name}: {listed(tablets)}")
            what = f'there is no machine "{name}" in the inventory'
            problems.append(origin.problem(("optional",), what, fix))
        elif name not in tablets:
            what = f"{name} is no tablet: the others go on without any computer but rank 0's, whatever this says"
            problems.append(origin.problem(("optional",), what, "leave it out"))
    return problems
