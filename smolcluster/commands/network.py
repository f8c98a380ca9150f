"""`network plan | diff | pairs | verify`: what the machines' networks should be, what would be done, what is wrong.

Pure but for reading the files it is given: it asks no machine and changes nothing. network.yml does both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolcluster.commands._inventory import default_inventory
from smolcluster.commands._request import DEFAULT_INVENTORY, InventoryOption, print_notes

if TYPE_CHECKING:
    from smolcluster.network.diff import Situation
    from smolcluster.network.found import FoundHost

app = typer.Typer(
    help="Plan and verify addresses, routes and forwarding of the inventory's machines.", no_args_is_help=True
)

FoundOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--found", "-f", help="What gather.py printed on a machine, a folder of such files, - for stdin. Repeatable."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


@app.command("plan")
def plan(inventory: InventoryOption = DEFAULT_INVENTORY, found: FoundOption = None) -> None:
    """Print the network as it should be, as JSON: addresses, routes, forwarding. Same inputs, same bytes."""
    situation = _situation(inventory, found)
    print_notes(situation.wanted.notes)
    sys.stdout.write(situation.wanted.to_json())


@app.command("diff")
def diff(
    inventory: InventoryOption = DEFAULT_INVENTORY, found: FoundOption = None, as_json: JsonOption = False
) -> None:
    """Print what would be done on each machine, and how it would be taken back. Exit code 2 if something forbids it."""
    from smolcluster.errors import ConfigError, InputError, Problem
    from smolcluster.network.actions import commands_of
    from smolcluster.network.diff import plan_network, turn
    from smolcluster.network.steps import described

    situation = _situation(inventory, found)
    print_notes(situation.wanted.notes)
    if not situation.found:
        what = "nobody knows what the machines have"
        raise InputError([Problem("", 0, "--found", what, "give what gather.py printed on each of them")])
    plans = plan_network(situation)
    problems = [problem for one in plans for problem in one.problems]
    if as_json and not problems:
        rows = [
            {
                "node": one.node,
                "turn": turn(one.node, situation),
                "text": described(one),
                "steps": [step.model_dump() for step in one.steps],
                "apply": commands_of(one.steps, range(1, len(one.steps) + 1)),
                "rollback": commands_of(one.rollback(), range(len(one.steps), 0, -1)),
            }
            for one in plans
        ]
        print(json.dumps({"schema": 1, "cluster": situation.cluster.name, "hosts": rows}, indent=2))
    elif not as_json:
        for one in plans:
            print(described(one))
    if problems:
        raise ConfigError(problems)


@app.command("pairs")
def pairs(inventory: InventoryOption = DEFAULT_INVENTORY, found: FoundOption = None) -> None:
    """Print what is to be measured between which addresses, as JSON: what network.yml asks probe.py for."""
    from smolcluster.network.expected import expected_pairs, lost_pairs
    from smolcluster.network.measuring import rounds, with_addresses

    situation = _situation(inventory, found, strict=False)
    asked = (situation.cluster, situation.wanted, dict(situation.found))
    known, untold = with_addresses(expected_pairs(*asked), situation.cluster, situation.found)
    untold += lost_pairs(*asked)
    print_notes((*situation.wanted.notes, *map(str, untold)))
    speeds = [[pair.model_dump() for pair in group] for group in rounds(known)]
    told = {"pairs": [pair.model_dump() for pair in known], "untold": [one.model_dump() for one in untold]}
    print(json.dumps({"schema": 1, **told, "rounds": speeds}, indent=2))


@app.command("verify")
def verify(
    measured: Annotated[
        Path,
        typer.Argument(
            help="A folder with NODE.pings.json, NODE.speed.PEER.json, NODE.neighbours.txt; or one JSON file, - for "
            "stdin. A file may hold {hosts: what gather.py printed, files: those of such a folder}.",
            show_default=False,
        ),
    ],
    inventory: InventoryOption = DEFAULT_INVENTORY,
    found: FoundOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write report.json, wanted.json and topology.svg into this folder.")
    ] = None,
) -> None:
    """Say what is wrong with the network, from measurements between all pairs. Exit code 3 if anything is."""
    from pydantic import ValidationError
    from rich.console import Console

    from smolcluster.errors import InputError, PeerError, Problem
    from smolcluster.network.expected import Measured, expected_pairs
    from smolcluster.network.findings import Verified, diagnose
    from smolcluster.network.measuring import measured_in, with_addresses
    from smolcluster.network.report import pairs_table, told, verification_files
    from smolcluster.runtime.runfolder import write_atomic

    text = "" if measured.is_dir() else _text(measured)
    files = {file.name: _text(file) for file in measured.iterdir() if file.is_file()} if measured.is_dir() else None
    asked = _asked(text)
    if asked is not None:
        files = asked
    situation = _situation(inventory, found, strict=False, more=text if asked is not None else "")
    print_notes(situation.wanted.notes)
    try:
        if files is not None:
            meant = expected_pairs(situation.cluster, situation.wanted, dict(situation.found))
            known, untold = with_addresses(meant, situation.cluster, situation.found)
            print_notes(map(str, untold))
            values = measured_in(files, known)
        else:
            values = Measured.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, what = ".".join(str(part) for part in first["loc"]), str(first["msg"])
        raise InputError([Problem(str(measured), 0, where, what, "write it as network.yml does")]) from None
    verified = Verified(situation.cluster, situation.wanted, situation.found, values)
    findings = diagnose(verified)
    if out is not None:
        for name, content in verification_files(verified, findings).items():
            write_atomic(out / name, content)
        if asked is not None:
            write_atomic(out / "asked.json", text)
    console = Console(soft_wrap=False)
    console.print(pairs_table(verified))
    for finding in findings:
        print(told(finding))
    failing = sum(finding.fails for finding in findings)
    if failing:
        raise PeerError(f"the network is not as it should be: {failing} found")


def _asked(text: str) -> dict[str, str] | None:
    """The measurements of a file that has the machines' own words too, by name; None when it is no such file."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    files = value.get("files") if isinstance(value, dict) else None
    return {str(name): str(content) for name, content in files.items()} if isinstance(files, dict) else None


def _situation(inventory: Path | None, found: list[Path] | None, strict: bool = True, more: str = "") -> Situation:
    """The inventory and the machines' own words, `more` of them as text. ConfigError with all problems, of which
    `strict` asks."""
    from smolcluster.errors import ConfigError
    from smolcluster.network.diff import Situation
    from smolcluster.network.parse.thunderbolt import cables_between
    from smolcluster.network.refuse import refuse, router_subnets
    from smolcluster.network.wanted import wanted_network
    from smolcluster.spec.inventory import read_inventory

    cluster, document, notes = read_inventory(inventory or default_inventory())
    texts = [(str(file), _text(file)) for path in found or [] for file in _files(path)]
    texts += [("-", more)] if more else []
    hosts = _found(texts, {node.name for node in cluster.nodes})
    macs = [host for host in hosts.values() if host.thunderbolt]
    cables = cables_between(macs) if macs else None
    problems = refuse(cluster, document, hosts, cables)
    if problems and strict:
        raise ConfigError(problems)
    wanted = wanted_network(cluster, cables, tuple(router_subnets(hosts, cluster)))
    return Situation(cluster, document, wanted.model_copy(update={"notes": (*notes, *wanted.notes)}), hosts)


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.json")) if path.is_dir() else [path]


def _found(texts: list[tuple[str, str]], names: set[str]) -> dict[str, FoundHost]:
    from smolcluster.errors import InputError, Problem
    from smolcluster.network.read import found_hosts
    from smolcluster.spec.problems import did_you_mean, listed

    hosts: dict[str, FoundHost] = {}
    for file, text in texts:
        for host in found_hosts(text, file):
            if host.node not in names:
                fix = did_you_mean(host.node, names, f"machines: {listed(sorted(names))}")
                raise InputError([Problem(file, 0, "node", f'the inventory has no machine "{host.node}"', fix)])
            hosts[host.node] = host
    return hosts


def _text(path: Path) -> str:
    from smolcluster.errors import InputError, Problem

    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise InputError([Problem(str(path), 0, "", f"cannot be read: {reason}", "check the path")]) from None
