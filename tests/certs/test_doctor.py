"""What check.yml says of certificates before a run is refused for one."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import pytest

from smolcluster.certs.authority import RENEWED_BELOW, VALID
from smolcluster.certs.ledger import read_ledger
from smolcluster.doctor.certificates import certificate_findings
from smolcluster.doctor.look import certificate
from smolcluster.doctor.machines import Certificate, Looked, Machine

from .cluster import DAY, NOW, Certified

ALL = ("a", "b", "lost")


@pytest.fixture
def cluster(tmp_path: Path) -> Certified:
    made = Certified(tmp_path / "ours")
    for name in ("a", "lost"):
        made.add(name)
    made.at().revoke("lost")
    return made


def machine(name: str, certificate: Certificate | None = None) -> Machine:
    nothing = dict.fromkeys(
        ("cores", "load", "disk_free_mb", "memory_mb", "memory_free_mb", "temperature_c", "throttled")
    )
    looked = {"schema": 1, "system": "Linux", "versions": {}, "clock": {"asked": 1, "here": 1}, **nothing}
    return Machine(name=name, kind="linux", looked=Looked.model_validate({**looked, "certificate": certificate}))


def told(
    cluster: Certified, needing: tuple[str, ...], now: datetime = NOW, own: Certificate | None = None
) -> list[tuple[str, str, bool]]:
    machines = [machine(name, own) for name in ALL]
    found = certificate_findings(read_ledger(cluster.authority.issued), cluster.fingerprint, machines, needing, now)
    return [(one.node, one.what, one.blocks) for one in found]


def test_those_that_a_run_needs_keep_it_from_starting(cluster: Certified) -> None:
    revoked = f"its certificate was revoked on {NOW:%Y-%m-%d}"
    assert told(cluster, ALL) == [
        ("b", "has no certificate of this cluster yet", True),
        ("lost", revoked, True),
    ]
    # Of a run without an encrypted link nothing is wanted; a lost machine that is back is told all the same.
    assert told(cluster, ()) == [("lost", revoked, False)]


def test_one_that_ends_soon_is_told_as_long_as_it_could_be_renewed(cluster: Certified) -> None:
    before = NOW + VALID - RENEWED_BELOW
    assert told(cluster, ("a",), before - DAY)[:-1] == []
    assert told(cluster, ("a",), before + DAY)[0] == ("a", "its certificate ends in 132 days", False)
    ended = ("a", f"its certificate ended on {NOW + VALID:%Y-%m-%d}", True)
    assert told(cluster, ("a",), NOW + VALID + DAY)[0] == ended


def test_what_the_machine_finds_itself(cluster: Certified, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".smolcluster").mkdir()
    (tmp_path / ".smolcluster" / "certs").symlink_to(cluster.path)
    well = certificate(sys.executable, "a")
    assert well == {"authority": cluster.fingerprint}
    assert told(cluster, ("a",), own=Certificate(**well)) == told(cluster, ("a",))
    # Its files are not whole, or it is of the house next door.
    cluster.node("a").certificate.unlink()
    ill = certificate(sys.executable, "a")
    assert ill is not None
    assert told(cluster, ("a",), own=Certificate(**ill))[0] == (
        "a", "this node has no certificate of this cluster, and links that must be encrypted", True,
    )  # fmt: skip
    other = Certificate(authority="0" * 64)
    assert told(cluster, ("a",), own=other)[0] == ("a", "its certificate is of another cluster's authority", True)
    assert certificate("/nowhere/python", "a") is None
