"""TLS contexts from a node's files, and whether others would accept them: with `ssl` alone, as workers use them."""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
from pathlib import Path

from smolcluster.certs.places import RENEW, AuthorityFolder, NodeFolder, authority_folder
from smolcluster.errors import InputError, Problem
from smolcluster.files import hash_of

_CA_FIX = "name ca.pem of ~/.smolcluster/ca on the controller, or a copy of it"
_END = "-----END CERTIFICATE-----"
# Of OpenSSL's x509_vfy.h, which `ssl` does not name: what a person can do something about.
_NOT_YET, _EXPIRED, _REVOKED, _NO_CRL, _CRL_NOT_YET, _CRL_EXPIRED = 9, 10, 23, 3, 11, 12
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_context(side: int, certificate: Path, key: Path, ca: Path, crl: Path | None = None) -> ssl.SSLContext:
    """For one side (ssl.PROTOCOL_TLS_SERVER or _CLIENT) of links in TLS 1.3: both show a certificate of `ca` that is
    not in `crl`. OSError, ssl.SSLError.
    """
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    # Nodes move between addresses and have .local names: who it is, the run's secret and rank say.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if crl is not None:
        context.load_verify_locations(crl)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    if side == ssl.PROTOCOL_TLS_SERVER:
        # Tickets a send-only client never reads turn its close into a reset that loses the tail.
        context.num_tickets = 0
    return context


def browser_context(folder: NodeFolder) -> ssl.SSLContext:
    """For HTTPS with a node's certificate. TLS 1.2 too, for what people have at home: an old tablet, a television; and
    nobody has to show a certificate, as the API's key says who may ask. OSError, ssl.SSLError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder.certificate, folder.key)
    return context


def trusting_context(ca: Path | None = None) -> ssl.SSLContext:
    """For dialling the cluster by HTTPS: whom else the system trusts, and the authority whose certificate is in `ca`;
    None: that of this user's clusters, where this machine has it. InputError for a file that has none.
    """
    context = ssl.create_default_context()
    file = ca if ca is not None else authority_folder().certificate
    try:
        context.load_verify_locations(file)
    except FileNotFoundError as error:
        if ca is not None:
            raise InputError([Problem(str(ca), 0, "", "there is no such file", _CA_FIX)]) from error
    except OSError as error:
        raise InputError([Problem(str(file), 0, "", f"is no authority's certificate: {error}", _CA_FIX)]) from error
    return context


def der_of(certificate: Path) -> bytes:
    """The first certificate of a PEM file. OSError, ValueError."""
    first = certificate.read_text(encoding="ascii").split(_END)[0]
    return ssl.PEM_cert_to_DER_cert(first + _END + "\n")


def fingerprint(certificate: Path) -> str:
    """SHA-256 of the first certificate of a PEM file, in hex. OSError, ValueError."""
    return hashlib.sha256(der_of(certificate)).hexdigest()


def authority_fingerprint(folder: AuthorityFolder) -> str:
    """That of the cluster's authority; "" where there is none. InputError if its certificate cannot be read."""
    try:
        return fingerprint(folder.certificate)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        what = f"the certificate of the cluster's authority cannot be read: {getattr(error, 'strerror', None) or error}"
        fix = "put it back from a copy; or remove the folder, and set up all nodes anew with " + RENEW
        raise InputError([Problem(str(folder.certificate), 0, "", what, fix)]) from error


def refusal(error: ssl.SSLCertVerificationError) -> str:
    """Why a certificate was refused, as the end of "it showed a certificate that ..."."""
    told = {
        _REVOKED: "was revoked",
        _EXPIRED: f"has expired: {RENEW}, or set the clock of this machine",
        _NOT_YET: "is not valid yet: set the clock of this machine",
        _NO_CRL: f"has no list of revoked ones here, as that is of another authority: {RENEW}",
    }
    return told.get(error.verify_code, f"this cluster's CA did not sign ({error.verify_message})")


def check_node(folder: NodeFolder, node: str, ca: str, crl: str = "") -> None:
    """Whether a node can take part: its files are there, belong together, and the other nodes would accept them, by the
    clock of this machine. `ca` is the fingerprint of the cluster's authority, `crl` the hash of its list of revoked
    ones, where that is known. InputError says what to do.
    """
    fix = f"{RENEW} (on the controller)"

    def problem(path: Path, what: str, fix: str = fix) -> InputError:
        return InputError([Problem(str(path), 0, "", f"{node}: {what}", fix)])

    for path in (folder.key, folder.certificate, folder.ca, folder.crl):
        if not path.is_file():
            raise problem(path, "this node has no certificate of this cluster, and links that must be encrypted")
    # Windows has no such bits: there a home folder is its owner's.
    if os.name != "nt" and folder.key.stat().st_mode & _FOR_OTHERS:
        raise problem(folder.key, "its key can be read by others", f"chmod 600 {folder.key} on that machine")
    try:
        known = fingerprint(folder.ca)
        if known != ca:
            what = f"its certificate is of another cluster's authority ({known[:12]}, this one is {ca[:12]})"
            raise problem(folder.ca, what)
        if crl and hash_of(folder.crl) != crl:
            raise problem(folder.crl, "its list of revoked certificates is not the newest")
        _meet_itself(folder)
    except ssl.SSLCertVerificationError as error:
        clock = error.verify_code in (_NOT_YET, _CRL_NOT_YET)
        way = "set the clock of that machine" if clock else fix
        if error.verify_code == _REVOKED:
            way = f"was it lost and found again? Remove {folder.path} on it, then {fix}"
        raise problem(folder.certificate, _own(error), way) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise problem(folder.path, f"its certificate cannot be used: {why}") from error


def _own(error: ssl.SSLCertVerificationError) -> str:
    told = {
        _REVOKED: "its certificate was revoked",
        _EXPIRED: "its certificate has expired",
        _NOT_YET: "its certificate is not valid yet by its own clock",
        _CRL_NOT_YET: "its list of revoked certificates is not valid yet by its own clock",
        _CRL_EXPIRED: "its list of revoked certificates has expired",
        _NO_CRL: "its list of revoked certificates is another authority's",
    }
    return told.get(error.verify_code, f"its certificate is not one of its authority's ({error.verify_message})")


def _meet_itself(folder: NodeFolder) -> None:
    """A TLS handshake in memory, both ends with the node's own files: all that a peer looks at is looked at."""
    files = (folder.certificate, folder.key, folder.ca, folder.crl)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = make_context(ssl.PROTOCOL_TLS_SERVER, *files).wrap_bio(to_server, to_client, server_side=True)
    client = make_context(ssl.PROTOCOL_TLS_CLIENT, *files).wrap_bio(to_client, to_server)
    waiting = [client, server]
    # Each side says all it can in a turn; TLS 1.3 needs three.
    for _ in range(4):
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    if waiting:
        raise ValueError("the handshake does not come to an end")
