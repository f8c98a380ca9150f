"""A hundred thousand broken, hostile or lying peers against every place that reads what a peer sends.

Each case ends in a PeerError or is accepted because it was right; nothing hangs, nothing reserves memory for what was
only announced, and nobody who has not proven the run's secret gets anywhere. Cases are the same in every run; one that
fails names its dice (mangle.py).
"""

from __future__ import annotations

import json
import secrets
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from smolcluster.comm.alarm import Alarm, decode_error
from smolcluster.comm.backend.flat import Flat
from smolcluster.comm.backend.flow import Landing, Sending, Stamp, flow
from smolcluster.comm.backend.message import Early, Incoming, Stream
from smolcluster.comm.clock import Deadline
from smolcluster.comm.control import Hub
from smolcluster.comm.endpoint import listen
from smolcluster.comm.frame import HEADER_BYTES, MAX_PAYLOAD, MAX_STORE, Kind, pack, unpack
from smolcluster.comm.handshake import Hello, _proof, accept_handshake, dial_handshake
from smolcluster.comm.link import Link
from smolcluster.comm.listener import Listener
from smolcluster.comm.mesh import Mesh
from smolcluster.comm.spoke import Spoke
from smolcluster.comm.table import Op, decode_parts, encode_parts
from smolcluster.comm.wire import Wire, await_ready
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError, ProtocolError
from tests.comm.mangle import cases, judged, mangle, mangled_stream, odd_json
from tests.comm.wires import ME, SERVER, together

NONCE = "ab" * 32


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def said(theirs: socket.socket, data: bytes) -> None:
    """The peer says all it has to say and falls silent for good."""
    theirs.sendall(data)
    theirs.shutdown(socket.SHUT_WR)


@contextmanager
def link_that_hears(data: bytes) -> Iterator[tuple[Link, socket.socket]]:
    """A link whose peer has sent `data` and closed; and what we say to it."""
    with pair() as (inward, theirs), pair() as (out, heard):
        said(theirs, data)
        yield Link(1, "test", Wire(out, "rank 1"), Wire(inward, "rank 1"), 2.0), heard


# Headers


def test_headers() -> None:
    wrong = 0
    for label, dice in cases("header", 30_000):
        good = pack(dice.choice(list(Kind)), dice.choice((0, 5, 4096)), dice.randrange(16), 3, 7, 1, -2)
        data = mangle(dice, good)
        outcome = judged(label, data, lambda: unpack(data, 4096, "rank 1"))  # noqa: B023
        if isinstance(outcome, PeerError):
            wrong += 1
            assert isinstance(outcome, ProtocolError | HandshakeError), label
        else:
            assert outcome.length <= 4096, label
            assert data[:6] == good[:5] + bytes([outcome.kind]), label
    assert wrong > 10_000


# The introduction


@pytest.fixture
def known_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a proof can be computed before the other side has spoken."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: NONCE)


GREETING = {
    "run": ME.run_id,
    "generation": ME.generation,
    "digest": ME.digest,
    "rank": 1,
    "to": 0,
    "channel": "ring",
    "link": "l1",
    "direction": "out",
    "nonce": NONCE,
}
ANSWER = {"run": ME.run_id, "generation": ME.generation, "digest": ME.digest, "rank": 0, "nonce": NONCE}


def canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def framed(kind: Kind, payload: bytes) -> bytes:
    return pack(kind, len(payload)) + payload


def payloads(data: bytes, stream: list[bytes]) -> bool:
    """Whether `data` begins with these frames, but for fields of the header that an introduction does not use."""
    at = 0
    for frame in stream:
        if data[at + HEADER_BYTES : at + len(frame)] != frame[HEADER_BYTES:] or data[at + 5] != frame[5]:
            return False
        at += len(frame)
    return True


@pytest.mark.usefixtures("known_nonce")
def test_an_acceptor_of_strangers_and_of_liars_who_know_the_secret() -> None:
    accepted = 0
    for label, dice in cases("accept", 14_000):
        greeting = odd_json(dice, GREETING) if dice.random() < 0.7 else canonical(GREETING)
        knows = dice.random() < 0.5
        proof = _proof(ME.secret if knows else b"guess", b"dialler", greeting, canonical(ANSWER), b"", b"")
        stream = [framed(Kind.HELLO, greeting), framed(Kind.PROOF, proof)]
        data = b"".join(stream) if dice.random() < 0.4 else mangled_stream(dice, stream)
        with pair() as (ours, theirs):
            said(theirs, data)
            outcome = judged(label, data, lambda: accept_handshake(ours, SERVER, Deadline(20), "the caller"))
            if isinstance(outcome, PeerError):
                assert "kkk" not in str(outcome), label
                assert "\x1b" not in str(outcome), label
                continue
        accepted += 1
        hello = outcome[1]
        assert knows, f"{label}: got in without the secret"
        assert payloads(data, stream), label
        assert type(hello.rank) is int, label
        assert hello.rank in (1, 2), label
        assert hello.direction in ("out", "in"), label
    assert accepted > 1000


@pytest.mark.usefixtures("known_nonce")
def test_a_dialler_that_meets_strangers_and_liars() -> None:
    accepted = 0
    hello = Hello(1, "ring", "l1", "out")
    for label, dice in cases("dial", 10_000):
        answer = odd_json(dice, ANSWER) if dice.random() < 0.7 else canonical(ANSWER)
        knows = dice.random() < 0.5
        proof = _proof(ME.secret if knows else b"guess", b"acceptor", canonical(GREETING), answer, b"", b"")
        stream = [framed(Kind.CHALLENGE, answer), framed(Kind.WELCOME, proof)]
        if dice.random() < 0.1:
            stream[dice.randrange(2)] = framed(Kind.REFUSE, odd_json(dice, ANSWER)[:4096])
        data = b"".join(stream) if dice.random() < 0.4 else mangled_stream(dice, stream)
        with pair() as (ours, theirs):
            said(theirs, data)
            outcome = judged(label, data, lambda: dial_handshake(ours, ME, 0, hello, Deadline(20), "rank 0"))
            if isinstance(outcome, PeerError):
                assert "\x1b" not in str(outcome), label
                continue
        accepted += 1
        assert knows, f"{label}: believed somebody without the secret"
        assert payloads(data, stream), label
    assert accepted > 1000


def test_whoever_stops_talking_runs_into_the_deadline() -> None:
    stream = framed(Kind.HELLO, canonical(GREETING)) + framed(Kind.PROOF, b"0" * 32)
    for label, dice in cases("silence", 60):
        data = stream[: dice.randrange(len(stream))]
        with pair() as (ours, theirs):
            theirs.sendall(data)
            outcome = judged(label, data, lambda: accept_handshake(ours, SERVER, Deadline(0.01), "the caller"))
        assert isinstance(outcome, DeadlineError), label


def test_strangers_at_the_door_neither_get_in_nor_keep_a_rank_out() -> None:
    listener = Listener(listen(("127.0.0.1",), 0), SERVER, 1 << 20, timeout_s=5)
    try:
        here = (listener.endpoint.host, listener.endpoint.port)
        waiting = []
        for _, dice in cases("door", 400):
            opened = socket.create_connection(here)
            greeting = odd_json(dice, GREETING)
            proof = dice.choice((b"", dice.randbytes(32)))
            opened.sendall(mangled_stream(dice, [framed(Kind.HELLO, greeting), framed(Kind.PROOF, proof)]))
            waiting.append(opened)  # it hangs up when all have come, or never
            if dice.random() < 0.5:
                waiting.pop(dice.randrange(len(waiting))).close()
        server = Mesh(SERVER, listener, {}, {}, {}, None, 1 << 20, 30)
        client = Mesh(ME, None, {}, {}, {}, None, 1 << 20, 30)
        links = together(
            lambda: server.link(1, "ring"),
            lambda: client.link(0, "ring", listener.endpoint),
        )
        assert all(isinstance(link, Link) for link in links), links
        links[1].send(Kind.MESSAGE, b"hello")
        assert links[0].receive(20).payload == b"hello"
        assert set(listener._taken) == {("ring", 1)}
        assert not listener._links
        for link in links:
            link.discard()
    finally:
        listener.close()
        for opened in waiting:
            opened.close()


# Links, and what runs on them


def test_frames_of_a_link() -> None:
    frames = [
        framed(Kind.HEARTBEAT, b""),
        framed(Kind.MESSAGE, b"one"),
        framed(Kind.HEARTBEAT, b"x"),
        framed(Kind.REQUEST, b"two" * 50),
        framed(Kind.FIN, b""),
    ]
    for label, dice in cases("link", 10_000):
        data = mangled_stream(dice, frames)
        with link_that_hears(data) as (link, _):
            while True:
                outcome = judged(label, data, lambda: link.receive(1.0, limit=1000))
                if isinstance(outcome, PeerError):
                    break
                assert outcome.header.kind is not Kind.HEARTBEAT, label
            assert isinstance(outcome, ProtocolError | HandshakeError | PeerLostError), (label, outcome)


def test_frames_of_a_collective() -> None:
    stamp = Stamp(1, "all_reduce", 1, 9)
    frames = [pack(Kind.DATA, 40, 1, 1, 9, part) + bytes([part]) * 40 for part in range(4)]
    landed = 0
    for label, dice in cases("flow", 10_000):
        data = mangled_stream(dice, frames)
        memory = bytearray(160)
        views = [Landing(memoryview(memory)[at : at + 40]) for at in range(0, 160, 40)]
        sends = [Sending(memoryview(bytes(40)), part) for part in range(4)]
        with pair() as (ours, theirs), pair() as (out, _heard):
            said(theirs, data)
            wires = Wire(out, "rank 1"), Wire(ours, "rank 1")
            outcome = judged(label, data, lambda: flow(*wires, sends, views, stamp, 1.0))  # noqa: B023
            if outcome is None:
                landed += 1
                payloads = b"".join(data[at + HEADER_BYTES : at + HEADER_BYTES + 40] for at in range(0, 288, 72))
                assert memory == payloads, label
    assert landed > 500


class Reader:
    """One peer's messages, as the inbox reads them: each of `tags` has a place for four numbers."""

    def __init__(self, link: Link, tags: tuple[int, ...]) -> None:
        self.arrived = 0
        self._places = {tag: Incoming(Flat(torch.zeros(4)), tag) for tag in tags}
        self._stream = Stream(1, link.inward, lambda _, tag: self._places.pop(tag, None), self._count)

    def _count(self, _: int, message: Incoming | Early) -> None:
        self.arrived += isinstance(message, Incoming)

    def read(self, seconds: float) -> None:
        """Until every place is filled."""
        while self._places and not self._stream.ended:
            if not self._stream.pump():
                await_ready(self._stream.wire, None, Deadline(seconds))


def test_messages_between_two_ranks() -> None:
    frames = [pack(Kind.MESSAGE, 16, 1, seq=1, tag=tag) + bytes([tag]) * 16 for tag in (5, 6, 7)]
    arrived = 0
    for label, dice in cases("message", 6_000):
        data = mangled_stream(dice, frames)
        with link_that_hears(data) as (link, _):
            reader = Reader(link, (6, 5))
            judged(label, data, lambda: reader.read(1.0))  # noqa: B023
            arrived += reader.arrived
    assert arrived > 500


def test_rank_0_serves_spokes_that_talk_nonsense() -> None:
    requests = [
        pack(Kind.REQUEST, len(payload), op=op, tag=number) + payload
        for number, (op, payload) in enumerate(
            (
                (Op.SET, encode_parts([b"k", b"v"])),
                (Op.GET, encode_parts([b"k"])),
                (Op.ADD, encode_parts([b"n", b"5"])),
                (Op.WAIT, encode_parts([b"never"])),
                (Op.FORGET, encode_parts([b"3"])),
            )
        )
    ]
    for label, dice in cases("hub", 1_500):
        frames = list(requests)
        frames.append(framed(Kind.ABORT, odd_json(dice, {"kind": "PeerLostError", "text": "rank 2 went"})))
        frames.append(framed(Kind.FIN, b""))
        data = mangled_stream(dice, frames[dice.randrange(3) :])
        alarm = Alarm()
        hub = Hub(alarm, 2.0)
        with link_that_hears(data) as (link, _):
            # Grace is for real ranks, whose connections break within milliseconds.
            alarm.wait = lambda _, alarm=alarm: alarm.error  # type: ignore[method-assign]
            hub.attach(link)
            hub._threads[0].join(20)
            assert not hub._threads[0].is_alive(), f"{label} hangs: {data!r}"
            assert link.closed, label
            assert hub.table.waiting == 0, label
            assert alarm.error is None or isinstance(alarm.error, PeerError), label
            said_fin = data.endswith(frames[-1])
            assert alarm.error is not None or said_fin or Kind.FIN in data, f"{label}: nobody heard that it went"


def test_whoever_talks_nonsense_to_rank_0_is_told_so() -> None:
    with link_that_hears(b"nonsense" * 8) as (link, heard):
        hub = Hub(Alarm(), 2.0)
        hub.attach(link)
        hub._threads[0].join(20)
        words = heard.recv(4096)
    assert unpack(words, MAX_STORE, "rank 0").kind is Kind.ABORT
    assert "rank 1 sent garbage instead of a frame" in str(decode_error(words[HEADER_BYTES:]))


def test_a_spoke_whose_rank_0_talks_nonsense() -> None:
    for label, dice in cases("spoke", 1_500):
        frames = [
            framed(Kind.HEARTBEAT, b""),
            pack(Kind.REPLY, 5, tag=0) + encode_parts([dice.choice((b"1", b"x"))]),
            framed(Kind.ABORT, odd_json(dice, {"kind": "PeerLostError", "text": "rank 2 went"})),
        ]
        data = mangled_stream(dice, frames)
        alarm = Alarm()
        with link_that_hears(data) as (link, _):
            spoke = Spoke(link, alarm, 2.0)
            spoke._thread.join(20)
            assert not spoke._thread.is_alive(), f"{label} hangs: {data!r}"
            assert isinstance(alarm.error, PeerError), (label, data)
            assert link.closed, label


# Memory


def peak_bytes(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        judged("memory", b"", call)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_only_announced_reserves_no_memory() -> None:
    gigabyte = pack(Kind.MESSAGE, MAX_PAYLOAD, 1, seq=1, tag=9) + b"and then nothing"
    with link_that_hears(gigabyte) as (link, _):
        assert peak_bytes(lambda: link.receive(0.2, limit=MAX_PAYLOAD)) < 4 << 20
    with link_that_hears(gigabyte) as (link, _):
        assert peak_bytes(lambda: Reader(link, (5,)).read(0.2)) < 4 << 20
    with link_that_hears(pack(Kind.REQUEST, MAX_STORE) + b"little") as (link, _):
        assert peak_bytes(lambda: link.receive(0.2)) < 4 << 20
    with pytest.raises(ProtocolError):
        decode_parts(struct.pack("!I", 0xFFFFFFFF) + b"little")


def test_a_payload_that_does_come_is_whole() -> None:
    wanted = torch.arange(700_000, dtype=torch.int64).numpy().tobytes()
    with pair() as (ours, theirs):
        wire, sender = Wire(ours, "rank 1"), Wire(theirs, "rank 0")
        got, _ = together(
            lambda: wire.recv_growing(len(wanted), Deadline(20)), lambda: sender.send_all(wanted, None, Deadline(20))
        )
    assert got == wanted
