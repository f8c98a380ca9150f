"""The site of the tablets' page, without a browser: what it serves, to whom, and what it refuses."""

import gzip
import re
import socket
import threading

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from smolcluster.comm.clock import Deadline
from smolcluster.errors import ConfigError, HandshakeError, PeerError, PeerLostError
from smolcluster.tablet.channel import CLOSE_S, REPLACED, Channel
from smolcluster.tablet.door import Door
from smolcluster.tablet.greeting import Self, greet_as_dialler, tablet_key
from smolcluster.tablet.messages import MOST_SMALL, Ping
from smolcluster.tablet.web import FOLDER, TabletSite, read_page
from tests.certs.cluster import Certified
from tests.tablet.tablets import CLUSTER, LONG, RUN, TABLET

# gzip: the WebAssembly. Scripts are counted as they travel.
MOST_WASM_BYTES, MOST_JS_BYTES = 7_000_000, 150_000


@pytest.fixture
def sited():
    """sited(tls) -> (door, site), which are closed at the end."""
    made = []

    def make(tls=None):
        door = Door((), 0, CLUSTER)
        made.append((door, TabletSite(door, "127.0.0.1", 0, tls)))
        made[-1][1].start()
        return made[-1]

    yield make
    for door, site in made:
        door.close()
        site.close()


@pytest.fixture
def origin(sited):
    return sited()[1].address.removesuffix("/tablet")


def dialled(site: str, **options) -> Channel:
    where = site.replace("http", "ws") + "/tablet/socket"
    connection = connect(where, proxy=None, compression=None, ping_interval=None, legacy=True, **options)
    return Channel(connection, "the cluster")


def test_the_page_and_its_files_are_served_under_a_strict_policy(origin):
    port = origin.rpartition(":")[2]
    with httpx2.Client(base_url=origin, timeout=LONG) as client:
        page = client.get("/tablet")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert f'name="smolcluster-run" content="{RUN}"' in page.text
        named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(named) >= 3
        answers = {path: client.get(path) for path in named}
        for path, answer in {"/tablet": page, **answers}.items():
            headers = answer.headers
            assert answer.status_code == 200, path
            assert headers["content-security-policy"] == (
                "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
                f"img-src 'self'; connect-src 'self' ws://127.0.0.1:{port}; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'"
            )
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert headers["cross-origin-embedder-policy"] == "require-corp"
            assert headers["x-content-type-options"] == "nosniff"
            kept = path.startswith("/tablet/assets/")
            assert headers["cache-control"] == ("public, max-age=31536000, immutable" if kept else "no-cache")
            assert headers["content-encoding"] == "gzip"
        for path in ("/", "/tablet/", "/tablet/tablet.html", "/tablet/assets/", "/tablet/../web.py", "/health"):
            assert client.get(path).status_code == 404
        assert client.post("/tablet").status_code == 405
        plain = client.get(named[0], headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == answers[named[0]].content


def test_what_ships_is_as_large_as_it_is_said_to_be():
    packed = {path.suffix: 0 for path in FOLDER.rglob("*")}
    for path in FOLDER.rglob("*.*"):
        packed[path.suffix] += len(gzip.compress(path.read_bytes(), 6, mtime=0))
    assert 0 < packed[".wasm"] < MOST_WASM_BYTES
    assert 0 < packed[".js"] + packed[".mjs"] < MOST_JS_BYTES


def test_a_run_s_name_cannot_break_out_of_the_page(tmp_path):
    (tmp_path / "tablet.html").write_text('<meta name="smolcluster-run" content="" />')
    assert read_page('"><b>', tmp_path)["/tablet"].content == (
        b'<meta name="smolcluster-run" content="&quot;&gt;&lt;b&gt;" />'
    )
    with pytest.raises(ConfigError) as error:
        read_page("run", tmp_path / "nothing")
    assert "make page" in str(error.value)


def test_a_page_of_another_origin_gets_no_socket(origin):
    other_port = origin.rpartition(":")[0] + ":1"
    for other in ("http://evil.example", origin.replace("http", "https"), other_port, "null"):
        with pytest.raises(InvalidStatus) as refused:
            dialled(origin, origin=other)
        assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as missing:
        connect(origin.replace("http", "ws") + "/tablet", proxy=None, legacy=True)
    assert missing.value.response.status_code == 200  # the page, and no socket


def test_the_door_greets_who_comes_by_the_site(sited):
    door, site = sited()
    origin = site.address.removesuffix("/tablet")
    mine = dialled(origin, origin=origin)
    greet_as_dialler(mine, TABLET, Deadline(LONG))
    taken = door.take(Deadline(LONG))
    mine.send(Ping(7), Deadline(LONG))
    assert taken.receive(Deadline(LONG)) == Ping(7)
    # The newer one counts; the former is told that it was not just the network.
    newer = dialled(origin)
    greet_as_dialler(newer, TABLET, Deadline(LONG))
    with pytest.raises(ConnectionClosed) as end:
        mine._connection.recv(LONG)
    assert end.value.rcvd.code == REPLACED
    with pytest.raises(PeerLostError):
        taken.receive(Deadline(LONG))
    assert door.take(Deadline(LONG)).who.startswith("the tablet at 127.0.0.1:")
    newer.close()
    mine.close()


def test_a_stranger_gets_nothing_and_may_say_little(sited):
    door, site = sited()
    origin = site.address.removesuffix("/tablet")
    stranger = dialled(origin)
    with pytest.raises(HandshakeError, match="did not prove"):
        greet_as_dialler(stranger, Self("tablet", RUN, "ipad", tablet_key(b"another secret")), Deadline(LONG))
    stranger.close()
    loud = dialled(origin)
    loud._connection.send(b"x" * (MOST_SMALL + 1))
    with pytest.raises(ConnectionClosed) as end:
        loud._connection.recv(LONG)
    assert end.value.rcvd.code == 1009
    loud.close()
    with pytest.raises(PeerError):
        door.take(Deadline(0))


def test_by_https_with_a_node_s_certificate(sited, tmp_path):
    import ssl

    from smolcluster.certs.checking import browser_context

    made = Certified(tmp_path / "home" / ".smolcluster")
    made.add("local1", "localhost", "127.0.0.1")
    door, site = sited(browser_context(made.node("local1")))
    assert site.address.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(made.node("local1").ca))
    with httpx2.Client(verify=trusting, timeout=LONG) as client:
        page = client.get(site.address)
        assert "wss://127.0.0.1:" in page.headers["content-security-policy"]
    mine = dialled(site.address.removesuffix("/tablet"), ssl=trusting)
    greet_as_dialler(mine, TABLET, Deadline(LONG))
    assert isinstance(door.take(Deadline(LONG)), Channel)
    mine.close()


def test_a_site_closes_though_somebody_says_nothing(sited):
    door, site = sited()
    port = int(site.address.removesuffix("/tablet").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.sendall(b"GET /tablet HTTP/1.1\r\n")
        ended = threading.Thread(target=lambda: (door.close(), site.close()))
        ended.start()
        ended.join(LONG)
        assert not ended.is_alive()
    with pytest.raises(OSError, match=r"refused|reset"):
        socket.create_connection(("127.0.0.1", port)).recv(1)


@pytest.mark.slow
def test_whoever_reads_slowly_gets_all_of_a_file(sited):
    """A poor Wi-Fi takes seconds for the runtime; what a farewell may take is over before."""
    _, site = sited()
    port = int(site.address.removesuffix("/tablet").rpartition(":")[2])
    [runtime] = [path for path in read_page(RUN) if path.endswith(".wasm")]
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(LONG)
        slow.connect(("127.0.0.1", port))
        slow.sendall(f"GET {runtime} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        came = slow.recv(12)
        threading.Event().wait(2.5 * CLOSE_S)
        while more := slow.recv(1 << 20):
            came += more
    assert came.partition(b"\r\n\r\n")[2] == read_page(RUN)[runtime].content


def test_a_site_closes_though_somebody_does_not_read_on(sited):
    """Less than the time that a file may take: a run is to end, whoever fell asleep over the download."""
    door, site = sited()
    port = int(site.address.removesuffix("/tablet").rpartition(":")[2])
    [runtime] = [path for path in read_page(RUN) if path.endswith(".wasm")]
    with socket.socket() as asleep:
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asleep.connect(("127.0.0.1", port))
        asleep.sendall(f"GET {runtime} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert asleep.recv(12) == b"HTTP/1.1 200"
        ended = threading.Thread(target=lambda: (door.close(), site.close()))
        ended.start()
        ended.join(LONG)
        assert not ended.is_alive()


def test_it_listens_on_no_other_address_than_was_said():
    door = Door((), 0, CLUSTER)
    for everywhere in ("0.0.0.0", "::", ""):
        with pytest.raises(PeerError):
            TabletSite(door, everywhere, 0).start()
    door.close()
