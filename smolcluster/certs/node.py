"""A node's own part: its key, made here and never sent, the request for a certificate, and taking in the answer."""

from __future__ import annotations

import hashlib
import ipaddress
import shutil
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import Field, ValidationError

from smolcluster.certs.checking import check_node, fingerprint
from smolcluster.certs.places import RENEW, NodeFolder
from smolcluster.errors import InputError, Problem
from smolcluster.files import make_folder, write_atomic
from smolcluster.spec.base import Frozen

BUNDLE_SCHEMA = 1
_HOME_NETWORKS = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))


class Bundle(Frozen):
    """What the authority answers a node, as PEM: nothing in it is secret. `certificate` "": the one it has stays."""

    certificate: str
    ca: str
    crl: str
    schema_: int = Field(default=BUNDLE_SCHEMA, alias="schema", serialization_alias="schema")


def read_bundle(text: str) -> Bundle:
    """InputError if it is none."""
    try:
        bundle = Bundle.model_validate_json(text)
    except ValidationError as error:
        fix = "it is what `python -m smolcluster certificate sign` prints, on the controller"
        raise InputError([Problem("", 0, "", "this is not an authority's answer", fix)]) from error
    if bundle.schema_ != BUNDLE_SCHEMA:
        what = f"the answer is version {bundle.schema_}; this smolcluster reads version {BUNDLE_SCHEMA}"
        raise InputError([Problem("", 0, "", what, "install the same version on both machines")])
    return bundle


def key_digest(key: object) -> str:
    """SHA-256 of a public key, in hex."""
    assert isinstance(key, ec.EllipticCurvePublicKey), "only such are signed"
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def make_request(folder: NodeFolder, node: str) -> tuple[str, bool]:
    """The node's request as PEM, and whether its key was made for it. InputError for a key that cannot be read."""
    made = not folder.key.exists()
    if made:
        make_folder(folder.path, 0o700)
        folder.path.chmod(0o700)
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomic(folder.key, pem, mode=0o600)
    key = _own_key(folder)
    request = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    )
    if addresses := _own_addresses():
        request = request.add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(address) for address in addresses]), critical=False
        )
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(), made


def install(folder: NodeFolder, node: str, bundle: Bundle) -> bool:
    """Take in what the authority answered, if the node could take part with it: else everything stays as it was.
    Whether anything changed. InputError.
    """
    certificate = bundle.certificate or _read(folder.certificate)
    texts = {folder.ca: bundle.ca, folder.crl: bundle.crl, folder.certificate: certificate}
    _refuse_older_list(folder, node, bundle)
    trial = NodeFolder(folder.path / ".new")
    shutil.rmtree(trial.path, ignore_errors=True)
    try:
        trial.path.mkdir(mode=0o700)
        key = _own_key(folder).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomic(trial.key, key, mode=0o600)
        for path, text in texts.items():
            write_atomic(trial.path / path.name, text)
        check_node(trial, node, fingerprint(trial.ca))
    except InputError as error:
        own = str(folder.path)
        raise InputError(_renamed(each, str(trial.path), own) for each in error.problems) from error
    finally:
        shutil.rmtree(trial.path, ignore_errors=True)
    changed = [path for path, text in texts.items() if _read(path) != text]
    # Of one authority every mixture is good; where it is another, nobody has anything of it yet.
    for path in changed:
        write_atomic(path, texts[path])
    return bool(changed)


def days_left(folder: NodeFolder, now: datetime | None = None) -> int:
    """Until its certificate expires. OSError, ValueError."""
    certificate = x509.load_pem_x509_certificate(folder.certificate.read_bytes())
    return (certificate.not_valid_after_utc - (now or datetime.now(UTC))).days


def _own_key(folder: NodeFolder) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(folder.key.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = f"this node's key cannot be read: {getattr(error, 'strerror', None) or 'it is no key'}"
        raise InputError([Problem(str(folder.key), 0, "", what, f"remove {folder.path}, then {RENEW}")]) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        what = "this node's key is of another kind than ours (P-256)"
        raise InputError([Problem(str(folder.key), 0, "", what, f"remove {folder.path}, then {RENEW}")])
    return key


def _refuse_older_list(folder: NodeFolder, node: str, bundle: Bundle) -> None:
    """An older list of revoked ones would let a lost node in again."""
    if _read(folder.ca) != bundle.ca or not _read(folder.crl):
        return
    numbers = []
    for text in (_read(folder.crl), bundle.crl):
        try:
            crl = x509.load_pem_x509_crl(text.encode())
            numbers.append(crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
        except (ValueError, x509.ExtensionNotFound):
            return  # the trial says what is wrong with it
    if numbers[1] < numbers[0]:
        what = f"{node}: it has a newer list of revoked certificates ({numbers[0]}) than the controller ({numbers[1]})"
        fix = f"the controller's was put back from an old copy: revoke the lost nodes again, or remove {folder.crl}"
        raise InputError([Problem(str(folder.crl), 0, "", what, fix)])


def _own_addresses() -> list[ipaddress.IPv4Address]:
    """Of private networks, which this machine has now: a router may have given them. IPv6's change every day."""
    found = {
        ipaddress.IPv4Address(each.address)
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET
    }
    return sorted(address for address in found if any(address in network for network in _HOME_NETWORKS))


def _renamed(problem: Problem, trial: str, own: str) -> Problem:
    """The trial's folder is gone when somebody reads of it."""
    return replace(problem, file=problem.file.replace(trial, own), fix=problem.fix.replace(trial, own))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
