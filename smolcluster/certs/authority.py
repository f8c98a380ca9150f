"""The cluster's authority: signs nodes' requests, revokes lost ones, keeps their list. On the controller alone."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smolcluster.certs.ledger import Issued, Ledger, read_ledger
from smolcluster.certs.names import DOMAINS, NETWORKS, ordered
from smolcluster.certs.node import Bundle, key_digest
from smolcluster.certs.places import NODES_HOME, RENEW, AuthorityFolder
from smolcluster.errors import InputError, Problem
from smolcluster.files import NoPlaceError, make_folder, write_atomic
from smolcluster.locks import locked

# A machine without a clock (a Raspberry Pi) starts where it was switched off, perhaps months ago, until it has found a
# time server, which a cluster on cables of its own has not. So certificates begin long before they are made: that
# costs nothing, as the key did not exist then. Both together stay below the 825 days that Apple's systems accept.
BACKDATED = timedelta(days=400)
VALID = timedelta(days=400)
# Renewed by the next certificates.yml once less than this is left.
RENEWED_BELOW = VALID / 3
# The authority itself, and with it the list of revoked ones: if that expired, every link of the cluster would stop at
# once, and nothing is gained by it, since the list comes from here and not from a server that could be kept from us.
AUTHORITY_VALID = timedelta(days=365 * 20)
_LOCK_S = 30.0


class Authority:
    """Of a folder that has one. `now` is the controller's clock, aware; tests give their own."""

    def __init__(self, folder: AuthorityFolder, now: datetime | None = None) -> None:
        self.folder = folder
        self._now = now or datetime.now(UTC)
        try:
            key = serialization.load_pem_private_key(folder.key.read_bytes(), None)
            self.certificate = x509.load_pem_x509_certificate(folder.certificate.read_bytes())
        except FileNotFoundError as error:
            what = "the cluster has no authority yet" if not folder.path.exists() else "is missing"
            fix = "ansible-playbook certificates.yml makes it; if it was there, put it back from a copy"
            raise InputError([Problem(str(error.filename), 0, "", what, fix)]) from error
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            what = f"the cluster's authority cannot be read: {getattr(error, 'strerror', None) or error}"
            raise InputError([Problem(str(folder.path), 0, "", what, "put it back from a copy")]) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self.certificate.public_key():
            what = "the authority's key and certificate do not belong together"
            raise InputError([Problem(str(folder.path), 0, "", what, "put both back from one copy")])
        self._key = key

    @classmethod
    def create(cls, folder: AuthorityFolder, now: datetime | None = None) -> Authority:
        """A new one, unless the folder has one already. InputError, OSError."""
        make_folder(folder.path, 0o700)
        folder.path.chmod(0o700)
        with _held(folder):
            if not folder.certificate.exists():
                _make(folder, now or datetime.now(UTC))
        return cls(folder, now)

    def sign(self, request: str, node: str, names: Iterable[str] = ()) -> tuple[Bundle, bool]:
        """What the node is to install, and whether its certificate is new: one that has the request's key and all the
        names, and more than a third of its time, is given again.

        Of the request only its key is taken, and the addresses of private networks that the machine says it has.
        InputError: no request, or the key of a node that was revoked.
        """
        csr = self._read(request, node)
        digest = key_digest(csr.public_key())
        wanted = ordered((*names, *_addresses(csr)))
        with _held(self.folder):
            ledger = read_ledger(self.folder.issued)
            if any(each.key == digest and each.revoked for each in ledger.certificates):
                what = f"{node}: its key was revoked"
                fix = (
                    "take it out of the inventory; or, with the machine in your hands:"
                    f" remove {NODES_HOME}/{node} on it, then {RENEW}"
                )
                raise InputError([Problem("", 0, "", what, fix)])
            for known in reversed(ledger.of(node)):
                left = known.not_after - self._now
                if known.key == digest and set(wanted) <= set(known.names) and left >= RENEWED_BELOW:
                    return self._bundle(known.pem), False
            made = self._issue(csr, node, wanted)
            self._write(ledger.model_copy(update={"certificates": (*ledger.certificates, made)}))
        return self._bundle(made.pem), True

    def revoke(self, node: str) -> int:
        """Take back all of a node's certificates, and sign the new list of revoked ones. How many there were that were
        not revoked. InputError for a node that never had one.
        """
        with _held(self.folder):
            ledger = read_ledger(self.folder.issued)
            if not ledger.of(node):
                known = ", ".join(sorted({each.node for each in ledger.certificates})) or "none"
                raise InputError([Problem("", 0, "", f"no certificate was signed for {node}", f"signed: {known}")])
            gone = {each.serial for each in ledger.of(node) if each.revoked is None}
            certificates = tuple(
                each.model_copy(update={"revoked": self._now}) if each.serial in gone else each
                for each in ledger.certificates
            )
            if gone:
                number = ledger.crl_number + 1
                # The list first: a crash between the two revokes once more, not once too few.
                write_atomic(self.folder.crl, _crl(self._key, self.certificate, certificates, number))
                self._write(ledger.model_copy(update={"certificates": certificates, "crl_number": number}))
        return len(gone)

    def ledger(self) -> Ledger:
        """What was signed so far. InputError."""
        return read_ledger(self.folder.issued)

    def bundle_without(self) -> Bundle:
        """What changes on a node when another one was revoked: only the list."""
        return self._bundle("")

    def _issue(self, csr: x509.CertificateSigningRequest, node: str, names: Sequence[str]) -> Issued:
        serial = x509.random_serial_number()
        until = min(self._now + VALID, self.certificate.not_valid_after_utc)
        usage = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_subject(node))
            .issuer_name(self.certificate.subject)
            .public_key(csr.public_key())
            .serial_number(serial)
            .not_valid_before(max(self._now - BACKDATED, self.certificate.not_valid_before_utc))
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), critical=False)
            .add_extension(_issuer_id(self.certificate), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            node=node,
            serial=f"{serial:x}",
            key=key_digest(csr.public_key()),
            names=tuple(names),
            issued=self._now,
            not_after=certificate.not_valid_after_utc,
            pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        )

    def _bundle(self, certificate: str) -> Bundle:
        return Bundle(
            certificate=certificate,
            ca=self.folder.certificate.read_text(encoding="ascii"),
            crl=self.folder.crl.read_text(encoding="ascii"),
        )

    def _write(self, ledger: Ledger) -> None:
        write_atomic(self.folder.issued, ledger.model_dump_json(by_alias=True, indent=2) + "\n", mode=0o600)

    def _read(self, request: str, node: str) -> x509.CertificateSigningRequest:
        try:
            csr = x509.load_pem_x509_csr(request.encode())
            sound = csr.is_signature_valid
        except (ValueError, UnsupportedAlgorithm, InvalidSignature, TypeError):
            csr, sound = None, False
        key = csr.public_key() if csr is not None and sound else None
        if csr is None or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            what = f"{node}: this is no request of a node (PEM, with its signature, of a P-256 key)"
            raise InputError([Problem("", 0, "", what, f"python -m smolcluster certificate request {node} prints one")])
        return csr


def _make(folder: AuthorityFolder, now: datetime) -> None:
    """The certificate last: with it, the authority exists."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    subject = _subject(f"smolcluster {serial:x}"[:24])
    permitted = (*(x509.DNSName(domain) for domain in DOMAINS), *(x509.IPAddress(network) for network in NETWORKS))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + AUTHORITY_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_atomic(folder.key, pem, mode=0o600)
    write_atomic(folder.issued, Ledger(schema=1).model_dump_json(by_alias=True, indent=2) + "\n", mode=0o600)
    write_atomic(folder.crl, _crl(key, certificate, (), 0))
    write_atomic(folder.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def _crl(
    key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate, certificates: Iterable[Issued], number: int
) -> bytes:
    """The list of revoked ones, good for as long as the authority."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(issuer.not_valid_before_utc)
        .next_update(issuer.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_issuer_id(issuer), critical=False)
    )
    for each in certificates:
        if each.revoked is not None:
            entry = x509.RevokedCertificateBuilder().serial_number(int(each.serial, 16)).revocation_date(each.revoked)
            builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _issuer_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _addresses(csr: x509.CertificateSigningRequest) -> list[str]:
    try:
        said = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [str(address) for address in said.get_values_for_type(x509.IPAddress)]


@contextlib.contextmanager
def _held(folder: AuthorityFolder) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder.lock, _LOCK_S))
        except FileNotFoundError as error:
            raise NoPlaceError(error.errno, error.strerror, str(folder.lock)) from error
        except TimeoutError as error:
            raise InputError([Problem(str(folder.path), 0, "", str(error), "wait for the other command")]) from error
        yield
