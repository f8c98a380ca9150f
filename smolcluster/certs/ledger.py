"""issued.json: what the authority has signed, so that it can revoke a node by its name."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from smolcluster.certs.places import NODES_HOME, RENEW, AuthorityFolder
from smolcluster.errors import InputError, Problem
from smolcluster.spec.base import Frozen

LEDGER_SCHEMA = 1


class Issued(Frozen):
    """One certificate. `serial` and `key` (SHA-256 of the public key) in hex; times in UTC; `pem` is its text."""

    node: str
    serial: str
    key: str
    names: tuple[str, ...]
    issued: datetime
    not_after: datetime
    pem: str
    revoked: datetime | None = None


class Ledger(Frozen):
    """All of them, oldest first. `crl_number` counts the lists of revoked ones that were signed."""

    schema_: int = Field(default=LEDGER_SCHEMA, alias="schema", serialization_alias="schema")
    crl_number: int = 0
    certificates: tuple[Issued, ...] = ()

    def of(self, node: str) -> tuple[Issued, ...]:
        """Those of one node."""
        return tuple(each for each in self.certificates if each.node == node)


def refuse_uncertified(folder: AuthorityFolder, nodes: Iterable[str]) -> None:
    """InputError naming the nodes of a plan that were revoked, or never had a certificate: they need not be asked."""
    ledger, problems = read_ledger(folder.issued), []
    for node in nodes:
        own = ledger.of(node)
        if not own:
            what, fix = f"{node} has no certificate of this cluster yet", RENEW
        elif all(each.revoked for each in own):
            what = f"{node} was revoked on {own[-1].revoked:%Y-%m-%d}"
            fix = f"leave it out, or, with the machine in your hands: remove {NODES_HOME}/{node} on it, then {RENEW}"
        else:
            continue
        problems.append(Problem(str(folder.issued), 0, "", what, fix))
    if problems:
        raise InputError(problems)


def read_ledger(path: Path) -> Ledger:
    """InputError if it cannot be read, or is a newer version's: then nothing could be revoked by name."""
    fix = "put it back from a copy: without it no lost node can be revoked"
    try:
        ledger = Ledger.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError([Problem(str(path), 0, "", "is missing", fix)]) from error
    except (OSError, ValidationError) as error:
        why = getattr(error, "strerror", None) or f"it is not what it should be ({str(error).splitlines()[0]})"
        raise InputError([Problem(str(path), 0, "", f"cannot be read: {why}", fix)]) from error
    if ledger.schema_ != LEDGER_SCHEMA:
        what = f"is version {ledger.schema_}; this smolcluster reads version {LEDGER_SCHEMA}"
        raise InputError([Problem(str(path), 0, "schema", what, "upgrade smolcluster")])
    return ledger
