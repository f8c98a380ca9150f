"""What a person sends with a report of trouble, or of where smolcluster was tried: one archive, of what is named here.

    about.json        when, versions, this machine's system, processor and memory
    plan.json summary.json profile.json
    nodes/<node>/job.json supervisor.txt            logs: their ends
    nodes/<node>/rank-<r>/result.json generation.json pace.json serving.json log.txt
    nodes/<node>/rank-<r>/metrics.jsonl             thinned, the first and the last record of each kind kept
    setup.json        the newest report of setup.yml beside the run
    network.json      the newest of network.yml
    check.json        the newest of check.yml

Where there is no run yet these three are looked for all the same. Nothing else of a run's folder is looked at but its
secret files, so that what stands in them is taken out wherever else it may stand. Everything goes through anonymous.py.
"""

from __future__ import annotations

import getpass
import io
import json
import socket
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smolcluster.observe.about import about
from smolcluster.observe.anonymous import Anonymous
from smolcluster.plan.types import Plan, ServePlan
from smolcluster.runtime.runfolder import RunFolder, read_json, write_atomic

_TAIL_BYTES = 200_000
_MOST_RECORDS = 500
_OF_RUN = ("plan.json", "summary.json", "profile.json")
_OF_NODE = ("job.json",)
_OF_RANK = ("result.json", "generation.json", "pace.json", "serving.json")
# Files whose content must stand nowhere.
_SECRETS = ("secret", "api_key", "control.json", "links_used")


@dataclass(frozen=True)
class Entry:
    """A file of the archive."""

    name: str
    text: str


def entries_of(folder: RunFolder, plan: Plan | ServePlan, doctor: Path | None = None) -> tuple[Entry, ...]:
    """The archive's files, of a run here: anonymous, in order. What cannot be read is left out."""
    nodes = tuple(dict.fromkeys(rank.node for rank in plan.ranks))
    found = [*_documents(folder.path, _OF_RUN)]
    for node in nodes:
        found += _documents(folder.node(node), _OF_NODE, f"nodes/{node}/")
        found += _log(folder.supervisor_log(node), f"nodes/{node}/supervisor.txt")
    for rank in plan.ranks:
        here, name = folder.rank(rank.node, rank.rank), f"nodes/{rank.node}/rank-{rank.rank}/"
        found += _documents(here, _OF_RANK, name)
        found += _log(folder.log(rank.node, rank.rank), f"{name}log.txt")
        found += _metrics(folder.metrics(rank.node, rank.rank), f"{name}metrics.jsonl")
    beside = [*_beside(folder.path.parent, doctor)]
    return _entries(found, beside, nodes, _users(folder.path), _secrets_in(folder.path), _hosts_of(plan))


def entries_without_run(runs: Path, doctor: Path | None = None) -> tuple[Entry, ...]:
    """The same where there is no run: of what the other playbooks left in its folder. None where they left nothing."""
    beside = [*_beside(runs, doctor)]
    return _entries([], beside, (), _users(runs), ()) if beside else ()


def write(path: Path, entries: tuple[Entry, ...], made: float) -> None:
    """Write a .tar.gz of the entries, whole or not at all. `made`: the time that the files are given. OSError."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for entry in entries:
            data = entry.text.encode()
            # Nobody's name, number or rights go along.
            member = tarfile.TarInfo(f"smolcluster-report/{entry.name}")
            member.size, member.mtime, member.mode = len(data), int(made), 0o644
            archive.addfile(member, io.BytesIO(data))
    write_atomic(path, content.getvalue())


def _users(folder: Path) -> Iterator[str]:
    yield getpass.getuser()
    with suppress(OSError, KeyError, NotImplementedError):
        yield folder.owner()


def _secrets_in(path: Path) -> Iterator[str]:
    """The words in a run's secret files, also where there are several of a kind."""
    for file in (one for name in _SECRETS for one in path.rglob(name) if one.is_file()):
        with suppress(OSError):
            text = file.read_text(encoding="utf-8", errors="replace")
            yield text.strip()
            # A port is no secret, and stands in many a place.
            yield from (word for word in text.replace('"', " ").replace(",", " ").split() if len(word) >= 12)


# A file's name, and its text or the JSON objects in it.
_Raw = tuple[str, str | list[object]]


def _documents(folder: Path, names: tuple[str, ...], under: str = "") -> Iterator[_Raw]:
    for name in names:
        with suppress(OSError, ValueError):
            yield under + name, [read_json(folder / name)]


def _beside(runs: Path, doctor: Path | None) -> Iterator[_Raw]:
    """What setup.yml, network.yml and check.yml found last; of all machines, not of those in this run alone."""
    setup = max(runs.glob("setup/*/setup.json"), default=None)
    network = max(runs.glob("network/*/report.json"), default=None)
    check = doctor or max(runs.glob("check/*/check.json"), default=None)
    for path, name in ((setup, "setup.json"), (network, "network.json"), (check, "check.json")):
        if path is not None:
            yield from ((name, content) for _, content in _documents(path.parent, (path.name,)))


def _entries(
    found: list[_Raw], beside: list[_Raw], nodes: Iterable[str], users: Iterable[str], secrets: Iterable[str],
    dialled: Iterable[str] = (),
) -> tuple[Entry, ...]:  # fmt: skip
    """The files, with everything replaced that is known by name, or was learnt from one of them."""
    machines = (*nodes, *_named(beside, machines=("name",), pairs=("src", "dst")))
    # What the inventory and the machine itself call it may be neither.
    called = (
        *_named(beside, machines=("address", "hostname"), ways=("address",), pairs=("source", "destination")),
        *dialled,
    )
    hosts = (socket.gethostname(), *(name for name in called if name != "localhost"))
    networks = _listed(beside, ways="networks", pairs="networks")
    hidden = Anonymous(machines, hosts, (*users, *_named(beside, machines=("user",))), secrets, networks)
    raw: list[_Raw] = [("about.json", [about()]), *found, *beside]
    # All is read before anything is replaced: a name may be known as one only by what stands in another file.
    hidden.learn("\n".join(text for _, content in raw for text in _texts(content)))
    return tuple(Entry(hidden.text(name), _shown(name, content, hidden)) for name, content in raw)


def _named(reports: list[_Raw], **wanted: tuple[str, ...]) -> Iterator[str]:
    """The names in some fields of a report's rows: `pairs=("src", "dst")`."""
    for key, row in _rows(reports, wanted):
        yield from (name for field in wanted[key] if isinstance(name := row.get(field), str) and name)


def _listed(reports: list[_Raw], **wanted: str) -> Iterator[str]:
    """The names in a field of a report's rows that is a list of them."""
    for key, row in _rows(reports, wanted):
        names = row.get(wanted[key])
        yield from (name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _rows(reports: list[_Raw], keys: Iterable[str]) -> Iterator[tuple[str, dict[str, object]]]:
    for report in (one for _, documents in reports for one in documents if isinstance(one, dict)):
        for key in keys:
            rows = report.get(key)
            yield from ((key, row) for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()


def _hosts_of(plan: Plan | ServePlan) -> Iterator[str]:
    """Names and addresses under which the ranks, the API and the tablets are dialled."""
    for rank in plan.ranks:
        yield from (*rank.listen, *rank.peers.values())
    if isinstance(plan, ServePlan):
        yield from (*plan.api.listen, *(tablet.host for tablet in plan.tablets.values()))


def _texts(value: object) -> Iterator[str]:
    """All texts in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for one in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _texts(one)


def _log(path: Path, name: str) -> Iterator[_Raw]:
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
        # The first line may be half of one: half a secret would not be known as one.
        yield name, text if size <= _TAIL_BYTES else text.partition("\n")[2]


def _metrics(path: Path, name: str) -> Iterator[_Raw]:
    """At most so many records, evenly spread, with each kind's first and last."""
    with suppress(OSError):
        records = [record for line in _lines(path) if (record := _record(line))]
        kinds: dict[frozenset[str], list[int]] = {}
        for number, record in enumerate(records):
            kinds.setdefault(frozenset(record), []).append(number)
        step = max(1, -(-len(records) // _MOST_RECORDS))
        kept = {*range(0, len(records), step), *(one for each in kinds.values() for one in (each[0], each[-1]))}
        yield name, [records[number] for number in sorted(kept)]


def _lines(path: Path) -> list[str]:
    """What is no text, as after a power cut, damages its line alone."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _record(line: str) -> dict[str, object] | None:
    with suppress(ValueError, RecursionError):
        value = json.loads(line)
        return value if isinstance(value, dict) else None
    return None


def _shown(name: str, content: str | list[object], hidden: Anonymous) -> str:
    if isinstance(content, str):
        return hidden.text(content)
    indent = None if name.endswith(".jsonl") else 2
    return "".join(json.dumps(hidden.value(one), indent=indent) + "\n" for one in content)
