"""Listening, dialling, and what goes wrong with addresses and ports."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint, dial, granted_buffers, listen, tune
from smolcluster.comm.handshake import Hello, Identity, accept_handshake
from smolcluster.comm.listener import Listener
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError
from tests.comm.wires import ME, SERVER, together, until


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener(listen(("127.0.0.1",), 0), SERVER, 1 << 20, timeout_s=5)
    yield made
    made.close()


def mesh(me: Identity, listener: Listener | None, timeout_s: float = 20) -> Mesh:
    return Mesh(me, listener, {}, {}, {}, None, 1 << 20, timeout_s)


def test_a_link_has_a_socket_per_direction(listener: Listener) -> None:
    theirs, mine = together(
        lambda: mesh(SERVER, listener).link(1, "ring"), lambda: mesh(ME, None).link(0, "ring", listener.endpoint)
    )
    mine.out.sock.send(b"there")
    theirs.out.sock.send(b"back")
    assert theirs.inward.sock.recv(10) == b"there"
    assert mine.inward.sock.recv(10) == b"back"
    for link in (mine, theirs):
        link.discard()


def test_who_has_answered_has_time_for_its_handshake(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank dials in short attempts, since the address may be an old one. On a busy machine an answer takes longer,
    and one that is given up then is, to the other end, a rank that came and was lost."""
    attempt = Deadline(0.2)
    slow = threading.Event()

    def accept(*given: Any) -> Any:
        if not slow.is_set():
            until(lambda: attempt.expired)
            slow.set()
        return accept_handshake(*given)

    monkeypatch.setattr("smolcluster.comm.listener.accept_handshake", accept)
    theirs = mesh(ME, None)
    ours = mesh(SERVER, listener)
    got, mine = together(
        lambda: theirs.link(0, "x", listener.endpoint, attempt), lambda: ours.link(1, "x", deadline=Deadline(20))
    )
    assert attempt.expired
    got.out.sock.send(b"hello")
    assert mine.inward.sock.recv(10) == b"hello"
    for link in (got, mine):
        link.discard()


def test_it_goes_on_listening_for_the_right_one(listener: Listener) -> None:
    with socket.create_connection((listener.endpoint.host, listener.endpoint.port)) as silent:
        with socket.create_connection((listener.endpoint.host, listener.endpoint.port)) as noisy:
            noisy.sendall(b"GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n")
            with pytest.raises(HandshakeError, match="the run's secret differs"):
                mesh(replace(ME, secret=b"wrong" * 8), None).link(0, "ring", listener.endpoint)
            theirs, mine = together(
                lambda: mesh(SERVER, listener).link(1, "ring"),
                lambda: mesh(ME, None).link(0, "ring", listener.endpoint),
            )
        assert silent.fileno() >= 0  # it still holds its connection, and nobody waited for it
    # Each caller has a thread of its own; nobody waits for those that are refused.
    for wanted in ("the run's secret differs", "sent garbage instead of a frame"):
        until(lambda wanted=wanted: wanted in "\n".join(map(str, listener.refusals)))
    for link in (mine, theirs):
        link.discard()


def test_a_rank_that_does_not_come_is_named_with_those_who_were_refused(listener: Listener) -> None:
    with pytest.raises(HandshakeError):
        mesh(replace(ME, generation=9), None).link(0, "ring", listener.endpoint)
    with pytest.raises(DeadlineError) as caught:
        mesh(SERVER, listener, timeout_s=0.3).link(1, "ring")
    assert str(caught.value).startswith("rank 1 did not connect within 0.3 s. Fix: look at that rank's log")
    assert "refused meanwhile:" in str(caught.value)
    assert "generation 9 of the run, not 3" in str(caught.value)


def test_two_processes_cannot_claim_one_rank(listener: Listener) -> None:
    theirs, mine = together(
        lambda: mesh(SERVER, listener).link(1, "ring"), lambda: mesh(ME, None).link(0, "ring", listener.endpoint)
    )
    second = mesh(ME, None).link(0, "ring", listener.endpoint)
    with pytest.raises(PeerError):
        second.receive(2.0)
    assert "two processes claim that rank" in str(listener.refusals[-1])
    for link in (mine, theirs, second):
        link.discard()


def test_a_link_whose_first_half_was_refused_is_not_left_half_open(listener: Listener) -> None:
    """The rank's last process is noticed to be gone between the two halves of its next one's link."""
    theirs, mine = together(
        lambda: mesh(SERVER, listener).link(1, "ring"), lambda: mesh(ME, None).link(0, "ring", listener.endpoint)
    )
    again = mesh(ME, None)
    deadline = Deadline(20)
    first, _ = again._dial_one(0, listener.endpoint, ME, Hello(1, "ring", "again", "out"), deadline)
    with pytest.raises(PeerError):
        first.recv_all(memoryview(bytearray(1)), deadline)
    for link in (mine, theirs):
        link.discard()
    second, _ = again._dial_one(0, listener.endpoint, ME, Hello(1, "ring", "again", "in"), deadline)
    with pytest.raises(PeerLostError):
        second.recv_all(memoryview(bytearray(1)), deadline)
    for wire in (first, second):
        wire.close()


def test_those_who_came_for_what_is_over_are_hung_up_on(listener: Listener) -> None:
    links = {channel: mesh(ME, None).link(0, channel, listener.endpoint) for channel in ("old", "new")}
    half, _ = mesh(ME, None)._dial_one(0, listener.endpoint, ME, Hello(1, "older", "late", "out"), Deadline(20))
    until(lambda: len(listener._links) == 2 and bool(listener._halves))
    listener.sweep(lambda channel: channel != "new")
    with pytest.raises(PeerLostError):
        links["old"].receive(20)
    with pytest.raises(PeerError):
        half.recv_all(memoryview(bytearray(1)), Deadline(20))
    assert not listener.holds("old", 1)
    assert not listener._halves
    taken = listener.take("new", 1, Deadline(20))
    for link in (*links.values(), taken):
        link.discard()
    half.close()


def test_a_port_in_use_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PeerError) as caught:
            listen(("127.0.0.1",), port)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port}: port {port} is in use on 127.0.0.1. Fix: stop the run that holds it "
        "(ansible-playbook stop.yml), or set another `port` (0 takes any free one)."
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_nothing_listens_on_every_interface(host: str) -> None:
    with pytest.raises(PeerError, match="that is every interface of this machine"):
        listen((host,), 0)


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(PeerError, match=r"192\.0\.2\.1 is not an address of this machine now"):
        listen(("192.0.2.1",), 0)


def test_several_addresses_share_one_port() -> None:
    sockets = listen(("127.0.0.1", "127.0.0.2"), 0)
    ports = {opened.getsockname()[1] for opened in sockets}
    for opened in sockets:
        opened.close()
    assert len(ports) == 1


def test_nobody_there_is_an_error_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        where = Endpoint(*gone.getsockname())
    with pytest.raises(DeadlineError) as caught:
        dial(where, Deadline(0.3), "rank 2")
    assert str(caught.value).startswith(f"nobody listens for rank 2 at {where} after 0.3 s.")


def test_own_name_that_means_loopback_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian maps a machine's own name to 127.0.1.1: the others would dial a port that nobody has out there."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(PeerError, match=r"cannot listen on pi5: here that name means 127\.0\.1\.1.*Fix: write"):
        listen(("pi5",), 0)


def test_own_name_takes_the_address_that_others_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    tcp = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*tcp, ("127.0.1.1", 0)), (*tcp, ("192.0.2.7", 0))])
    with pytest.raises(PeerError, match="pi5 is not an address of this machine now"):  # 192.0.2.7 was tried
        listen(("pi5",), 0)


def test_connections_ask_for_keepalive() -> None:
    with socket.socket() as opened:
        tune(opened, 1 << 20)
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 40_000


def test_a_name_that_cannot_be_resolved() -> None:
    with pytest.raises(PeerError, match=r"the name nowhere\.invalid cannot be resolved"):
        dial(Endpoint("nowhere.invalid", 1), Deadline(1), "rank 2")


def test_endpoints_read_as_people_write_them() -> None:
    assert str(Endpoint("::1", 80)) == "[::1]:80"
    assert str(Endpoint("mini1.local", 80)) == "mini1.local:80"


def test_buffers_are_granted_or_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS refuses what is above its limit; play it on Linux."""
    asked: list[int] = []

    class Mac(socket.socket):
        def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
            if option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                asked.append(value)
                if value > 1 << 20:
                    raise OSError(55, "No buffer space available")
            super().setsockopt(level, option, value)

    monkeypatch.setattr("sys.platform", "darwin")
    with Mac(socket.AF_INET, socket.SOCK_STREAM) as opened:
        tune(opened, 8 << 20)
        assert asked[:4] == [8 << 20, 4 << 20, 2 << 20, 1 << 20]
        assert min(granted_buffers(opened)) >= 64 * 1024
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
