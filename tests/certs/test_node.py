"""A node's own part: the key, what it takes in, and what others would refuse it for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smolcluster.certs.authority import BACKDATED, VALID
from smolcluster.certs.checking import check_node
from smolcluster.certs.node import Bundle, days_left, install, make_request, read_bundle
from smolcluster.errors import InputError
from smolcluster.files import hash_of

from .cluster import DAY, NOW, Certified


@pytest.fixture
def cluster(tmp_path: Path) -> Certified:
    made = Certified(tmp_path / "ours")
    made.add("a")
    made.add("b")
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def answer(cluster: Certified, node: str) -> Bundle:
    return cluster.at().sign(make_request(cluster.node(node), node)[0], node, (f"{node}.local",))[0]


def test_the_key_is_made_once_and_is_in_nothing_that_travels(cluster: Certified) -> None:
    folder = cluster.node("a")
    key = folder.key.read_text()
    request, made = make_request(folder, "a")
    assert not made
    assert folder.key.read_text() == key
    secret = "".join(key.splitlines()[1:-1])
    for text in (request, answer(cluster, "a").model_dump_json(), cluster.authority.issued.read_text()):
        assert "PRIVATE" not in text
        assert secret[30:80] not in text


def test_installing_twice_changes_nothing(cluster: Certified) -> None:
    before = contents(cluster.node("a").path)
    assert not install(cluster.node("a"), "a", answer(cluster, "a"))
    assert contents(cluster.node("a").path) == before
    assert days_left(cluster.node("a"), NOW) == VALID.days


def test_a_good_node_is_accepted(cluster: Certified) -> None:
    check_node(cluster.node("a"), "a", cluster.fingerprint, hash_of(cluster.authority.crl))


def test_what_would_make_a_node_useless_is_not_taken_in(cluster: Certified, tmp_path: Path) -> None:
    """Of each answer that is wrong: why, and that nothing of it is left."""
    folder, good = cluster.node("a"), answer(cluster, "a")
    other = Certified(tmp_path / "other")
    other.add("a")
    theirs, of_b = answer(other, "a"), answer(cluster, "b")
    old = Certified(tmp_path / "old")
    old.at(NOW - 2 * VALID)
    shutil.copytree(folder.path, old.node("a").path)
    expired, _ = old.at(NOW - VALID - DAY).sign(make_request(folder, "a")[0], "a")
    cluster.at().revoke("a")
    revoked = good.model_copy(update={"crl": cluster.authority.crl.read_text()})
    before = contents(folder.path)
    for bundle, why in (
        (of_b, "its certificate cannot be used: KEY_VALUES_MISMATCH"),
        (good.model_copy(update={"ca": theirs.ca}), "is not one of its authority's"),
        (good.model_copy(update={"crl": theirs.crl}), "its list of revoked certificates is another authority's"),
        (good.model_copy(update={"certificate": "hello"}), "its certificate cannot be used"),
        (good.model_copy(update={"crl": ""}), "its certificate cannot be used|another authority's"),
        (expired, "its certificate has expired"),
        (revoked, "its certificate was revoked"),
    ):
        with pytest.raises(InputError, match=why) as caught:
            install(folder, "a", bundle)
        assert ".new" not in str(caught.value)
        assert contents(folder.path) == before


def test_an_older_list_would_let_a_lost_node_in_again(cluster: Certified) -> None:
    old = answer(cluster, "a")
    cluster.at().revoke("b")
    cluster.tells("a")
    with pytest.raises(InputError, match=r"has a newer list of revoked certificates \(1\) than the controller \(0\)"):
        install(cluster.node("a"), "a", old)
    assert cluster.node("a").crl.read_bytes() == cluster.authority.crl.read_bytes()


def test_a_node_moves_to_another_cluster(cluster: Certified, tmp_path: Path) -> None:
    other = Certified(tmp_path / "other")
    bundle, _ = other.at().sign(make_request(cluster.node("a"), "a")[0], "a", ("a.local",))
    assert install(cluster.node("a"), "a", bundle)
    check_node(cluster.node("a"), "a", other.fingerprint)
    with pytest.raises(InputError, match="is of another cluster's authority"):
        check_node(cluster.node("a"), "a", cluster.fingerprint)


def test_what_others_would_refuse_it_for(cluster: Certified, tmp_path: Path) -> None:
    def wrong(name: str) -> str:
        with pytest.raises(InputError) as caught:
            check_node(made.node(name), name, made.fingerprint)
        return str(caught.value)

    made = Certified(tmp_path / "more")
    made.add("a")
    made.node("a").key.chmod(0o640)
    assert "a: its key can be read by others" in wrong("a")
    assert "chmod 600" in wrong("a")
    made.node("a").key.chmod(0o600)
    for name in ("node.key", "node.pem", "ca.pem", "crl.pem"):
        shutil.copytree(made.node("a").path, made.node(f"no {name}").path)
        (made.node(f"no {name}").path / name).unlink()
        assert f"no {name}: this node has no certificate of this cluster" in wrong(f"no {name}")
    made.at().revoke("a")
    with pytest.raises(InputError, match="its list of revoked certificates is not the newest"):
        check_node(made.node("a"), "a", made.fingerprint, hash_of(made.authority.crl))
    made.node("a").crl.write_bytes(made.authority.crl.read_bytes())
    assert "a: its certificate was revoked" in wrong("a")
    made = Certified(tmp_path / "future")
    made.at(NOW + 2 * BACKDATED)
    request, _ = make_request(made.node("a"), "a")
    bundle, _ = made.at(NOW + 2 * BACKDATED).sign(request, "a", ("a.local",))
    for name, text in (("node.pem", bundle.certificate), ("ca.pem", bundle.ca), ("crl.pem", bundle.crl)):
        (made.node("a").path / name).write_text(text)
    assert "is not valid yet by its own clock" in wrong("a")
    assert "fix: set the clock of that machine" in wrong("a")


def test_what_is_no_answer(cluster: Certified) -> None:
    for text in ("", "hello", "{}", '{"schema": 1}'):
        with pytest.raises(InputError, match="this is not an authority's answer"):
            read_bundle(text)
    newer = answer(cluster, "a").model_copy(update={"schema_": 2})
    with pytest.raises(InputError, match="version 2; this smolcluster reads version 1"):
        read_bundle(newer.model_dump_json(by_alias=True))


def run(home: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "smolcluster", "certificate", *words],
        input=given,
        env={"HOME": str(home), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_the_commands_in_their_order(tmp_path: Path) -> None:
    controller, node = tmp_path / "controller", tmp_path / "node"
    none = run(controller, "list")
    assert (none.returncode, none.stdout) == (2, "")
    assert "the cluster has no authority yet" in none.stderr
    first = run(controller, "init")
    assert (first.returncode, len(first.stdout)) == (0, 65)
    again = run(controller, "init")
    assert (again.stdout, again.stderr) == (first.stdout, "")
    request = run(node, "request", "pi5")
    assert "made a key in" in request.stderr
    signed = run(controller, "sign", "pi5", "--names", "pi5.local", given=request.stdout)
    assert signed.stderr == "signed a certificate for pi5\n"
    assert run(controller, "sign", "pi5", "--names", "pi5.local", given=request.stdout).stderr == ""
    assert run(node, "install", "pi5", given=signed.stdout).stdout == "installed\n"
    assert run(node, "install", "pi5", given=signed.stdout).stdout == "as it was\n"
    checked = run(node, "check", "pi5")
    assert checked.stdout.startswith("ok: pi5, of the authority ")
    assert run(controller, "list").stdout.startswith("pi5  until   ")
    assert run(controller, "revoke", "pi5").stdout == "revoked 1 certificate of pi5\n"
    assert run(controller, "revoke", "pi5").stdout == "pi5 was revoked already\n"
    refused = run(node, "install", "pi5", given=run(controller, "crl").stdout)
    assert (refused.returncode, "its certificate was revoked" in refused.stderr) == (2, True)
    wrong = run(controller, "sign", "pi5", "--names", "pi5.local", given="hello")
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
