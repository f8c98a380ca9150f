"""Facts a cluster YAML says twice: counts, ranks, addresses, the model. An error, a note, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

from smolcluster.errors import Problem
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.clusterfile import CommonFile, HostsFile, MeshFile, MpFile
from smolcluster.spec.layers import Merged
from smolcluster.spec.participants import mesh_entries, not_there
from smolcluster.spec.problems import listed
from smolcluster.spec.run import GPTSpec, ModelSpec, Participant
from smolcluster.spec.values import is_loopback

_MODEL_NAMES = {"gpt": ("causal_gpt2", "gpt2", "gpt"), "nn": ("simplenn", "nn")}
_REGULAR = ("allToAllTopology", "workers", "regular")


def check_counts(file: CommonFile, origin: Merged, participants: tuple[Participant, ...], ranks: int) -> list[Problem]:
    """num_workers and num_nodes against the file's own list, or against who takes part when it has none."""
    problems: list[Problem] = []
    entries = mesh_entries(file)
    if isinstance(file, HostsFile):
        own = len(file.workers) if file.workers is not None else None
        taking, word = len(participants) - 1, "workers"
    else:
        own, taking, word = (len(entries) if entries else None), ranks, "ranks"
    chosen_by_flag = (source := origin.source(("nodes",))) is not None and not source.lines
    for key in ("num_workers", "num_nodes"):
        said = getattr(file, key, None)
        if said is None or (own is None and chosen_by_flag):
            continue
        there = own if own is not None else taking
        if said != there:
            counted = f"{there} {word.removesuffix('s') if there == 1 else word}"
            taking_part = f"{counted} {'takes' if there == 1 else 'take'} part"
            what = f"says {said}, but {f'the list names {counted}' if own is not None else taking_part}"
            problems.append(origin.problem((key,), what, f"write {there}, or leave {key} out"))
    return problems


def check_ranks(file: CommonFile, origin: Merged) -> list[Problem]:
    """allToAllTopology: every machine and rank once, ranks from 0, no address or endpoint shared."""
    problems: list[Problem] = []
    seen: dict[tuple[str, object], str] = {}
    entries = mesh_entries(file)
    for index, entry in enumerate(entries):
        here = (*_REGULAR, index)
        several = "name every machine once; one with several ranks says so in the inventory: `ranks: 2`"
        facts: list[tuple[str, object, str]] = [
            ("hostname", entry.hostname, several),
            ("rank", entry.rank, _numbers(len(entries))),
        ]
        if entry.ip is not None and not is_loopback(entry.ip):
            facts.append(("ip", entry.ip, "give every machine an address of its own"))
        for key, value, fix in facts:
            if (key, value) in seen:
                what = f"{value} is named twice" if key == "hostname" else f"{value} is {seen[key, value]}'s already"
                problems.append(origin.problem((*here, key), what, fix))
            seen.setdefault((key, value), entry.hostname)
        if entry.rank >= len(entries):
            what = f"{entry.rank} leaves a gap: the list names {len(entries)} rank{'' if len(entries) == 1 else 's'}"
            problems.append(origin.problem((*here, "rank"), what, _numbers(len(entries))))
    return problems


def _numbers(count: int) -> str:
    return "number it 0" if count == 1 else f"number them 0 to {count - 1}"


def check_hosts(file: CommonFile, origin: Merged, strategy: str) -> list[Problem]:
    """Files with a server: workers once, the server not among them, everybody in host_ip where there is one."""
    if not isinstance(file, HostsFile):
        return []
    problems: list[Problem] = []
    for index, worker in enumerate(file.workers or ()):
        here = ("workers", index)
        if worker == file.server:
            problems.append(origin.problem(here, f"{worker} is the server already", "leave it out of workers"))
        if (file.workers or []).index(worker) != index:
            problems.append(origin.problem(here, f"{worker} is named twice", "name every worker once"))
    if file.host_ip:
        places = {worker: ("workers", index) for index, worker in enumerate(file.workers or ())}
        for name, place in ({file.server: ("server",)} if file.server else {}).items() | places.items():
            if name not in file.host_ip:
                fix = f"add it; host_ip has {listed(file.host_ip)}"
                problems.append(origin.problem(place, f"{name} has no entry in host_ip", fix))
    if strategy == "mp":
        owner: dict[str, str] = {}
        for name, address in file.host_ip.items():
            if address in owner and not is_loopback(address):
                what = f"{address} is the own address of {owner[address]} already"
                problems.append(origin.problem(("host_ip", name), what, "give every machine an address of its own"))
            owner.setdefault(address, name)
    return problems


def address_notes(file: CommonFile, origin: Merged, cluster: ClusterSpec, strategy: str) -> list[str]:
    """Own addresses that the inventory contradicts: it knows better. Dialled ones are the plan's to judge."""
    said: list[tuple[tuple[str | int, ...], str, str]] = [
        ((*_REGULAR, index, "ip"), entry.hostname, entry.ip)
        for index, entry in enumerate(mesh_entries(file))
        if entry.ip is not None
    ]
    if isinstance(file, HostsFile) and strategy in ("mp", "inference"):
        said += [(("host_ip", name), name, address) for name, address in file.host_ip.items()]
    elif isinstance(file, HostsFile) and file.server in file.host_ip:
        said.append((("host_ip", file.server), file.server, file.host_ip[file.server]))
    notes: list[str] = []
    machines = tuple(node.name for node in cluster.nodes)
    for path, name, address in said:
        if name not in machines:
            notes.append(not_there(origin, path, machines))
            continue
        own = {net.name: net.members[name] for net in cluster.networks if name in net.members}
        if own and address not in own.values():
            owner = next((n for net in cluster.networks for n, a in net.members.items() if a == address), None)
            why = f"in the inventory that is {owner}'s" if owner else "the inventory does not have it"
            notes.append(origin.note(path, address, f"the inventory's {listed(own.values())}", why))
    return notes


def buffer_notes(file: CommonFile, origin: Merged, cluster: ClusterSpec) -> list[str]:
    """buffer_size entries of machines that are not there."""
    machines = tuple(node.name for node in cluster.nodes)
    return [not_there(origin, ("buffer_size", name), machines) for name in file.buffer_size if name not in machines]


def model_notes(file: CommonFile, origin: Merged, model: ModelSpec) -> list[str]:
    """num_layers and model_name in a cluster YAML are only compared: the model's config wins."""
    if not isinstance(file, MeshFile | MpFile):
        return []
    notes: list[str] = []
    why = "the model's config wins"
    if file.num_layers is not None and isinstance(model, GPTSpec) and file.num_layers != model.num_layers:
        notes.append(origin.note(("num_layers",), file.num_layers, f"{model.num_layers}", why))
    if file.model_name is not None and file.model_name.lower() not in _MODEL_NAMES[model.type]:
        notes.append(origin.note(("model_name",), file.model_name, model.type, why))
    return notes


def check_free_port(port: int, nodes: Sequence[Node], origin: Merged) -> list[Problem]:
    """Port 0 of rank 0, on the first of the nodes, is announced in a file: all ranks must see the same folder."""
    head = nodes[0]
    for other in nodes[1:] if port == 0 else ():
        shares_files = head.connection == other.connection == "local" and head.workdir == other.workdir
        if other.name != head.name and not shares_files:
            what = f"0 (any free port) cannot be announced to {other.name}, which does not share {head.name}'s files"
            return [origin.problem(("port", "default"), what, "write a port, 65432 for one")]
    return []
