"""Who takes part, in rank order: the machines a cluster YAML names, or every capable one of the inventory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from smolcluster.errors import Problem
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.clusterfile import AUTO, CommonFile, HostsFile, MeshFile, MeshWorker, MpFile, StageEntry
from smolcluster.spec.document import KeyPath
from smolcluster.spec.layers import Merged
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.run import PREDICTED, STARS, Participant

DEFAULT_PORT = 65432
_REGULAR: KeyPath = ("allToAllTopology", "workers", "regular")


@dataclass
class TakingPart:
    """The participants, and what was noted or found wrong on the way. `chooses`: the plan may leave some out."""

    participants: tuple[Participant, ...] = ()
    chooses: bool = False
    # Machines that somebody named, and where; empty when every capable machine takes part.
    named: dict[str, KeyPath] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def can_train(node: Node) -> bool:
    """Whether ranks of a training run may live on that machine."""
    return node.train and node.kind != "ipados" and node.connection != "none"


def taking_part(file: CommonFile, origin: Merged, cluster: ClusterSpec, strategy: str) -> TakingPart:
    """Participants of a training run. The server of a star, or the head of a chain, comes first."""
    found = TakingPart()
    split = trained_stages(file, origin, cluster)
    places = _listed_places(file) if split is None else _stage_places(split)
    chosen = file.nodes
    if chosen == [AUTO]:
        chosen = None
        found.chooses = _may_choose(strategy, found, origin)
    if chosen is not None:
        names = _chosen(chosen, tuple(places), found, origin)
        places = {name: places.get(name, ("nodes", chosen.index(name))) for name in names}
    elif not places:
        places = _everybody(cluster, found)
    _check_known(places, cluster, found, origin)
    if found.problems:
        return found
    if strategy == "single" and not found.chooses:
        places = _first(places, chosen, found, origin)
    found.named = {name: place for name, place in places.items() if place}
    server = _server(file, tuple(places), split, found, origin) if isinstance(file, HostsFile) else None
    order = sorted(places, key=lambda name: name != server)  # stable: the server first, the others as they stand
    if len(order) < 2 and strategy in STARS:
        what = f"{strategy} needs a server and at least one worker; only {listed(order)} takes part"
        found.problems.append(origin.problem(("nodes",), what, "name at least two machines"))
    if strategy == "mp" and sum(cluster.node(name).ranks for name in order) < 2:
        what = f"mp needs two ranks to split the layers over; only {listed(order)} takes part"
        found.problems.append(origin.problem(("nodes",), what, "name at least two machines"))
    ports = _ports(file, tuple(node.name for node in cluster.nodes), found, origin)
    dials = isinstance(file, HostsFile) and strategy in ("edp", "syncps")
    found.participants = tuple(
        Participant(
            node=name,
            # The head of a chain trains its layers as the others do.
            role="server" if name == server and strategy in STARS else "worker",
            port=ports.get(name, ports["default"]),
            dials=file.host_ip.get(name) if dials and isinstance(file, HostsFile) and name != server else None,
        )
        for name in order
    )
    return found


def _may_choose(strategy: str, found: TakingPart, origin: Merged) -> bool:
    """Whether the plan can tell which machines are worth it; a Problem where it cannot."""
    if strategy in PREDICTED:
        return True
    what = f"auto goes by predicted times of a step, and those of {strategy} are not predicted"
    found.problems.append(origin.problem(("nodes",), what, "name the machines, or leave nodes out"))
    return False


def _everybody(cluster: ClusterSpec, found: TakingPart) -> dict[str, KeyPath]:
    """Every machine that takes part where nobody is named."""
    taken = [node.name for node in cluster.nodes if can_train(node)]
    if not taken:
        what = f"no machine of {cluster.name} can train"
        fix = "add one that runs macOS, Linux or Windows"
        found.problems.append(Problem(f"inventory {cluster.name}", 0, "machines", what, fix))
    return dict.fromkeys(taken, ())


def _first(
    places: dict[str, KeyPath], chosen: list[str] | None, found: TakingPart, origin: Merged
) -> dict[str, KeyPath]:
    """The one machine that `single` trains on; a note when more were chosen."""
    first = next(iter(places))
    if chosen is not None and len(places) > 1:
        found.notes.append(origin.note(("nodes",), listed(places), first, "single trains on one machine"))
    return {first: places[first]}


def mesh_entries(file: CommonFile) -> list[MeshWorker]:
    """The entries of allToAllTopology as they stand; none when the file names no machines."""
    if isinstance(file, MeshFile) and file.allToAllTopology is not None:
        return file.allToAllTopology.workers.regular
    return []


def trained_stages(file: CommonFile, origin: Merged, cluster: ClusterSpec) -> list[StageEntry] | None:
    """The `stages` of an mp file that training goes by. A later layer that names machines replaces them; and those of
    an inventory's defaults are for serving too, where a tablet may have layers: training takes them only as a whole.
    """
    if not isinstance(file, MpFile) or file.stages is None:
        return None
    here = origin.height(("stages",))
    if any(origin.height((key,)) > here for key in ("nodes", "server", "workers")):
        return None
    known = {node.name: node for node in cluster.nodes}
    can = all(host in known and can_train(known[host]) for entry in file.stages for host in entry.host)
    return file.stages if can or not of_the_inventory(origin) else None


def of_the_inventory(origin: Merged) -> bool:
    """Whether `stages` stands in an inventory's defaults."""
    source = origin.source(("stages",))
    return source is not None and source.prefix == ("defaults",)


def hosts_of(entries: Sequence[StageEntry]) -> list[str]:
    """The machines of `stages` in rank order: those of the first pipeline, then those of the next."""
    most = max((len(entry.host) for entry in entries), default=0)
    return [entry.host[number] for number in range(most) for entry in entries if number < len(entry.host)]


def _stage_places(entries: list[StageEntry]) -> dict[str, KeyPath]:
    indices = {host: index for index, entry in enumerate(entries) for host in entry.host}
    return {host: ("stages", indices[host], "host") for host in hosts_of(entries)}


def _listed_places(file: CommonFile) -> dict[str, KeyPath]:
    """The machines the file's own list names, in rank order, each with its place in the file."""
    entries = sorted(enumerate(mesh_entries(file)), key=lambda entry: entry[1].rank)
    places: dict[str, KeyPath] = {}
    for index, entry in entries:
        places.setdefault(entry.hostname, (*_REGULAR, index, "hostname"))
    if isinstance(file, HostsFile) and (file.workers is not None or file.server is not None):
        if file.server is not None and file.workers is not None:
            places[file.server] = ("server",)
        for index, worker in enumerate(file.workers or ()):
            places.setdefault(worker, ("workers", index))
    return places


def _chosen(chosen: list[str], named: tuple[str, ...], found: TakingPart, origin: Merged) -> list[str]:
    """The names of `nodes`, in the order of the file's own list where it has them."""
    twice = sorted({name for name in chosen if chosen.count(name) > 1})
    for name in twice:
        found.problems.append(origin.problem(("nodes",), f"{name} is named twice", "name every machine once"))
    unique = list(dict.fromkeys(chosen))
    taken = [name for name in named if name in unique] + [name for name in unique if name not in named]
    if named and set(unique) != set(named):
        why = f"the file's own list is {listed(named)}"
        found.notes.append(origin.note(("nodes",), listed(chosen), listed(taken), why))
    return taken


def _check_known(places: dict[str, KeyPath], cluster: ClusterSpec, found: TakingPart, origin: Merged) -> None:
    names = tuple(node.name for node in cluster.nodes)
    for name, place in places.items():
        if name not in names:
            fix = did_you_mean(name, names, f"machines of {cluster.name}: {listed(names)}")
            found.problems.append(origin.problem(place, f'there is no machine "{name}" in the inventory', fix))
        elif not can_train(cluster.node(name)):
            what = f"{name} cannot train ({cluster.node(name).kind})"
            found.problems.append(origin.problem(place, what, "leave it out; it can serve in inference"))


def _server(
    file: HostsFile, names: tuple[str, ...], split: list[StageEntry] | None, found: TakingPart, origin: Merged
) -> str:
    """The star's centre: the file's, unless it is not among those that take part. A chain begins with its first."""
    if split is not None:
        if file.server not in (None, names[0]):
            found.notes.append(origin.note(("server",), file.server, names[0], "rank 0 is the first of the stages"))
        return names[0]
    if file.server is not None and file.server in names:
        return file.server
    if file.server is not None:
        found.notes.append(origin.note(("server",), file.server, names[0], f"{file.server} does not take part"))
    return names[0]


def _ports(file: CommonFile, machines: tuple[str, ...], found: TakingPart, origin: Merged) -> dict[str, int]:
    """A port for every machine that has one of its own, and `default`."""
    ports = {"default": DEFAULT_PORT, **(file.port or {})}
    for name in file.port or {}:
        if name != "default" and name not in machines:
            found.notes.append(not_there(origin, ("port", name), machines))
    return ports | {entry.hostname: entry.port for entry in mesh_entries(file) if entry.port is not None}


def not_there(origin: Merged, path: KeyPath, machines: tuple[str, ...]) -> str:
    """The note on a key that is named after no machine of the inventory."""
    name = str(path[-1])
    guess = did_you_mean(name, machines)
    why = f'there is no machine "{name}" in the inventory' + (f"; {guess}" if guess else "")
    value = origin.data
    for part in path:
        value = value[str(part)]
    return origin.note(path, value, "nothing", why)
