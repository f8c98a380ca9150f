"""What is wrong, or soon will be, with the machines' certificates: as the cluster's authority has them noted, and as
each machine finds its own. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from smolcluster.certs.authority import RENEWED_BELOW
from smolcluster.certs.ledger import Ledger
from smolcluster.certs.places import NODES_HOME, RENEW
from smolcluster.doctor.machines import Certificate, Finding, Machine


def certificate_findings(
    ledger: Ledger, authority: str, machines: Iterable[Machine], needing: Collection[str], now: datetime
) -> list[Finding]:
    """Of the machines that answered. `authority` is its fingerprint; `needing`: the nodes of a run of which a link is
    encrypted, which cannot start with one that is refused.
    """
    found = []
    for machine in machines:
        if machine.looked is None:
            continue
        needs = machine.name in needing
        what, fix = _noted(ledger, machine.name, now) if needs or ledger.of(machine.name) else ("", "")
        if not what and needs:
            what, fix = _its_own(machine.looked.certificate, authority)
        if what:
            found.append(Finding(node=machine.name, what=what, fix=fix, blocks=needs))
        elif left := _soon(ledger, machine.name, now):
            found.append(Finding(node=machine.name, what=left, fix=RENEW))
    return found


def _noted(ledger: Ledger, node: str, now: datetime) -> tuple[str, str]:
    """What the authority knows against it, and what helps."""
    own = ledger.of(node)
    good = [each for each in own if each.revoked is None]
    if not own:
        return "has no certificate of this cluster yet", RENEW
    if not good:
        fix = f"leave it out, or, with the machine in your hands: remove {NODES_HOME}/{node} on it, then {RENEW}"
        return f"its certificate was revoked on {own[-1].revoked:%Y-%m-%d}", fix
    if (end := max(each.not_after for each in good)) <= now:
        return f"its certificate ended on {end:%Y-%m-%d}", RENEW
    return "", ""


def _its_own(found: Certificate | None, authority: str) -> tuple[str, str]:
    """What the machine itself finds: files that are gone, a clock that is wrong."""
    if found is None:
        return "", ""
    if found.authority and found.authority != authority:
        return "its certificate is of another cluster's authority", RENEW
    return found.what, found.fix


def _soon(ledger: Ledger, node: str, now: datetime) -> str:
    """From when on it would be renewed."""
    ends = [each.not_after for each in ledger.of(node) if each.revoked is None]
    left = max(ends, default=now) - now
    return f"its certificate ends in {left.days} days" if ends and left < RENEWED_BELOW else ""
