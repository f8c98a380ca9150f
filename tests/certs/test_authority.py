"""The authority: what it signs and for how long, when it signs anew, what it refuses. Days are given, nobody sleeps."""

from __future__ import annotations

import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from smolcluster.certs.authority import BACKDATED, RENEWED_BELOW, VALID, Authority
from smolcluster.certs.ledger import refuse_uncertified
from smolcluster.certs.names import names_of
from smolcluster.certs.node import make_request
from smolcluster.errors import InputError
from smolcluster.files import hash_of
from smolcluster.spec.inventory import load_inventory
from tests.unit.test_plan import HOME

from .cluster import DAY, NOW, Certified


@pytest.fixture
def cluster(tmp_path: Path) -> Certified:
    return Certified(tmp_path)


def certificate_of(cluster: Certified, node: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(cluster.node(node).certificate.read_bytes())


def test_what_is_signed(cluster: Certified) -> None:
    cluster.add("pi5", "pi5.local", "192.168.50.2", "fd00::5")
    mine = certificate_of(cluster, "pi5")
    assert mine.subject.rfc4514_string() == "CN=pi5"
    # A machine without a clock, that was off for a year, and Apple's limit of 825 days.
    assert (mine.not_valid_before_utc, mine.not_valid_after_utc) == (NOW - BACKDATED, NOW + VALID)
    assert timedelta(days=365) <= BACKDATED
    assert (BACKDATED + VALID).days <= 825
    names = mine.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"pi5.local"} == set(names.get_values_for_type(x509.DNSName))
    assert {"192.168.50.2", "fd00::5"} <= {str(each) for each in names.get_values_for_type(x509.IPAddress)}
    usage = mine.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [each._name for each in usage] == ["serverAuth", "clientAuth"]
    authority = x509.load_pem_x509_certificate(cluster.authority.certificate.read_bytes())
    mine.verify_directly_issued_by(authority)
    assert authority.not_valid_before_utc <= NOW - BACKDATED
    assert authority.not_valid_after_utc - NOW >= timedelta(days=3650)
    crl = x509.load_pem_x509_crl(cluster.authority.crl.read_bytes())
    assert crl.next_update_utc == authority.not_valid_after_utc, "an old list must not stop the cluster"
    assert (crl.last_update_utc, len(crl)) == (authority.not_valid_before_utc, 0)


def test_files_that_others_may_not_read(cluster: Certified) -> None:
    cluster.add("pi5")
    for path, wanted in (
        (cluster.authority.path, 0o700),
        (cluster.authority.key, 0o600),
        (cluster.authority.issued, 0o600),
        (cluster.node("pi5").path, 0o700),
        (cluster.node("pi5").key, 0o600),
    ):
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_names_of_the_home_inventory() -> None:
    home = load_inventory(HOME)
    always = ("127.0.0.1", "::1", "localhost")
    assert names_of(home, "pi5") == tuple(sorted((*always, "192.168.50.2", "pi5.local")))
    assert names_of(home, "mini1") == tuple(sorted((*always, "10.10.0.1", "192.168.50.1", "mini1.local")))


def test_it_signs_for_nothing_beyond_home(cluster: Certified) -> None:
    """Phones trust it: a stolen key must be no key to a person's bank."""
    cluster.add("pi5", "pi5.local", "bank.example", "8.8.8.8", "evil.local.example", "PI5.LAN")
    names = certificate_of(cluster, "pi5").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pi5.lan", "pi5.local"]
    assert "8.8.8.8" not in {str(each) for each in names.get_values_for_type(x509.IPAddress)}
    authority = x509.load_pem_x509_certificate(cluster.authority.certificate.read_bytes())
    limits = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert limits.critical


def test_renewed_when_less_than_a_third_is_left(cluster: Certified) -> None:
    cluster.add("pi5")
    first = cluster.node("pi5").certificate.read_text()
    last_day = NOW + VALID - RENEWED_BELOW
    cluster.add("pi5", now=last_day)
    assert cluster.node("pi5").certificate.read_text() == first
    request, made = make_request(cluster.node("pi5"), "pi5")
    assert not made
    bundle, new = cluster.at(last_day + DAY).sign(request, "pi5", ("pi5.local",))
    assert new
    later = x509.load_pem_x509_certificate(bundle.certificate.encode())
    assert later.not_valid_after_utc == last_day + DAY + VALID
    assert len(cluster.at().ledger().of("pi5")) == 2


def test_signed_anew_for_a_new_key_or_a_new_name(cluster: Certified) -> None:
    cluster.add("pi5", "pi5.local")
    first = certificate_of(cluster, "pi5")
    cluster.add("pi5", "pi5.local", "192.168.50.2")
    second = certificate_of(cluster, "pi5")
    assert second.serial_number != first.serial_number
    assert second.public_key() == first.public_key()
    cluster.add("pi5", "pi5.local")
    assert certificate_of(cluster, "pi5") == second, "one name less is no reason"
    cluster.node("pi5").key.unlink()
    cluster.add("pi5", "pi5.local")
    assert certificate_of(cluster, "pi5").public_key() != first.public_key()


def test_a_revoked_node_and_its_key(cluster: Certified) -> None:
    cluster.add("pi5")
    cluster.add("win")
    before = hash_of(cluster.authority.crl)
    assert (cluster.at().revoke("win"), cluster.at().revoke("win")) == (1, 0)
    crl = x509.load_pem_x509_crl(cluster.authority.crl.read_bytes())
    assert [entry.serial_number for entry in crl] == [certificate_of(cluster, "win").serial_number]
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 1
    assert hash_of(cluster.authority.crl) != before
    with pytest.raises(InputError, match=r"its key was revoked\n.*take it out of the inventory"):
        cluster.add("win")
    with pytest.raises(InputError, match="win was revoked on "):
        refuse_uncertified(cluster.authority, ("pi5", "win"))
    cluster.node("win").key.unlink()
    cluster.node("win").certificate.unlink()
    cluster.add("win")
    refuse_uncertified(cluster.authority, ("pi5", "win"))


def test_nodes_that_never_had_one_are_named(cluster: Certified) -> None:
    cluster.add("pi5")
    with pytest.raises(InputError, match=r"no certificate was signed for pi6\n.*signed: pi5"):
        cluster.at().revoke("pi6")
    with pytest.raises(InputError, match=r"2 problems(.|\n)*pi6 has no certificate of this cluster yet(.|\n)*pi7"):
        refuse_uncertified(cluster.authority, ("pi5", "pi6", "pi7"))


def _csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_requests_that_are_refused(cluster: Certified) -> None:
    good = _csr(ec.generate_private_key(ec.SECP256R1()))
    middle = len(good) // 2
    broken = good[:middle] + ("A" if good[middle] != "A" else "B") + good[middle + 1 :]
    weak = _csr(rsa.generate_private_key(65537, 1024))
    other = _csr(ec.generate_private_key(ec.SECP384R1()))
    for request in ("", "hello", good[:-40], broken, weak, other):
        with pytest.raises(InputError, match="this is no request of a node"):
            cluster.at().sign(request, "pi5")
    assert cluster.at().ledger().certificates == ()


def test_a_request_chooses_neither_its_name_nor_names_of_others(cluster: Certified) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    asked = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mini1")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mini1.local")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    bundle, _ = cluster.at().sign(asked, "win", ("win.local",))
    made = x509.load_pem_x509_certificate(bundle.certificate.encode())
    assert made.subject.rfc4514_string() == "CN=win"
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["win.local"]


def test_an_authority_is_never_made_twice(cluster: Certified) -> None:
    cluster.add("pi5")
    files = {path: path.read_bytes() for path in cluster.authority.path.iterdir()}
    Authority.create(cluster.authority, NOW + 300 * DAY)
    assert {path: path.read_bytes() for path in cluster.authority.path.iterdir()} == files


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "issued.json"])
@pytest.mark.parametrize("content", [None, "garbage"])
def test_what_is_lost_or_broken_of_it_is_said(cluster: Certified, name: str, content: str | None) -> None:
    cluster.add("pi5")
    path = cluster.authority.path / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(InputError, match=r"from a copy|if it was there"):
        Authority(cluster.authority).revoke("pi5")


def test_key_and_certificate_of_two_authorities(cluster: Certified, tmp_path: Path) -> None:
    cluster.at()
    other = Certified(tmp_path / "other")
    other.at()
    cluster.authority.key.write_bytes(other.authority.key.read_bytes())
    with pytest.raises(InputError, match="do not belong together"):
        cluster.at()


def test_several_sign_at_once_and_none_is_forgotten(cluster: Certified) -> None:
    """As a playbook does with all machines: what is not in the ledger could never be revoked."""
    cluster.at()
    nodes = [f"pi{number}" for number in range(6)]
    for node in nodes:
        (cluster.path / f"{node}.csr").write_text(make_request(cluster.node(node), node)[0])
    command = (sys.executable, "-m", "smolcluster", "certificate", "sign", "--ca", str(cluster.authority.path))
    signing = []
    for node in nodes:
        with (cluster.path / f"{node}.csr").open("rb") as request:
            words = [*command, node, "--names", f"{node}.local"]
            signing.append(subprocess.Popen(words, stdin=request, stdout=subprocess.DEVNULL))
    assert [each.wait(120) for each in signing] == [0] * len(nodes)
    assert sorted(each.node for each in cluster.at().ledger().certificates) == nodes
