"""Encrypted links on loopback, with a CA and certificates made for the test."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm import TlsContexts
from smolcluster.comm.endpoint import listen
from smolcluster.comm.frame import Kind
from smolcluster.comm.listener import Listener
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import HandshakeError, PeerError
from tests.comm.certificates import make_certificates
from tests.comm.pool import Pool
from tests.comm.wires import ME, SERVER, together


def contexts(folder: Path, name: str, ca: Path | None = None) -> TlsContexts:
    return TlsContexts.from_files(folder / f"{name}.pem", folder / f"{name}.key", (ca or folder) / "ca.pem")


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    make_certificates(tmp_path / "ours", "a", "b")
    return tmp_path / "ours"


@pytest.fixture
def listener(certificates: Path) -> Iterator[Listener]:
    tls = contexts(certificates, "a")
    me = replace(SERVER, fingerprint=tls.fingerprint)
    made = Listener(listen(("127.0.0.1",), 0), me, 1 << 20, 5, tls, frozenset({1}))
    yield made
    made.close()


def mesh(tls: TlsContexts | None, listener: Listener | None, rank: int) -> Mesh:
    me = replace(SERVER if rank == 0 else ME, fingerprint=tls.fingerprint if tls is not None else b"")
    return Mesh(me, listener, {}, {}, {0: tls is not None}, tls, 1 << 20, 5)


def test_a_link_in_tls_13(listener: Listener, certificates: Path) -> None:
    theirs, mine = together(
        lambda: mesh(contexts(certificates, "a"), listener, 0).link(1, "ring"),
        lambda: mesh(contexts(certificates, "b"), None, 1).link(0, "ring", listener.endpoint),
    )
    assert isinstance(mine.out.sock, ssl.SSLSocket)
    assert mine.out.sock.version() == "TLSv1.3"
    large = bytes(range(256)) * 20_000  # many records, more than the socket's buffer
    _, got = together(lambda: mine.send(Kind.MESSAGE, large), lambda: theirs.receive(5))
    assert bytes(got.payload) == large
    theirs.send(Kind.MESSAGE, b"back")
    assert bytes(mine.receive(5).payload) == b"back"
    both = together(lambda: mine.close(2), lambda: theirs.close(2))
    assert both == [True, True]


def test_a_certificate_of_another_ca_is_refused(listener: Listener, certificates: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other", "b")
    stranger = contexts(tmp_path / "other", "b", ca=certificates)  # it trusts us, we do not trust it
    with pytest.raises(HandshakeError):
        mesh(stranger, None, 1).link(0, "ring", listener.endpoint)
    distrustful = contexts(certificates, "b", ca=tmp_path / "other")
    with pytest.raises(HandshakeError, match="showed a certificate that this cluster's CA did not sign"):
        mesh(distrustful, None, 1).link(0, "ring", listener.endpoint)
    assert any("CA did not sign" in str(error) for error in listener.refusals)


def test_in_the_clear_is_refused_where_tls_is_due(listener: Listener) -> None:
    with pytest.raises(HandshakeError, match="the link to rank 1 must be encrypted, and it came in the clear"):
        mesh(None, None, 1).link(0, "ring", listener.endpoint)


def test_tls_to_a_side_without_a_certificate(certificates: Path) -> None:
    plain = Listener(listen(("127.0.0.1",), 0), SERVER, 1 << 20, 5)
    try:
        with pytest.raises(PeerError):
            mesh(contexts(certificates, "b"), None, 1).link(0, "ring", plain.endpoint)
        assert "speaks TLS, this side has no certificate" in str(plain.refusals[-1])
    finally:
        plain.close()


def test_the_proof_covers_the_certificates(listener: Listener, certificates: Path) -> None:
    """Somebody in the middle with a certificate of the CA: the fingerprints do not agree."""
    relayed = Mesh(
        replace(ME, fingerprint=b"another certificate"),
        None,
        {},
        {},
        {0: True},
        contexts(certificates, "b"),
        1 << 20,
        5,
    )
    with pytest.raises(HandshakeError, match="the run's secret differs"):
        relayed.link(0, "ring", listener.endpoint)


def open_with_tls(fabric: Any) -> tuple[float, str | None]:
    x = torch.full((300_000,), float(fabric.config.rank + 1))
    dist.all_reduce(x)
    ring = [link for link in fabric._mesh.links() if link.channel != "control"]
    return x[-1].item(), ring[0].out.sock.version()


class Files:
    """TlsContexts cannot be pickled: the worker makes its own from these."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def __reduce__(self) -> Any:
        return contexts, (self.folder, self.name)


def test_a_whole_fabric_in_tls(pool: Pool, certificates: Path) -> None:
    per_rank = {rank: {"tls": Files(certificates, name), "encrypt": {1 - rank: True}} for rank, name in enumerate("ab")}
    values = pool.run(2, open_with_tls, per_rank=per_rank)
    assert values == [(3.0, "TLSv1.3")] * 2
