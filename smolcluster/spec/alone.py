"""A cluster YAML alone as inventory: hosts from its lists, kinds from their names, reached under their host name.

The file knows addresses but no wires. Where its addresses are the hosts' own (allToAllTopology, mp) they all share one
network. In edp and syncps `host_ip` is what a host dials to reach the server: there is one network for each address of
the server, with the hosts that dial it. The inference block mixes both: the first host that carries an address owns it.
"""

from __future__ import annotations

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.cluster import TABLET_PRECISIONS, ClusterSpec, Network, Node
from smolcluster.spec.clusterfile import CLUSTER_FILES, CommonFile, HostsFile, MeshFile
from smolcluster.spec.consistency import check_hosts, check_ranks
from smolcluster.spec.document import Document, KeyPath
from smolcluster.spec.layers import merge
from smolcluster.spec.machines import REMOTE_WORKDIR, app_at, kind_from_name
from smolcluster.spec.problems import listed
from smolcluster.spec.validate import validated

_SPEED_MBPS = 1000.0
_Hosts = dict[str, KeyPath]


def cluster_from(document: Document, strategy: str) -> tuple[ClusterSpec, tuple[str, ...]]:
    """The machines a cluster YAML names, as a cluster, and notes. ConfigError when it names none or an unknown kind."""
    file = validated(document, CLUSTER_FILES[strategy])
    hosts = _hosts(file, strategy)
    if not hosts:
        what = "names no machines, so it cannot be an inventory"
        raise ConfigError(
            [Problem(document.file, 0, "", what, "pass an inventory with -i and this file with --cluster-config")]
        )
    problems: list[Problem] = []
    nodes = []
    for name, path in hosts.items():
        kind = kind_from_name(name)
        if kind is None:
            what = f'the name "{name}" does not tell what kind of machine this is'
            fix = "name it mini*, macbook*, pi*, win* or ipad*; or write an inventory file with `kind:`"
            problems.append(document.problem(path, what, fix))
            continue
        app = app_at(_own_addresses(file, name)) if kind == "ipados" else None
        nodes.append(
            Node(
                name=name,
                kind=kind,
                connection="ssh" if app is None else "none",
                host=name,
                workdir=REMOTE_WORKDIR,
                train=app is None,
                app=app,
                precision=TABLET_PRECISIONS[app][0] if app is not None else None,
            )
        )
    networks, notes, wrong = _networks(file, strategy, tuple(hosts), document)
    origin = merge([document])
    problems += [*wrong, *check_ranks(file, origin), *check_hosts(file, origin, strategy)]
    if problems:
        raise ConfigError(problems)
    return ClusterSpec(name=strategy, controller="localhost", nodes=tuple(nodes), networks=networks), tuple(notes)


def _hosts(file: CommonFile, strategy: str) -> _Hosts:
    """Every host the file takes part with, and where it stands, in the order of ranks where there is one."""
    if isinstance(file, MeshFile) and file.allToAllTopology is not None:
        entries = enumerate(file.allToAllTopology.workers.regular)
        ranked = sorted(entries, key=lambda entry: entry[1].rank)
        return {e.hostname: ("allToAllTopology", "workers", "regular", i, "hostname") for i, e in ranked}
    if not isinstance(file, HostsFile):
        return {}
    hosts: _Hosts = {}
    if strategy != "inference" and file.server is not None:
        hosts[file.server] = ("server",)
    for index, worker in enumerate(file.workers or ()):
        hosts.setdefault(worker, ("workers", index))
    if strategy == "inference" or not hosts:
        for name in file.host_ip:
            hosts.setdefault(name, ("host_ip", name))
        if file.server is not None:
            hosts.setdefault(file.server, ("server",))
    return hosts


def _own_addresses(file: CommonFile, name: str) -> list[str]:
    """What the file says of a tablet's address: it is nobody's server, so that is its own."""
    return [file.host_ip[name]] if isinstance(file, HostsFile) and name in file.host_ip else []


def _networks(
    file: CommonFile, strategy: str, hosts: tuple[str, ...], document: Document
) -> tuple[tuple[Network, ...], list[str], list[Problem]]:
    if isinstance(file, MeshFile) and file.allToAllTopology is not None:
        given = {e.hostname: e.ip or e.hostname for e in file.allToAllTopology.workers.regular}
        return (_one_network(given),), [], []
    assert isinstance(file, HostsFile)
    if strategy == "mp":
        return (_one_network({host: file.host_ip.get(host, host) for host in hosts}),), [], []
    if strategy == "inference":
        return _mixed_addresses(file, hosts, document)
    return _dialled_addresses(file, hosts, document)


def _one_network(members: dict[str, str]) -> Network:
    return Network(name="cluster", medium="ethernet", speed_mbps=_SPEED_MBPS, members=members)


def _mixed_addresses(
    file: HostsFile, hosts: tuple[str, ...], document: Document
) -> tuple[tuple[Network, ...], list[str], list[Problem]]:
    notes: list[str] = []
    owner: dict[str, str] = {}
    members: dict[str, str] = {}
    for host in hosts:
        address = file.host_ip.get(host, host)
        if address in owner:
            why = f"that address is {owner[address]}'s, so it is what {host} dials"
            notes.append(document.note(("host_ip", host), address, f"the host name {host}", why))
            address = host
        owner[address] = host
        members[host] = address
    return (_one_network(members),), notes, []


def _dialled_addresses(
    file: HostsFile, hosts: tuple[str, ...], document: Document
) -> tuple[tuple[Network, ...], list[str], list[Problem]]:
    if file.server is None:
        fix = f"add `server:`, one of {listed(hosts)}"
        return (), [], [document.problem(("host_ip",), "no server is named, and host_ip says how to reach it", fix)]
    server = file.server
    wires: dict[str, dict[str, str]] = {}
    for host in hosts:
        address = file.host_ip.get(host, file.host_ip.get(server, server))
        wires.setdefault(address, {server: address})
        if host != server:
            wires[address][host] = host
    networks = tuple(
        Network(name=f"wire{index}", medium="ethernet", speed_mbps=_SPEED_MBPS, members=members)
        for index, members in enumerate(wires.values(), 1)
    )
    return networks, [], []
