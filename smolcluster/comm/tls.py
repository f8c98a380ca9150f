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

from smolcluster.comm.clock import Deadline
from smolcluster.comm.wire import HungUpError
from smolcluster.errors import DeadlineError, HandshakeError, PeerError


@dataclass(frozen=True)
class TlsContexts:
    """What one process needs to speak TLS. `fingerprint` is the SHA-256 of its own certificate (DER)."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    fingerprint: bytes

    @classmethod
    def from_files(cls, certificate: Path, key: Path, ca: Path) -> TlsContexts:
        """Contexts from PEM files: this node's certificate and key, and the CA that signed every node's."""
        first = certificate.read_text(encoding="ascii").split("-----END CERTIFICATE-----")[0]
        der = ssl.PEM_cert_to_DER_cert(first + "-----END CERTIFICATE-----\n")
        contexts = []
        for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
            context = ssl.SSLContext(side)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(ca)
            # Nodes move between addresses and have .local names: who it is, the run's secret and rank say.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED
            contexts.append(context)
        # Tickets a send-only client never reads turn its close into a reset that loses the tail.
        contexts[0].num_tickets = 0
        return cls(contexts[0], contexts[1], hashlib.sha256(der).digest())

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
            raise HandshakeError(
                f"{who} showed a certificate that this cluster's CA did not sign ({error.verify_message})"
            ) from error
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
