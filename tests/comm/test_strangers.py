"""Strangers at the door: crowds, floods, half introductions; and what a rank does that is hung up on."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm import TlsContexts
from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint, dial, listen
from smolcluster.comm.frame import Kind, pack
from smolcluster.comm.handshake import Direction, Hello, Identity, Standing
from smolcluster.comm.link import Link
from smolcluster.comm.listener import MOST_NEWCOMERS, Listener, _Newcomer
from smolcluster.comm.mesh import Mesh
from smolcluster.comm.wire import Wire
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError
from tests.comm.mangle import cases, mangle, mangled_stream
from tests.comm.pool import Pool
from tests.comm.test_tls import contexts, make_certificates
from tests.comm.wires import ME, SERVER, together, until


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener(listen(("127.0.0.1",), 0), SERVER, 1 << 20, timeout_s=5)
    yield made
    made.close()


def mesh(me: Identity, listener: Listener | None, timeout_s: float = 20) -> Mesh:
    return Mesh(me, listener, {}, {}, {}, None, 1 << 20, timeout_s)


def crowd(listener: Listener, count: int) -> list[socket.socket]:
    return [socket.create_connection((listener.endpoint.host, listener.endpoint.port)) for _ in range(count)]


def meet(listener: Listener, timeout_s: float = 20, channel: str = "ring") -> None:
    links = together(
        lambda: mesh(SERVER, listener, timeout_s).link(1, channel),
        lambda: mesh(ME, None, timeout_s).link(0, channel, listener.endpoint),
    )
    assert all(isinstance(link, Link) for link in links), links
    links[1].send(Kind.MESSAGE, b"hello")
    assert links[0].receive(20).payload == b"hello"
    for link in links:
        link.discard()


def test_a_rank_gets_in_while_strangers_hold_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolcluster.comm.listener.HANDSHAKE_S", 60.0)
    listener = Listener(listen(("127.0.0.1",), 0), SERVER, 1 << 20, timeout_s=60)
    strangers = crowd(listener, MOST_NEWCOMERS)
    until(lambda: len(listener._newcomers) == MOST_NEWCOMERS)
    meet(listener, timeout_s=20)  # a stranger may stay for sixty
    listener.close()
    for stranger in strangers:
        stranger.close()


def test_a_rank_gets_in_while_strangers_keep_coming(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    # The floods take what processors there are: it may have to dial again often.
    monkeypatch.setattr("smolcluster.comm.mesh.CROWDED_S", 60.0)
    done = threading.Event()
    came = [0, 0]

    def flood(index: int) -> None:
        held: deque[socket.socket] = deque()
        while not done.is_set():
            held.append(socket.create_connection((listener.endpoint.host, listener.endpoint.port)))
            came[index] += 1
            if len(held) > MOST_NEWCOMERS:
                held.popleft().close()
        for opened in held:
            opened.close()

    floods = [threading.Thread(target=flood, args=(index,)) for index in range(2)]
    for thread in floods:
        thread.start()
    try:
        until(lambda: sum(came) > 2 * MOST_NEWCOMERS)
        meet(listener, timeout_s=60)
    finally:
        done.set()
        for thread in floods:
            thread.join()


def test_a_caller_that_proves_itself_is_not_sent_away(listener: Listener) -> None:
    """Of those who wait the silent ones leave first, the oldest before the others."""
    shy, bold = _Newcomer(socket.socket()), _Newcomer(socket.socket(), Standing.PROVEN)
    greeted, late = _Newcomer(socket.socket(), Standing.GREETED), _Newcomer(socket.socket())
    listener._newcomers = {threading.Thread(): newcomer for newcomer in (bold, greeted, shy, late)}
    left = []
    for _ in range(4):
        listener._make_room()
        left.append([known.sent_away for known in (shy, late, greeted, bold)])
    assert left == [[True, False, False, False], [True, True, False, False], *[[True, True, True, False]] * 2]
    listener._newcomers = {}
    for newcomer in (shy, bold, greeted, late):
        newcomer.opened.close()


def test_whoever_is_hung_up_on_dials_again() -> None:
    (opened,) = listen(("127.0.0.1",), 0)
    where = Endpoint(*opened.getsockname())
    listeners: list[Listener] = []

    def busy_at_first() -> Link:
        for _ in range(2):
            opened.setblocking(True)
            opened.accept()[0].close()
        opened.setblocking(False)
        listeners.append(Listener([opened], SERVER, 1 << 20, 5))
        return mesh(SERVER, listeners[0]).link(1, "ring")

    theirs, mine = together(busy_at_first, lambda: mesh(ME, None).link(0, "ring", where))
    assert isinstance(mine, Link), mine
    for link in (mine, theirs):
        link.discard()
    listeners[0].close()


def test_whoever_is_hung_up_on_for_good_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolcluster.comm.mesh.CROWDED_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as rude:
        ended = threading.Event()

        def hang_up() -> None:
            rude.settimeout(0.1)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    rude.accept()[0].close()

        def dialling() -> None:
            try:
                mesh(ME, None).link(0, "ring", Endpoint(*rude.getsockname()))
            finally:
                ended.set()

        error, _ = together(dialling, hang_up)
    assert type(error) is HandshakeError
    assert "hung up during the handshake" in str(error)


@pytest.mark.parametrize("there", [True, False], ids=["silent", "nobody"])
def test_a_failure_of_the_run_ends_a_dial(there: bool) -> None:
    dialler = mesh(ME, None, timeout_s=60)
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = Endpoint(*server.getsockname())
        if not there:
            server.close()
        timer = threading.Timer(0.3, lambda: dialler.fail(PeerLostError("rank 2 was lost"), spare="control"))
        timer.start()
        started = time.monotonic()
        with pytest.raises(PeerLostError, match="rank 2 was lost"):
            dialler.link(0, "ring", where)
        assert time.monotonic() - started < 20
        timer.join()


def half(listener: Listener, link: str, direction: Direction) -> Wire:
    dialler = mesh(ME, None)
    return dialler._dial_one(0, listener.endpoint, ME, Hello(1, "ring", link, direction), Deadline(20))[0]


def test_half_a_link_is_let_go_when_its_rank_begins_again(listener: Listener) -> None:
    abandoned = half(listener, "first", "out")
    again = [half(listener, "second", "out"), half(listener, "second", "out"), half(listener, "second", "in")]
    link = mesh(SERVER, listener).link(1, "ring")
    assert not listener._halves
    for old in (abandoned, again[0]):
        with pytest.raises(PeerError):
            old.recv_all(memoryview(bytearray(1)), Deadline(20))
    for wire in (abandoned, *again):
        wire.close()
    link.discard()


def test_links_that_have_ended_are_forgotten(listener: Listener) -> None:
    for channel in ("one", "two", "three"):
        meet(listener, channel=channel)
    assert set(listener._taken) == {("three", 1)}


def test_a_listener_outlives_a_system_without_threads(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    refused: list[threading.Thread] = []

    def scarce(thread: threading.Thread) -> None:
        if thread.name == "smol-handshake" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    meet(listener)  # whoever was hung up on dials again
    assert refused


def test_a_listener_outlives_a_system_without_descriptors() -> None:
    class Scarce(socket.socket):
        failures = 0

        def accept(self) -> tuple[socket.socket, Any]:
            if made._newcomers and self.failures < 3:
                Scarce.failures += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    (opened,) = listen(("127.0.0.1",), 0)
    made = Listener([Scarce(fileno=opened.detach())], SERVER, 1 << 20, 5)
    (stranger,) = crowd(made, 1)
    until(lambda: len(made._newcomers) == 1)
    meet(made)
    assert stranger.recv(1) == b""  # it made room
    assert Scarce.failures
    stranger.close()
    made.close()


def test_closing_does_not_wait_for_a_stranger_in_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolcluster.comm.listener.HANDSHAKE_S", 60.0)
    make_certificates(tmp_path, "one")
    made = Listener(listen(("127.0.0.1",), 0), SERVER, 1 << 20, 60, contexts(tmp_path, "one"))
    (stranger,) = crowd(made, 1)
    stranger.sendall(b"\x16\x03\x01\x02\x00")
    until(lambda: any(isinstance(known.opened, ssl.SSLSocket) for known in made._newcomers.values()))
    started = time.monotonic()
    made.close()
    assert time.monotonic() - started < 30  # it would be 60
    stranger.close()


def test_a_dial_that_meets_itself_counts_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may choose the dialled port as the dialler's own; here it is made to."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        where = Endpoint(*gone.getsockname())

    def unlucky(family: socket.AddressFamily) -> socket.socket:
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((where.host, where.port))
        return opened

    monkeypatch.setattr("smolcluster.comm.endpoint._opened", unlucky)
    with pytest.raises(DeadlineError, match="nobody listens for rank 2"):
        dial(where, Deadline(0.3), "rank 2")


@pytest.mark.parametrize("host", ["a..b", "x" * 80 + ".lan", "nul\0byte"])
def test_a_host_that_cannot_be_a_name(host: str) -> None:
    with pytest.raises(PeerError, match="cannot be resolved"):
        dial(Endpoint(host, 1), Deadline(0.2), "rank 2")


def besieged(fabric: Any) -> int:
    """Collectives, while a thread of each rank sends nonsense to that rank's own listener. How many came."""
    here, done, came = fabric._member.endpoint, threading.Event(), []

    def besiege() -> None:
        held: deque[socket.socket] = deque()
        for _, dice in cases(f"siege/{fabric.config.rank}", 100_000):
            if done.is_set():
                break
            opened = socket.create_connection((here.host, here.port))
            held.append(opened)
            with contextlib.suppress(ConnectionError):
                opened.sendall(mangled_stream(dice, [pack(Kind.HELLO, 2) + b"{}", pack(Kind.REQUEST, 0, op=1)]))
            came.append(1)
            if len(held) > MOST_NEWCOMERS:
                held.popleft().close()
        for opened in held:
            opened.close()

    siege = threading.Thread(target=besiege)
    siege.start()
    try:
        until(lambda: len(came) > MOST_NEWCOMERS)
        for _ in range(12):
            x = torch.ones(50_000)
            dist.all_reduce(x)
            group = dist.new_group(list(range(fabric.config.world_size)))  # new links through the besieged door
            dist.all_reduce(x, group=group)
            assert (x == fabric.config.world_size**2).all()
            dist.destroy_process_group(group)
    finally:
        done.set()
        siege.join()
    assert fabric.alarm.error is None
    assert fabric.store.num_keys() < 1000
    return len(came)


@pytest.mark.slow
def test_strangers_do_not_disturb_a_run(pool: Pool) -> None:
    assert min(pool.run(3, besieged)) > 2 * MOST_NEWCOMERS


def client_hello(tls: TlsContexts) -> bytes:
    heard, said = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.client.wrap_bio(heard, said)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return said.read()


def test_a_listener_with_tls_outlives_broken_clients(tmp_path: Path) -> None:
    make_certificates(tmp_path, "one", "two")
    server, client = contexts(tmp_path, "one"), contexts(tmp_path, "two")
    me = [replace(who, fingerprint=tls.fingerprint) for who, tls in ((SERVER, server), (ME, client))]
    made = Listener(listen(("127.0.0.1",), 0), me[0], 1 << 20, 5, server)
    good, waiting = client_hello(client), []
    for _, dice in cases("tls", 300):
        (opened,) = crowd(made, 1)
        with contextlib.suppress(ConnectionError):
            opened.sendall(b"\x16" + mangle(dice, good)[1:])
        waiting.append(opened)
        if dice.random() < 0.5:
            waiting.pop(dice.randrange(len(waiting))).close()
    links = together(
        lambda: Mesh(me[0], made, {}, {}, {}, server, 1 << 20, 30).link(1, "ring"),
        lambda: Mesh(me[1], None, {}, {}, {0: True}, client, 1 << 20, 30).link(0, "ring", made.endpoint),
    )
    assert all(isinstance(link, Link) for link in links), links
    assert all(isinstance(error, PeerError) for error in made.refusals)
    assert made.refusals
    for link in links:
        link.discard()
    made.close()
    for opened in waiting:
        opened.close()
