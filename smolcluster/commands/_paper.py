"""What `simulate` is told: machines and how many of each, the wires between them. All that is wrong at once."""

from __future__ import annotations

import re
from collections.abc import Sequence

from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.arithmetic import block_params
from smolcluster.plan.paper import Owned, cost_from, cost_on, from_profile, pace_on
from smolcluster.plan.profile import Profile
from smolcluster.spec.paper import MachinesTable, PaperWire
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.run import GPTSpec, ModelSpec

MOST_MACHINES = 1000
_PART = re.compile(r"(?:(\d+)\s*x\s*)?([A-Za-z0-9][\w.-]*)\s*(?:=\s*([\d.]+(?:e\d+)?)\s*(?::\s*(\d+))?)?", re.ASCII)
_EXAMPLE = "4x mac-mini-m4, 2x pi5, mine=12000:16384"


def owned_of(
    nodes: str, links: Sequence[str], table: MachinesTable, profile: Profile | None, model: ModelSpec
) -> list[Owned]:
    """The machines of `--nodes`, each with its wire. ConfigError with every Problem."""
    problems: list[Problem] = []
    everybody, own_wires = _wires(links, table, problems)
    owned: list[Owned] = []
    for part in (text.strip() for text in nodes.split(",") if text.strip()):
        found = _PART.fullmatch(part)
        if found is None:
            what = f'"{part}" is no number of machines, name, tokens/s and memory in MB'
            problems.append(Problem("--nodes", 0, "", what, f'write as "{_EXAMPLE}"'))
            continue
        count, name = int(found[1] or 1), found[2]
        if any(one.name == name for one in owned):
            problems.append(Problem("--nodes", 0, name, "is named twice", f"write one number, as 4x {name}"))
            continue
        wire = own_wires.get(name) or everybody
        one = _one(found, count, wire, table, profile, model, problems)
        if one is not None:
            owned.append(one)
    if not problems and not owned:
        problems.append(Problem("--nodes", 0, "", "names no machine", f'write as "{_EXAMPLE}"'))
    total = sum(one.count for one in owned)
    if total > MOST_MACHINES:
        what = f"{total} machines are more than the {MOST_MACHINES} that are simulated"
        problems.append(Problem("--nodes", 0, "", what, "name fewer"))
    for name in own_wires:
        if not problems and name not in {one.name for one in owned}:
            fix = did_you_mean(name, [one.name for one in owned], "name a machine of --nodes")
            problems.append(Problem("--link", 0, name, "is none of the machines", fix))
    if problems:
        raise ConfigError(problems)
    return owned


def _one(
    found: re.Match[str], count: int, wire: PaperWire | None, table: MachinesTable, profile: Profile | None,
    model: ModelSpec, problems: list[Problem],
) -> Owned | None:  # fmt: skip
    name = found[2]
    if count < 1:
        problems.append(Problem("--nodes", 0, name, "0 of them are none", "leave it out"))
        return None
    if found[3] is not None:
        speed = _positive(found[3])
        if speed is None:
            what = f"{found[3]} is no speed"
            problems.append(Problem("--nodes", 0, name, what, f"write its tokens/s, as {name}=12000"))
            return None
        memory = int(found[4]) if found[4] else None
        return Owned(name, count, cost_from(model, speed), memory, wire or table.wires["1g"], None, estimated=False)
    if profile is not None and name in profile.speeds:
        return from_profile(profile, name, count, wire or table.wires["1g"], model)
    machine = table.machines.get(name)
    if machine is None:
        known = [*(profile.speeds if profile is not None else ()), *table.machines]
        fix = did_you_mean(name, known, f"there are {listed(known)}; or tell its tokens/s: {name}=12000:16384")
        problems.append(Problem("--nodes", 0, name, "is no machine that is known", fix))
        return None
    own = wire or table.wires.get(machine.wire)
    if own is None:
        fix = did_you_mean(machine.wire, table.wires, f"there are {listed(table.wires)}")
        what = f'there is no wire "{machine.wire}"'
        problems.append(Problem("machines.yaml", 0, f"machines.{name}.wire", what, fix))
        return None
    pace = None
    if isinstance(model, GPTSpec):
        pace = pace_on(machine, table.assumed, block_params(model), model.vocab_size * model.model_dim)
    cost = cost_on(machine, table.assumed, model)
    return Owned(name, count, cost, machine.memory_mb, own, pace, estimated=True)


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _wires(
    links: Sequence[str], table: MachinesTable, problems: list[Problem]
) -> tuple[PaperWire | None, dict[str, PaperWire]]:
    """The wire of everybody, and those of single kinds: `--link 1g --link pi5=wifi`."""
    everybody: PaperWire | None = None
    own: dict[str, PaperWire] = {}
    for text in (part.strip() for link in links for part in link.split(",") if part.strip()):
        name, _, kind = text.rpartition("=")
        wire = table.wires.get(kind.strip())
        if wire is None:
            fix = did_you_mean(kind, table.wires, f"there are {listed(table.wires)}")
            problems.append(Problem("--link", 0, text, "is no wire that is known", fix))
        elif name:
            own[name.strip()] = wire
        else:
            everybody = wire
    return everybody, own
