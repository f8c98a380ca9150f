"""TLS 1.3 for links that leave the machine: both sides show a certificate of the cluster's own CA.

The certificate proves membership of the cluster, the handshake above it (handshake.py) of this run: its HMAC covers the
fingerprints of both certificates, so nobody can sit between two honest ends.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from smolcluster.certs.checking import check_node, der_of, make_context, refusal
from smolcluster.certs.places import NodeFolder
from smolcluster.comm.clock import Deadline
from smolcluster.comm.wire import HungUpError
from smolcluster.errors import DeadlineError, HandshakeError, InputError, PeerError, Problem
from smolcluster.plan.types import RankPlan


@dataclass(frozen=True)
class TlsContexts:
    """What one process needs to speak TLS. `fingerprint` is the SHA-256 of its own certificate (DER)."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    fingerprint: bytes

    @classmethod
    def from_files(cls, certificate: Path, key: Path, ca: Path, crl: Path | None = None) -> TlsContexts:
        """Contexts from PEM files: this node's certificate and key, the CA that signed every node's, and its list of
        revoked ones. OSError, ssl.SSLError, ValueError.
        """
        server, client = (
            make_context(side, certificate, key, ca, crl) for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
        )
        return cls(server, client, hashlib.sha256(der_of(certificate)).digest())

    @classmethod
    def of_node(cls, folder: str | None, me: RankPlan, authority: str) -> TlsContexts | None:
        """What rank `me` needs of its node's certificates; None where none of its links is encrypted. `folder` is that
        of node.yaml, `authority` the plan's. InputError: no certificate that the other nodes would accept.
        """
        if not any(me.encrypt.values()):
            return None
        if folder is None:
            what = f"links of {me.node} must be encrypted, and node.yaml names no certificates"
            raise InputError([Problem("node.yaml", 0, "certificates", what, "run the playbook again")])
        files = NodeFolder(Path(folder))
        check_node(files, me.node, authority)
        return cls.from_files(files.certificate, files.key, files.ca, files.crl)

    def start(self, opened: socket.socket, serving: bool, who: str) -> ssl.SSLSocket:
        """The TLS side of a connected socket, which it takes over; nothing is said yet."""
        try:
            context = self.server if serving else self.client
            return context.wrap_socket(opened, server_side=serving, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            raise HungUpError(f"{who} hung up before the TLS handshake") from error

    def finish(self, opened: ssl.SSLSocket, deadline: Deadline, who: str) -> None:
        """Do the TLS handshake. HandshakeError says why the other end was not accepted; close the socket then."""
        opened.settimeout(max(0.001, deadline.left()))
        try:
            opened.do_handshake()
        except TimeoutError as error:
            raise DeadlineError(f"{who} did not finish the TLS handshake within {deadline.seconds:g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise HandshakeError(f"{who} showed a certificate that {refusal(error)}") from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError) as error:
            raise HungUpError(f"{who} hung up during the TLS handshake: {error.strerror or error}") from error
        except (OSError, ValueError) as error:
            raise HandshakeError(f"TLS with {who} failed: {getattr(error, 'reason', None) or error}") from error


def peer_fingerprint(opened: socket.socket) -> bytes:
    """SHA-256 of the certificate the other end showed; empty on a plain socket."""
    if not isinstance(opened, ssl.SSLSocket):
        return b""
    der = opened.getpeercert(binary_form=True)
    if der is None:
        raise PeerError("the other end showed no certificate")
    return hashlib.sha256(der).digest()
