"""Where page and API of a served model are: on which machine, and on which of its addresses."""

from __future__ import annotations

from smolcluster.errors import Problem
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.clusterfile import InferenceFile
from smolcluster.spec.document import KeyPath
from smolcluster.spec.layers import Merged
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.values import ip_of, is_loopback, normal

_HOST: KeyPath = ("web_interface", "host")
_LISTEN: KeyPath = ("web_interface", "listen")


def api_node(file: InferenceFile, cluster: ClusterSpec, head: str) -> str:
    """The machine of the API: the file's, else the controller where it may take part, else rank 0's."""
    if file.web_interface.host is not None:
        return file.web_interface.host
    node = next((node for node in cluster.nodes if node.name == cluster.controller), None)
    asked = file.nodes is None or cluster.controller in file.nodes
    return node.name if node is not None and asked and _runs(node) else head


def check_web(file: InferenceFile, origin: Merged, cluster: ClusterSpec, node: str) -> list[Problem]:
    """The API's machine exists and can be started, and the addresses are its own."""
    names = tuple(one.name for one in cluster.nodes)
    if node not in names:
        fix = did_you_mean(node, names, f"machines of {cluster.name}: {listed(names)}")
        return [origin.problem(_HOST, f'there is no machine "{node}" in the inventory', fix)]
    machine = cluster.node(node)
    problems: list[Problem] = []
    if machine.connection == "none":
        what = f"{node} cannot answer for the API: connection none, nothing can be started there"
        problems.append(origin.problem(_HOST, what, "name a machine that is reached by ssh, or the controller"))
    own = [network.members[node] for network in cluster.networks if node in network.members]
    for index, address in enumerate(file.web_interface.listen):
        here = (*_LISTEN, index)
        ip = ip_of(address)
        if ip is not None and ip.is_unspecified:
            what = f"{address} would answer on every network the machine is ever on"
            problems.append(origin.problem(here, what, f"name its own addresses: {listed(own)}; or write loopback"))
        elif not is_loopback(address) and normal(address) not in map(normal, own):
            what = f"{address} is no address of {node}'s in the inventory"
            advice = f"{node}'s addresses: {listed(own)}; or write loopback"
            problems.append(origin.problem(here, what, did_you_mean(address, own, advice)))
    return problems


def _runs(node: Node) -> bool:
    return node.connection != "none"
