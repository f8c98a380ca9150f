"""The API by HTTPS, with its node's certificate: what a browser, a program and our own command see of it."""

import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from websockets.sync.client import connect

from smolcluster.certs.checking import browser_context
from smolcluster.chat.backend.rank import run_api
from smolcluster.cli import main
from smolcluster.errors import InputError
from smolcluster.infer.group import group_of
from smolcluster.plan.types import ServePlan
from smolcluster.runtime.onetime import make_onetime
from smolcluster.runtime.runfolder import RunFolder
from tests.asked import Asked, asked_already
from tests.certs.cluster import Certified
from tests.chat.conftest import KEY, PATIENCE_S
from tests.chat.fake_head import FakeHead
from tests.chat.test_serve import gate, node, noted, serve_plan


@pytest.fixture
def cluster(tmp_path) -> Certified:
    made = Certified(tmp_path / "home" / ".smolcluster")
    made.add("local1", "local1.local", "localhost", "127.0.0.1")
    return made


def encrypted(cluster: Certified) -> ServePlan:
    """Its API by HTTPS and the link to its head by TLS, on loopback, where a test may listen."""
    plan = serve_plan(tls=True)
    ranks = tuple(rank.model_copy(update={"encrypt": {1 - rank.rank: True}}) for rank in plan.ranks)
    return plan.model_copy(update={"ranks": ranks, "ca": cluster.fingerprint})


@contextmanager
def served(tmp_path, cluster: Certified, head: FakeHead):
    """The API's rank from its node.yaml, with a head over a link in TLS: its addresses."""
    (tmp_path / "secret").write_text("a secret of the tests")
    (tmp_path / "api_key").write_text(KEY)
    plan = encrypted(cluster)
    config = node(
        tmp_path, ranks=(0, 1), api_key_file=str(tmp_path / "api_key"), certificates=str(cluster.node("local1").path)
    )
    asked = Asked()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            run_api(config, plan, plan.ranks[1], asked)
        except BaseException as error:  # noqa: BLE001  the test sees it
            failures.append(error)

    rank = threading.Thread(target=run)
    rank.start()
    try:
        with gate(config, plan, head):
            yield noted(RunFolder(tmp_path).serving("local1", 1), lambda note: note.state == "ready").urls
    finally:
        asked.set()
        rank.join(60)
    assert not rank.is_alive()
    assert failures == []


def trusting(cluster: Certified) -> ssl.SSLContext:
    """As a phone on which ca.pem was installed: names are looked at too."""
    return ssl.create_default_context(cafile=cluster.authority.certificate)


HEADERS = {"Authorization": f"Bearer {KEY}"}


def test_who_trusts_the_authority_needs_no_exception(tmp_path, cluster, head, monkeypatch, capsys) -> None:
    with served(tmp_path, cluster, head) as urls:
        assert {url.partition("127.0.0.1:")[0] for url in urls.values()} == {"https://"}
        with httpx2.Client(
            base_url=urls["api"], headers=HEADERS, verify=trusting(cluster), timeout=PATIENCE_S
        ) as client:
            assert client.post("/chat", json={"message": "hi"}).json()["text"] == "Hello!"
            with client.stream("POST", "/chat", json={"message": "hi", "stream": True}) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert '"Hel"' in "".join(answer.iter_text())
            page = httpx2.get(
                f"{urls['page']}/", verify=trusting(cluster), params={"key": make_onetime(KEY, time.time())}
            )
            assert (page.status_code, "; Secure" in page.headers["set-cookie"]) == (303, True)
        address = urls["api"].replace("https", "wss")
        with connect(
            f"{address}/ws/chat", ssl=trusting(cluster), additional_headers=HEADERS, open_timeout=PATIENCE_S
        ) as talking:
            talking.send(json.dumps({"message": "hi"}))
            while (event := json.loads(talking.recv(PATIENCE_S)))["type"] != "done":
                pass
            assert event["text"] == "Hello!"

        # Our own command finds the authority in its user's home.
        (tmp_path / "plan.json").write_text("{}")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert main(["link", urls["page"], "--run", str(tmp_path)]) == 0
        assert capsys.readouterr().out.startswith(f"{urls['page']}/?key=")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert main(["link", urls["page"], "--run", str(tmp_path)]) == 3
        assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err


def test_who_does_not_gets_nothing(tmp_path, cluster, head) -> None:
    def ask(context: ssl.SSLContext, name: str = "127.0.0.1") -> str:
        with (
            socket.create_connection(where, PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=name) as safe,
        ):
            safe.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert safe.recv(12) == b"HTTP/1.1 200"
            return str(safe.version())

    with served(tmp_path, cluster, head) as urls:
        host, _, port = urls["api"].removeprefix("https://").partition(":")
        where = (host, int(port))
        assert ask(trusting(cluster)) == "TLSv1.3"
        assert ask(trusting(cluster), "local1.local") == "TLSv1.3"
        older = trusting(cluster)
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        assert ask(older) == "TLSv1.2"
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            ask(trusting(cluster), "bank.example")
        with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed|unable to get local issuer"):
            ask(ssl.create_default_context())
        with socket.create_connection(where, PATIENCE_S) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" not in plain.recv(100)


def test_who_says_nothing_of_tls_does_not_keep_a_place(serve, cluster, head) -> None:
    api = serve(head, tls=browser_context(cluster.node("local1")), handshake_s=0.3)
    host, _, port = api.url.removeprefix("https://").partition(":")
    where = (host, int(port))
    with (
        socket.create_connection(where, PATIENCE_S) as plain,
        trusting(cluster).wrap_socket(plain, server_hostname="localhost") as safe,
    ):
        for begun in (b"", b"\x16\x03\x01"):  # nothing, and the beginning of a first record
            with socket.create_connection(where, 30) as stranger:
                stranger.sendall(begun)
                assert stranger.recv(1) == b"", "it would be kept for a minute"
        safe.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert safe.recv(12) == b"HTTP/1.1 200"


def test_without_a_certificate_it_does_not_begin(tmp_path, cluster) -> None:
    (tmp_path / "secret").write_text("a secret of the tests")
    plan = encrypted(cluster)
    with pytest.raises(InputError, match=r"node.yaml names no certificates of local1"):
        run_api(node(tmp_path, ranks=(1,)), plan, plan.ranks[1], asked_already())
    with pytest.raises(InputError, match=r"links of local1 must be encrypted, and node.yaml names no certificates"):
        group_of(node(tmp_path, ranks=(0,)), plan, plan.ranks[0])
    cluster.node("local1").certificate.unlink()
    config = node(tmp_path, ranks=(0, 1), certificates=str(cluster.node("local1").path))
    for fails in (
        lambda: run_api(config, plan, plan.ranks[1], asked_already()),
        lambda: group_of(config, plan, plan.ranks[0]),
    ):
        with pytest.raises(InputError, match="local1: this node has no certificate of this cluster"):
            fails()
    assert not Path(tmp_path / "nodes").exists()
