"""`init`: asks (and, if wanted, looks on the network) which machines there are, and writes the inventory.

Nothing is guessed silently: what was found is shown and asked about; what was assumed is printed, and written down.
"""

from __future__ import annotations

import ipaddress
import platform
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolcluster.errors import ConfigError, InputError, PeerError, Problem

if TYPE_CHECKING:
    from smolcluster.network.found import FoundHost
    from smolcluster.network.homefile import Answers, Edge, Machine
    from smolcluster.network.mdns import Offer

_HOST = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_CONNECT_S, _ANSWER_S = 5, 120.0
_KINDS = ("macos", "linux", "windows", "ipados")


def init(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("inventory/home.smol.yml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
    scan: Annotated[
        str | None,
        typer.Option("--scan", metavar="ADDRESS", help="Look for machines by mDNS, from this own address."),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=60, help="How long to look.")] = 3.0,
    group: Annotated[
        str, typer.Option("--mdns", metavar="HOST:PORT", help="Where the question goes.")
    ] = "224.0.0.251:5353",
) -> None:
    """Write an inventory from what you say and, with --scan, from what is found on your network."""
    from smolcluster.network.homefile import assumptions, home_file
    from smolcluster.runtime.runfolder import write_atomic

    if out.exists() and not force:
        what, fix = "is there already, and may hold your work", "give another --out, or --force to overwrite it"
        raise ConfigError([Problem(str(out), 0, "", what, fix)])
    offers = _scan(scan, seconds, group) if scan is not None else ()
    answers = _ask(offers, scan)
    text = home_file(answers)
    _validate(text)
    write_atomic(out, text)
    typer.echo("assumed:")
    for words in assumptions(answers):
        typer.echo(f"  - {words}")
    typer.echo(f"wrote {out}; look it over, then: python -m smolcluster check -i {out}")


def _scan(own: str, seconds: float, group: str) -> tuple[Offer, ...]:
    from smolcluster.network.mdns import browse
    from smolcluster.topology import Endpoint

    try:
        target = Endpoint.parse(group)
        ipaddress.IPv4Address(own)
    except ValueError as error:
        fix = "an IPv4 address of this machine, as 192.168.1.20"
        raise ConfigError([Problem("", 0, "--scan", str(error), fix)]) from None
    try:
        offers = browse(own, seconds, (target.host, target.port))
    except OSError as error:
        raise PeerError(f"cannot look for machines from {own}: {error.strerror or error}") from None
    typer.echo(f"{len(offers)} found from {own} in {seconds:g} s" + ("" if offers else ": nobody offers SSH there"))
    return offers


def _ask(offers: tuple[Offer, ...], scanned_from: str | None) -> Answers:
    """All questions, in order."""
    from smolcluster.network.homefile import Answers, Machine
    from smolcluster.spec.machines import own_kind

    name = _name("A name for the cluster", "home", set())
    here = _name("This machine's name in it", _label(platform.node()), set())
    machines = [
        Machine(name=here, kind=own_kind(), host=f"{_label(platform.node())}.local", local=True, source="this machine")
    ]
    for offer in offers:
        machines += _found(offer, {machine.name for machine in machines})
    while True:
        more = typer.prompt("Another machine, as HOST or USER@HOST (empty: no more)", default="", show_default=False)
        if not more:
            break
        user, _, host = more.rpartition("@")
        if not _HOST.match(host) or (user and not _USER.fullmatch(user)):
            typer.echo(f"  {more} is no host name or address, and no USER@HOST")
            continue
        machines.append(_machine(host, 22, "named by you", {machine.name for machine in machines}, user or None))
    medium = _choice("What joins them", ("wifi", "ethernet"), "wifi")
    fabric, cabled = _fabric(machines)
    subnet = _subnet_of(scanned_from)
    return Answers.model_validate({
        "name": name, "controller": here, "machines": tuple(machines), "medium": medium, "subnet": subnet,
        "fabric": fabric, "cabled": cabled, "edges": _edges(machines),
    })  # fmt: skip


def _found(offer: Offer, taken: set[str]) -> list[Machine]:
    """A machine that a scan found, if the person wants it."""
    where = f"{offer.host} ({', '.join(offer.addresses) or 'no address'})"
    if not _HOST.match(offer.host):
        typer.echo(f"  left out: {offer.host!r} is no host name")
        return []
    if not typer.confirm(f"Found {where}, which offers SSH. Take it?", default=True):
        return []
    return [_machine(offer.host, offer.port, f"found by mDNS at {', '.join(offer.addresses) or 'no address'}", taken)]


def _machine(host: str, port: int, source: str, taken: set[str], user: str | None = None) -> Machine:
    from smolcluster.network.homefile import Machine
    from smolcluster.spec.machines import kind_from_name

    name = _name(f"  A name for {host}", _label(host), taken)
    kind: str | None = kind_from_name(name)
    if kind is None:
        kind = _choice(f"  {name} does not tell what it is", _KINDS, None)
    else:
        typer.echo(f"  {name}: taken for {kind}, by its name")
    return Machine.model_validate({
        "name": name, "kind": kind, "host": host, "user": user, "ssh_port": port, "source": source,
    })  # fmt: skip


def _fabric(machines: list[Machine]) -> tuple[tuple[str, ...], str]:
    """The Macs on Thunderbolt cables, and how that is known: the Macs themselves know it, if they may be asked."""
    from smolcluster.network.parse.thunderbolt import cables_between

    asked = [machine for machine in machines if machine.kind == "macos" and not machine.local]
    macs = [machine.name for machine in machines if machine.kind == "macos"]
    if len(macs) < 2:
        return (), ""
    if len(asked) > 1 and typer.confirm("Ask the Macs over SSH how they are cabled?", default=False):
        hosts = []
        for machine in asked:
            host = ask_mac(machine)
            typer.echo(f"  {machine.name}: {'no answer' if host is None else f'{len(host.thunderbolt)} ports'}")
            hosts += [host] if host is not None else []
        cables = cables_between(hosts)
        for cable in cables:
            typer.echo(f"  {cable.a.node} ({cable.a.device}) is cabled to {cable.b.node} ({cable.b.device})")
        joined = {end.node for cable in cables for end in (cable.a, cable.b)}
        if joined and typer.confirm("Take that for the Thunderbolt wire?", default=True):
            return tuple(name for name in macs if name in joined), "found: each said what is at its ports"
    fabric = _said_fabric(macs)
    return fabric, "said by you: they are joined by Thunderbolt cables" if fabric else ""


def ask_mac(machine: Machine) -> FoundHost | None:
    """What a Mac says of itself over SSH (gather.py, on its stdin); None when it does not answer, or asks for more."""
    from smolcluster.network import gather
    from smolcluster.network.read import found_host

    who = ("-l", machine.user) if machine.user is not None else ()
    options = ("-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}", "-p", str(machine.ssh_port), *who)
    command = ["ssh", *options, "--", machine.host, "python3", "-", machine.name, machine.kind]
    script = Path(gather.__file__).read_text(encoding="utf-8")
    try:
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=_ANSWER_S)
        return found_host(done.stdout, machine.name) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, InputError):
        return None


def _said_fabric(macs: list[str]) -> tuple[str, ...]:
    question = f"Which Macs are joined by Thunderbolt cables, of {', '.join(macs)} (commas; empty: none)"
    while True:
        words = typer.prompt(question, default="", show_default=False).replace(",", " ").split()
        unknown = [word for word in words if word not in macs]
        if not unknown and len(words) != 1:
            return tuple(dict.fromkeys(words))
        typer.echo(f"  {', '.join(unknown)}: no Mac of that name" if unknown else "  a cable has two ends")


def _edges(machines: list[Machine]) -> tuple[Edge, ...]:
    from smolcluster.network.homefile import Edge

    macs = [machine.name for machine in machines if machine.kind in ("macos", "linux")]
    edges: list[Edge] = []
    for machine in machines:
        others = [name for name in macs if name not in (machine.name, *(edge.gateway for edge in edges))]
        if machine.kind != "linux" or machine.local or not others:
            continue
        question = f"Which machine's Ethernet is {machine.name} plugged into, of {', '.join(others)} (empty: none)"
        gateway = typer.prompt(question, default="", show_default=False)
        while gateway and gateway not in others:
            gateway = typer.prompt(f"  there is no such machine. {question}", default="", show_default=False)
        if gateway:
            too = typer.confirm(f"  Is {machine.name} on the router's network besides?", default=True)
            edges.append(Edge(node=machine.name, gateway=gateway, only=not too))
    return tuple(edges)


def _subnet_of(own: str | None) -> str | None:
    """The subnet of the network that was looked through: the OS knows it."""
    import psutil

    for addresses in psutil.net_if_addrs().values() if own is not None else ():
        for address in addresses:
            if address.address == own and address.netmask:
                return str(ipaddress.ip_network(f"{own}/{address.netmask}", strict=False))
    return None


def _validate(text: str) -> None:
    """Read the file as everything else will. A problem here is what the answers cannot be made into."""
    from smolcluster.spec.inventory import load_inventory

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "home.smol.yml"
        file.write_text(text, encoding="utf-8")
        try:
            load_inventory(file)
        except ConfigError as error:
            raise InputError([Problem("", p.line, p.key, p.what, p.fix) for p in error.problems]) from None


def _label(host: str) -> str:
    """The first part of a host name, as far as it can be a machine's name; nothing of an address."""
    label = re.sub(r"[^A-Za-z0-9_-]+", "-", host.split(".")[0]).strip("-_").lower()
    return "" if label.isdecimal() else label


def _name(question: str, default: str, taken: set[str]) -> str:
    while True:
        text: str = typer.prompt(question, default=default or None)
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", text) and text not in taken and text != "localhost":
            return text
        typer.echo("  letters, digits, - and _, a letter or digit first, and no name twice")


def _choice(question: str, words: tuple[str, ...], default: str | None) -> str:
    while True:
        text: str = typer.prompt(f"{question} ({', '.join(words)})", default=default)
        if text in words:
            return text
        typer.echo(f"  one of {', '.join(words)}")
