"""`python -m smolcluster enroll HOST...`: first contact. Copies your SSH key with a password asked once."""

from __future__ import annotations

import getpass
import importlib.util
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from smolcluster.commands.enrolling.flow import Enrolling
from smolcluster.commands.enrolling.hostkey import KnownHosts
from smolcluster.commands.enrolling.types import MissingExtraError, Outcome, Target
from smolcluster.commands.enrolling.userkey import UserKey, load_or_make
from smolcluster.errors import ConfigError, PeerError, Problem


def enroll(
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...", help="Machines, as HOST or USER@HOST.")],
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="Who to be there.", show_default="your name here")
    ] = None,
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Where their sshd listens.")] = 22,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Your private key, made if there is none.", show_default="~/.ssh/id_ed25519"),
    ] = None,
    known_hosts: Annotated[
        Path | None,
        typer.Option("--known-hosts", help="Where known hosts are kept.", show_default="~/.ssh/known_hosts"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Trust new host keys without asking.")] = False,
) -> None:
    """Let the playbooks reach machines over SSH: show each host's key, ask for the password once, copy your key.

    The password is read from the terminal, or from stdin's first line when that is no terminal; never from the command
    line. Exit 3 if any host failed.
    """
    if importlib.util.find_spec("paramiko") is None:
        raise MissingExtraError
    # Its threads report every failed login as a traceback; the table says it in words.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    targets = _targets(hosts, user or getpass.getuser(), port)
    path = (key or Path.home() / ".ssh" / "id_ed25519").expanduser()
    known = KnownHosts((known_hosts or Path.home() / ".ssh" / "known_hosts").expanduser())

    @cache
    def mine() -> UserKey:
        found = load_or_make(path)
        if found.made:
            typer.echo(f"made a new key: {found.key.fingerprint}", err=True)
        return found

    @cache
    def password() -> str:
        return _ask_password(targets)

    if path.exists():
        # One that cannot be used is said before any host is asked; a new one is made for a host that is there.
        mine()
    job = Enrolling(mine, known, confirm=lambda question: _confirm(question, yes), password=lambda _: password())
    outcomes = [job.enroll(target) for target in targets]
    _table(outcomes)
    failed = [str(outcome.target) for outcome in outcomes if not outcome.ok]
    if failed:
        raise PeerError(f"not enrolled: {', '.join(failed)}")


def _targets(hosts: list[str], user: str, port: int) -> list[Target]:
    targets = [Target.parse(text, user, port) for text in hosts]
    bad = [text for text, target in zip(hosts, targets, strict=True) if not target.host or not target.user]
    if bad:
        raise ConfigError([Problem("", 0, "HOST", f"{text!r} names no machine", "HOST or USER@HOST") for text in bad])
    return list(dict.fromkeys(targets))


def _confirm(question: str, yes: bool) -> bool:
    typer.echo(question, err=True)
    if yes:
        return True
    if not sys.stdin.isatty():
        typer.echo("Nobody is here to confirm it. Compare it yourself, then call again with --yes.", err=True)
        return False
    return typer.confirm("Is this the right machine?", default=False, err=True)


def _ask_password(targets: list[Target]) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    users = ", ".join(sorted({target.user for target in targets}))
    where = "these hosts" if len(targets) > 1 else targets[0].host
    return getpass.getpass(f"Password of {users} on {where}: ")


def _table(outcomes: list[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("host", "", "host key", "result")
    for outcome in outcomes:
        mark = Text("ok", style="green") if outcome.ok else Text("failed", style="red")
        # As text: a host's own words are not markup.
        table.add_row(Text(str(outcome.target)), mark, Text(outcome.fingerprint), Text(outcome.note))
    Console().print(table)
