"""`certificate`: the cluster's authority and its nodes' certificates. certificates.yml calls these in their order:
init, then request on a node, sign on the controller, install on the node.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolcluster.commands._inventory import default_inventory, naming
from smolcluster.commands._request import DEFAULT_INVENTORY, InventoryOption
from smolcluster.errors import ConfigError, InputError, Problem

if TYPE_CHECKING:
    from smolcluster.certs.places import AuthorityFolder, NodeFolder

app = typer.Typer(
    help="TLS certificates of the cluster: its authority on the controller, a key on each node.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Node = Annotated[str, typer.Argument(help="The machine's name in the inventory.")]
CaOption = Annotated[
    Path | None,
    typer.Option("--ca", help="The authority's folder, on the controller.", show_default="~/.smolcluster/ca"),
]
FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="The node's folder.", show_default="~/.smolcluster/certs/NODE"),
]
# A request and an answer have a few kB.
_MOST_BYTES = 1 << 20


@app.command()
def init(ca: CaOption = None) -> None:
    """Controller: make the cluster's authority where there is none, and print its fingerprint."""
    from smolcluster.certs.authority import Authority
    from smolcluster.certs.checking import authority_fingerprint

    folder = _authority(ca)
    before = authority_fingerprint(folder)
    Authority.create(folder)
    if not before:
        typer.echo(
            f"made the cluster's authority in {folder.path}: keep a copy of that folder in a safe place", err=True
        )
    typer.echo(authority_fingerprint(folder))


@app.command()
def request(node: Node, folder: FolderOption = None) -> None:
    """Node: print a request for a certificate. Makes the key where there is none; it never leaves this machine."""
    from smolcluster.certs.node import make_request

    where = _node(folder, node)
    text, made = make_request(where, node)
    if made:
        typer.echo(f"made a key in {where.path}", err=True)
    typer.echo(text, nl=False)


@app.command()
def sign(
    node: Node,
    names: Annotated[
        str | None,
        typer.Option(help="Names and addresses it is reached at, a,b.", show_default="those of the inventory"),
    ] = None,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    ca: CaOption = None,
) -> None:
    """Controller: sign a node's request (on stdin), and print what the node is to install."""
    from smolcluster.certs.authority import Authority
    from smolcluster.certs.names import names_of
    from smolcluster.spec.inventory import load_inventory

    if names is not None:
        wanted = tuple(name.strip() for name in names.split(",") if name.strip())
    else:
        inventory = inventory or default_inventory()
        cluster = load_inventory(inventory)
        if node not in {each.name for each in cluster.nodes}:
            known = ", ".join(each.name for each in cluster.nodes)
            raise ConfigError([Problem("", 0, "NODE", f"the inventory has no machine {node}", f"one of {known}")])
        wanted = names_of(cluster, node)
    with naming(inventory) if inventory else nullcontext():
        bundle, new = Authority(_authority(ca)).sign(_stdin("request"), node, wanted)
    if new:
        typer.echo(f"signed a certificate for {node}", err=True)
    typer.echo(bundle.model_dump_json(by_alias=True))


@app.command()
def install(node: Node, folder: FolderOption = None) -> None:
    """Node: take in what `sign` printed (on stdin), if this node could take part with it; else nothing changes."""
    from smolcluster.certs.node import install as take_in
    from smolcluster.certs.node import read_bundle

    changed = take_in(_node(folder, node), node, read_bundle(_stdin("answer")))
    typer.echo("installed" if changed else "as it was")


@app.command()
def revoke(node: Node, ca: CaOption = None) -> None:
    """Controller: take back a lost node's certificates. certificates.yml then tells the other nodes."""
    from smolcluster.certs.authority import Authority

    count = Authority(_authority(ca)).revoke(node)
    noun = "certificate" if count == 1 else "certificates"
    typer.echo(f"revoked {count} {noun} of {node}" if count else f"{node} was revoked already")


@app.command("crl")
def crl(ca: CaOption = None) -> None:
    """Controller: print what nodes install when only the list of revoked certificates is new."""
    from smolcluster.certs.authority import Authority

    typer.echo(Authority(_authority(ca)).bundle_without().model_dump_json(by_alias=True))


@app.command("list")
def list_all(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False, ca: CaOption = None) -> None:
    """Controller: every certificate that was signed, until when it is good, and whether it was revoked."""
    from smolcluster.certs.authority import Authority

    certificates = Authority(_authority(ca)).ledger().certificates
    if as_json:
        rows = [each.model_dump(mode="json", exclude={"pem"}) for each in certificates]
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max((len(each.node) for each in certificates), default=0)
    for each in certificates:
        state = f"revoked {each.revoked:%Y-%m-%d}" if each.revoked else f"until   {each.not_after:%Y-%m-%d}"
        typer.echo(f"{each.node:<{width}}  {state}  {', '.join(each.names)}")


@app.command()
def check(node: Node, folder: FolderOption = None, ca: CaOption = None) -> None:
    """Node: whether its certificate would be accepted by the others. Exit code 2 tells what is wrong."""
    from smolcluster.certs.checking import authority_fingerprint, check_node, fingerprint
    from smolcluster.certs.node import days_left

    where = _node(folder, node)
    authority = authority_fingerprint(_authority(ca))
    if not authority and where.ca.is_file():  # on a node that is no controller
        try:
            authority = fingerprint(where.ca)
        except (OSError, ValueError) as error:
            raise InputError([Problem(str(where.ca), 0, "", f"cannot be read: {error}", "install it again")]) from error
    check_node(where, node, authority)
    typer.echo(f"ok: {node}, of the authority {authority[:12]}, {days_left(where)} days left")


def _authority(path: Path | None) -> AuthorityFolder:
    from smolcluster.certs.places import AuthorityFolder, authority_folder

    return AuthorityFolder(path.absolute()) if path is not None else authority_folder()


def _node(path: Path | None, node: str) -> NodeFolder:
    from smolcluster.certs.places import NodeFolder, node_folder

    return NodeFolder(path.absolute()) if path is not None else node_folder(node)


def _stdin(what: str) -> str:
    """What another command printed. A terminal would wait for ever."""
    if sys.stdin.isatty():
        raise InputError([Problem("", 0, "stdin", f"the {what} is read from stdin", f"... < {what}.txt")])
    return sys.stdin.read(_MOST_BYTES)
