"""An inventory file -> ClusterSpec. A cluster YAML alone is accepted too: then the machines are the ones it names."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.addresses import check_controller, check_hosts, check_networks
from smolcluster.spec.alone import cluster_from
from smolcluster.spec.cluster import TABLET_PRECISIONS, App, ClusterSpec, Medium, Network, Node
from smolcluster.spec.clusterfile import CLUSTER_FILES
from smolcluster.spec.document import Document, read_document
from smolcluster.spec.inventoryfile import INVENTORY_SCHEMA, InventoryFile, MachineEntry, NetworkEntry
from smolcluster.spec.machines import app_at, default_workdir, kind_from_name, own_kind
from smolcluster.spec.problems import explain, listed
from smolcluster.spec.recognise import KINDS, recognise

# Megabits a second where the file gives none: what such a wire usually reaches.
_SPEED_MBPS: dict[Medium, float] = {"loopback": 10000.0, "thunderbolt": 20000.0, "ethernet": 1000.0, "wifi": 300.0}


def load_inventory(path: Path) -> ClusterSpec:
    """The machines and wires of an inventory, or those a cluster YAML names. ConfigError with all its problems."""
    return read_inventory(path)[0]


def read_inventory(path: Path) -> tuple[ClusterSpec, Document, tuple[str, ...]]:
    """The cluster, the document it came from, and notes on what was resolved."""
    document = read_document(path)
    kind = recognise(document.data)
    if kind is not None and made_from(document):
        cluster, notes = cluster_from(document, kind)
        return cluster, document, (*document.notes, *notes)
    if kind not in (None, "inventory"):
        what = f"an inventory is wanted here, but this is {KINDS[kind][0]}"
        raise ConfigError([Problem(document.file, 0, "", what, f"pass it as {KINDS[kind][1]}")])
    cluster, told = _from_inventory(document, path)
    return cluster, document, (*document.notes, *told)


def made_from(document: Document) -> bool:
    """Whether an inventory's document is a cluster YAML, whose own addresses the inventory then has."""
    return recognise(document.data) in CLUSTER_FILES


def _from_inventory(document: Document, path: Path) -> tuple[ClusterSpec, list[str]]:
    schema = document.data.get("schema", INVENTORY_SCHEMA)
    if isinstance(schema, int) and schema != INVENTORY_SCHEMA:
        what = f"is version {schema}; this smolcluster reads version {INVENTORY_SCHEMA}"
        fix = (
            "upgrade smolcluster"
            if schema > INVENTORY_SCHEMA
            else f"write it as in home.smol.yml (schema: {INVENTORY_SCHEMA})"
        )
        raise ConfigError([document.problem(("schema",), what, fix)])
    try:
        file = InventoryFile.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(explain(error, document, InventoryFile)) from None
    problems: list[Problem] = []
    nodes = []
    for name, entry in file.machines.items():
        entry = entry or MachineEntry()
        addresses = [network.members[name] for network in file.networks.values() if name in network.members]
        node = _node(name, entry, [*addresses, *([entry.host] if entry.host else [])], document, path)
        if isinstance(node, Problem):
            problems.append(node)
        else:
            nodes.append(node)
    networks = tuple(_network(name, entry) for name, entry in file.networks.items())
    notes: list[str] = []
    if not networks and len(nodes) > 1:
        networks = (_implied_network(tuple(nodes), document, problems),)
        taken = f"one network, {networks[0].name}, on which every machine is reached under its host"
        notes.append(document.note(("networks",), "nothing", taken))
    problems += check_hosts(tuple(nodes), document)
    problems += check_networks(networks, tuple(file.machines), document)
    problems += check_controller(file.controller, tuple(file.machines), tuple(nodes), document)
    if problems:
        raise ConfigError(problems)
    cluster = ClusterSpec(
        name=file.name,
        controller=file.controller,
        nodes=tuple(nodes),
        networks=networks,
        pis_reach_each_other=file.network.pis_reach_each_other,
    )
    return cluster, notes


def _node(name: str, entry: MachineEntry, addresses: list[str], document: Document, path: Path) -> Node | Problem:
    here = ("machines", name)
    guessed = own_kind() if entry.connection == "local" else kind_from_name(name)
    kind = entry.kind or guessed
    if kind is None:
        what = "the name does not tell what kind of machine this is"
        return document.problem(here, what, "add `kind: macos`, linux, windows or ipados")
    connection = entry.connection or ("none" if kind == "ipados" else "ssh")
    if kind == "ipados" and entry.train:
        return document.problem((*here, "train"), "a tablet cannot train", "leave `train` out")
    app = (entry.app or app_at(addresses)) if kind == "ipados" else None
    wrong = _of_tablets(name, entry, app, document)
    if wrong is not None:
        return wrong
    train = entry.train if entry.train is not None else kind != "ipados" and connection != "none"
    if train and connection == "none":
        what = "connection none: nothing can be started there"
        return document.problem((*here, "train"), what, "write `connection: ssh`, or `train: false`")
    return Node(
        name=name,
        kind=kind,
        connection=connection,
        host=entry.host or ("localhost" if connection == "local" else name),
        user=entry.user,
        ssh_port=entry.ssh_port,
        python=entry.python,
        workdir=entry.workdir or default_workdir(connection, path),
        device=entry.device,
        memory_mb=entry.memory_mb,
        ranks=entry.ranks,
        threads=entry.threads,
        train=train,
        app=app,
        precision=(entry.precision or TABLET_PRECISIONS[app][0]) if app is not None else None,
    )


def _of_tablets(name: str, entry: MachineEntry, app: App | None, document: Document) -> Problem | None:
    """What is wrong with the keys that only tablets have."""
    here = ("machines", name)
    if app is None and entry.app is not None:
        what = f"{entry.app}: only a tablet (kind ipados) computes layers in an app"
        return document.problem((*here, "app"), what, "leave `app` out, or write `kind: ipados`")
    if entry.precision is None:
        return None
    if app is None:
        what = f"{entry.precision}: only a tablet's layers have a precision of their own"
        fix = "leave it out; what all computers serve is `precision` of the model: --override precision=int8"
        return document.problem((*here, "precision"), what, fix)
    fitting = TABLET_PRECISIONS[app]
    if entry.precision in fitting:
        return None
    if app == "browser":
        what = f"{entry.precision}: a browser computes its layers in {fitting[0]} alone"
        fix = f"leave it out, or write `app: native`, which takes {listed(TABLET_PRECISIONS['native'])}"
    else:
        what = f"{entry.precision}: the app computes with Core ML, whose weights are {listed(fitting)}"
        fix = f"leave it out ({fitting[0]}), or write one of these"
    return document.problem((*here, "precision"), what, fix)


def _implied_network(nodes: tuple[Node, ...], document: Document, problems: list[Problem]) -> Network:
    """The one network of a file without `networks`: this machine's loopback, or the LAN all are on."""
    if all(node.connection == "local" for node in nodes):
        members = {node.name: "127.0.0.1" for node in nodes}
        return Network(
            name="loopback", medium="loopback", speed_mbps=_SPEED_MBPS["loopback"], private=True, members=members
        )
    for node in nodes:
        if node.host == "localhost":
            what = "nothing says under which address the other machines reach this one"
            fix = f"add `host: {node.name}.local`, or a network with its address"
            problems.append(document.problem(("machines", node.name), what, fix))
    members = {node.name: node.host for node in nodes}
    return Network(name="lan", medium="wifi", speed_mbps=_SPEED_MBPS["wifi"], members=members)


def _network(name: str, entry: NetworkEntry) -> Network:
    return Network(
        name=name,
        subnet=entry.subnet,
        medium=entry.medium,
        speed_mbps=entry.speed_mbps or _SPEED_MBPS[entry.medium],
        # Nobody else is on a loopback; for a wire only its owner can say so.
        private=entry.private if entry.private is not None else entry.medium == "loopback",
        members=entry.members,
        gateways=entry.gateways,
        interfaces=entry.interfaces,
        mtu=entry.mtu,
    )
