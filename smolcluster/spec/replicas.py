"""How many pipelines of the same stages train side by side (mp), and whether the ranks are as many as that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from smolcluster.errors import Problem
from smolcluster.spec.clusterfile import MpFile, StageEntry
from smolcluster.spec.document import display
from smolcluster.spec.layers import Merged
from smolcluster.spec.problems import listed
from smolcluster.spec.resumed import Earlier

_KEY = ("replicas",)
_LEAST_STAGES = 2


@dataclass
class Pipelines:
    """How many there are, and how many of the machines, the first ones, have a rank in them."""

    replicas: int
    machines: int
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def given_pipelines(file: MpFile, origin: Merged, entries: Sequence[StageEntry]) -> tuple[int, list[Problem]]:
    """How many pipelines `stages` make, and what is wrong with their hosts."""
    counts = [len(entry.host) for entry in entries]
    problems = [
        origin.problem(
            ("stages", index, "host"),
            f"{listed(entry.host)}: {_machines(count)}, and {entries[0].layers} has {_machines(counts[0])}",
            "name as many for all layers: the first of each form a pipeline, the second the next",
        )
        for index, (entry, count) in enumerate(zip(entries, counts, strict=True))
        if count != counts[0]
    ]
    if not problems and file.replicas not in (None, counts[0]):
        what = f"says {file.replicas}, but `stages` names {_machines(counts[0])} for the same layers"
        fix = f"leave it out, or name {file.replicas} for each range of layers, as in host: [mini1, pi5]"
        problems.append(origin.problem(_KEY, what, fix))
    return counts[0], problems


def wanted_pipelines(
    file: MpFile, origin: Merged, ranks: Sequence[int], names: Sequence[str], named: bool, earlier: Earlier | None
) -> Pipelines:
    """The pipelines that machines with so many `ranks` form. Machines that nobody `named` may be left out, and what an
    earlier run had is not insisted on.
    """
    wanted, count = file.replicas or 1, sum(ranks)
    found = Pipelines(wanted, len(ranks))
    if wanted == 1 or (count % wanted == 0 and count >= _LEAST_STAGES * wanted):
        return found
    source = origin.source(_KEY)
    if earlier is not None and source is not None and source.file == display(earlier.file):
        found.replicas = 1
        found.notes.append(origin.note(_KEY, wanted, "1", f"now there are {_ranks(count)}"))
        return found
    fewer = [n for n in range(len(ranks)) if not sum(ranks[:n]) % wanted and sum(ranks[:n]) >= _LEAST_STAGES * wanted]
    if fewer and not named:
        left = names[fewer[-1] :]
        verb = "is" if len(left) == 1 else "are"
        found.notes.append(
            f"mp: {_ranks(count)} cannot form {wanted} pipelines of as many stages, so {listed(left)} {verb} left out"
        )
        found.machines = fewer[-1]
        return found
    what = f"{_ranks(count)} ({listed(names)}) cannot form {wanted} pipelines of as many stages"
    if count < _LEAST_STAGES * wanted:
        what = f"{wanted} pipelines of two stages or more take {_LEAST_STAGES * wanted} ranks, and there are {count}"
        what += f" ({listed(names)})"
    ways = [f"name others: --nodes {','.join(names[: fewer[-1]])}"] if fewer else []
    fits = [n for n in range(2, count) if not count % n and count >= _LEAST_STAGES * n]
    ways.append(f"write replicas: {listed(str(n) for n in (1, *fits)).replace(', ', ' or ')}")
    if count < _LEAST_STAGES * wanted:
        ways.append("take --strategy classicdp, whose ranks hold all layers")
        ways.insert(0, "name more machines (--nodes)")
    found.problems.append(origin.problem(_KEY, what, ", or ".join(ways)))
    return found


def batch_problems(origin: Merged, replicas: int, batch_size: int) -> list[Problem]:
    """A batch that is too small to be shared out."""
    if batch_size >= replicas:
        return []
    what = f"{replicas} pipelines cannot share a batch of {batch_size} (training.batch_size)"
    return [origin.problem(_KEY, what, f"write training.batch_size: {replicas} or more")]


def _machines(count: int) -> str:
    return f"{count} machine{'' if count == 1 else 's'}"


def _ranks(count: int) -> str:
    return f"{count} rank{'' if count == 1 else 's'}"
