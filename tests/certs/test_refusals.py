"""Who is refused on a real socket, and what both sides and the log then say. Certificates are those of the commands."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from smolcluster.certs.authority import VALID
from smolcluster.certs.node import make_request
from smolcluster.certs.places import NodeFolder
from smolcluster.comm import TlsContexts
from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint, listen
from smolcluster.comm.environment import read_settings
from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link
from smolcluster.comm.listener import MOST_LOGGED, Listener
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import HandshakeError, PeerError
from tests.comm.wires import ME, SERVER, together

from .cluster import DAY, NOW, Certified

TIMEOUT_S = 30.0


@pytest.fixture
def cluster(tmp_path: Path) -> Certified:
    made = Certified(tmp_path / "ours")
    made.add("a")
    made.add("b")
    return made


class Acceptor:
    """Rank 0 on node a."""

    def __init__(self, tls: TlsContexts, must_encrypt: frozenset[int] = frozenset({1})) -> None:
        self.me = replace(SERVER, fingerprint=tls.fingerprint)
        self.listener = Listener(listen(("127.0.0.1",), 0), self.me, 1 << 20, TIMEOUT_S, tls, must_encrypt)
        self.mesh = Mesh(self.me, self.listener, {}, {}, {}, tls, 1 << 20, TIMEOUT_S)

    @property
    def endpoint(self) -> Endpoint:
        return self.listener.endpoint

    def refused(self) -> str:
        """The newest refusal, which a dialler may hear of earlier than the listener has noted it."""
        with self.listener._arrived:
            assert self.listener._arrived.wait_for(lambda: self.listener.refusals, TIMEOUT_S)
            return str(self.listener.refusals[-1])


@pytest.fixture
def acceptor(cluster: Certified) -> Iterator[Acceptor]:
    made = Acceptor(cluster.contexts("a"))
    yield made
    made.listener.close()


def dialler(tls: TlsContexts | None) -> Mesh:
    me = replace(ME, fingerprint=tls.fingerprint if tls is not None else b"")
    return Mesh(me, None, {}, {}, {0: tls is not None}, tls, 1 << 20, TIMEOUT_S)


def dial(tls: TlsContexts | None, where: Endpoint) -> Link:
    return dialler(tls).link(0, "ring", where, Deadline(TIMEOUT_S))


def without_list(folder: NodeFolder) -> TlsContexts:
    """What somebody uses who does not care whether they were revoked."""
    return TlsContexts.from_files(folder.certificate, folder.key, folder.ca)


def test_two_nodes_of_a_cluster_talk_in_tls_13(cluster: Certified, acceptor: Acceptor) -> None:
    theirs, mine = together(
        lambda: acceptor.mesh.link(1, "ring"), lambda: dial(cluster.contexts("b"), acceptor.endpoint)
    )
    assert isinstance(mine.out.sock, ssl.SSLSocket)
    assert {mine.out.sock.version(), theirs.out.sock.version()} == {"TLSv1.3"}
    assert mine.out.sock.cipher()[0].startswith("TLS_")
    together(lambda: mine.send(Kind.MESSAGE, b"hello"), lambda: theirs.receive(TIMEOUT_S))
    assert together(lambda: mine.close(2), lambda: theirs.close(2)) == [True, True]
    assert not acceptor.listener.refusals


def test_a_lost_node_is_shut_out_by_every_node_that_has_the_list(
    cluster: Certified, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.at().revoke("b")
    cluster.tells("a")
    acceptor = Acceptor(cluster.contexts("a"))
    try:
        with caplog.at_level(logging.WARNING), pytest.raises(HandshakeError):
            dial(without_list(cluster.node("b")), acceptor.endpoint)
        assert "the caller from 127.0.0.1:" in acceptor.refused()
        assert "showed a certificate that was revoked" in acceptor.refused()
        assert "refused: the caller from 127.0.0.1:" in caplog.text
    finally:
        acceptor.listener.close()


def test_a_script_of_torchrun_s_is_given_the_list_too(cluster: Certified) -> None:
    cluster.at().revoke("b")
    cluster.tells("a")
    own = cluster.node("a")
    files = {"CERT": own.certificate, "KEY": own.key, "CA": own.ca, "CRL": own.crl}
    tls = read_settings({f"SMOL_TLS_{name}": str(path) for name, path in files.items()}, None).tls
    assert tls is not None
    acceptor = Acceptor(tls)
    try:
        with pytest.raises(HandshakeError):
            dial(without_list(cluster.node("b")), acceptor.endpoint)
        assert "showed a certificate that was revoked" in acceptor.refused()
    finally:
        acceptor.listener.close()


def test_a_lost_node_is_not_dialled_either(cluster: Certified) -> None:
    cluster.at().revoke("a")
    cluster.tells("b")
    acceptor = Acceptor(without_list(cluster.node("a")))
    try:
        with pytest.raises(HandshakeError, match=r"rank 0 at 127.0.0.1:\d+ showed a certificate that was revoked"):
            dial(cluster.contexts("b"), acceptor.endpoint)
    finally:
        acceptor.listener.close()


def test_expired_and_future_certificates(cluster: Certified, acceptor: Acceptor) -> None:
    past = NOW - VALID - DAY
    for name, when, why in (
        ("old", past, "has expired: ansible-playbook certificates.yml, or set the clock of this machine"),
        ("new", NOW + 2 * VALID, "is not valid yet: set the clock of this machine"),
    ):
        folder = cluster.node(name)
        request, _ = make_request(folder, name)
        bundle, _ = cluster.at(when).sign(request, name)
        folder.certificate.write_text(bundle.certificate)
        folder.ca.write_text(bundle.ca)
        acceptor.listener.refusals.clear()
        with pytest.raises(HandshakeError):
            dial(without_list(folder), acceptor.endpoint)
        assert why in acceptor.refused()


def test_a_node_of_another_cluster(cluster: Certified, acceptor: Acceptor, tmp_path: Path) -> None:
    other = Certified(tmp_path / "other")
    stranger = other.add("b")
    knowing = TlsContexts.from_files(stranger.certificate, stranger.key, cluster.node("a").ca)
    with pytest.raises(HandshakeError):
        dial(knowing, acceptor.endpoint)
    assert "showed a certificate that this cluster's CA did not sign" in acceptor.refused()
    with pytest.raises(HandshakeError, match="showed a certificate that this cluster's CA did not sign"):
        dial(other.contexts("b"), acceptor.endpoint)


def test_a_certificate_that_a_node_signed_with_its_own(cluster: Certified, acceptor: Acceptor, tmp_path: Path) -> None:
    """Node b, taken over, as an authority of its own below the cluster's."""
    rogue = Certified(tmp_path / "rogue")
    rogue.at()
    own = cluster.node("b")
    forged = Certified(tmp_path / "forged")
    forged.authority.path.mkdir(parents=True)
    forged.authority.key.write_bytes(own.key.read_bytes())
    forged.authority.certificate.write_bytes(own.certificate.read_bytes())
    forged.authority.issued.write_bytes(rogue.authority.issued.read_bytes())
    forged.authority.crl.write_bytes(rogue.authority.crl.read_bytes())
    folder = forged.node("c")
    bundle, _ = forged.at().sign(make_request(folder, "c")[0], "c")
    folder.certificate.write_text(bundle.certificate + own.certificate.read_text())
    folder.ca.write_bytes(cluster.authority.certificate.read_bytes())
    with pytest.raises(HandshakeError):
        dial(without_list(folder), acceptor.endpoint)
    assert "showed a certificate that this cluster's CA did not sign (invalid CA certificate)" in acceptor.refused()


def test_no_certificate_at_all(cluster: Certified, acceptor: Acceptor) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cluster.node("a").ca)
    context.check_hostname = False
    none = TlsContexts(context, context, b"")
    with pytest.raises(PeerError):
        dial(none, acceptor.endpoint)
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in acceptor.refused()


def test_older_tls_is_refused(cluster: Certified, acceptor: Acceptor) -> None:
    tls = cluster.contexts("b")
    tls.client.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(PeerError):
        dial(tls, acceptor.endpoint)
    assert "UNSUPPORTED_PROTOCOL" in acceptor.refused()


def test_in_the_clear_where_tls_is_due(acceptor: Acceptor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(HandshakeError, match="must be encrypted"):
        dial(None, acceptor.endpoint)
    acceptor.refused()
    assert "the link to rank 1 must be encrypted, and it came in the clear" in caplog.text


def test_a_rank_with_both_kinds_of_links(cluster: Certified) -> None:
    """A Mac on a cable with one rank and on Wi-Fi with another: it has a certificate, and not every link shows it."""
    acceptor = Acceptor(cluster.contexts("a"), must_encrypt=frozenset())
    tls = cluster.contexts("b")
    mixed = Mesh(replace(ME, fingerprint=tls.fingerprint), None, {}, {}, {0: False}, tls, 1 << 20, TIMEOUT_S)
    try:
        for mesh in (mixed, dialler(tls)):
            theirs, mine = together(
                lambda: acceptor.mesh.link(1, "ring"),
                lambda mesh=mesh: mesh.link(0, "ring", acceptor.endpoint, Deadline(TIMEOUT_S)),
            )
            assert isinstance(mine.out.sock, ssl.SSLSocket) == (mesh is not mixed)
            assert together(lambda link=mine: link.close(2), lambda link=theirs: link.close(2)) == [True, True]
    finally:
        acceptor.listener.close()


def test_a_flood_of_refusals_does_not_fill_the_disk(acceptor: Acceptor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for number in range(200 + MOST_LOGGED):
            acceptor.listener._refused(HandshakeError(f"caller {number}"))
    told = [record.getMessage() for record in caplog.records]
    assert told[:MOST_LOGGED] == [f"refused: caller {number}" for number in range(MOST_LOGGED)]
    assert told[MOST_LOGGED:] == ["refused 100 so far, the last: caller 99", "refused 200 so far, the last: caller 199"]
