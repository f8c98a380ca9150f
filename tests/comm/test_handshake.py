"""Both ends of every refusal: each gets a clear HandshakeError, the refused one a reason without secrets."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from smolcluster.comm.clock import Deadline
from smolcluster.comm.frame import HEADER_BYTES, Kind, pack, unpack
from smolcluster.comm.handshake import Hello, Identity, StaleError, accept_handshake, dial_handshake
from smolcluster.comm.wire import Wire
from smolcluster.errors import DeadlineError, HandshakeError, ProtocolError
from tests.comm.wires import ME, SERVER, socket_pair, together

HELLO = Hello(rank=1, channel="ring", link="ab", direction="out")


def meet(dialler: Identity, acceptor: Identity, peer: int = 0, **options: Any) -> tuple[Any, Any]:
    """What the dialler's and the acceptor's side gave."""
    with ExitStack() as stack:
        one, other = socket_pair(stack)

        def closing(sock: socket.socket, call: Any) -> Any:
            try:
                return call()
            except BaseException:
                sock.close()
                raise

        return tuple(
            together(
                lambda: closing(one, lambda: dial_handshake(one, dialler, peer, HELLO, Deadline(20), "rank 0")),
                lambda: closing(
                    other, lambda: accept_handshake(other, acceptor, Deadline(20), "the caller", **options)
                ),
            )
        )


def test_two_of_the_same_run_meet() -> None:
    mine, theirs = meet(ME, SERVER)
    assert isinstance(mine[0], Wire)
    assert mine[1] == ME.generation
    assert isinstance(theirs[0], Wire)
    assert theirs[1] == HELLO


def test_a_joiner_takes_the_generation_it_finds_if_it_is_a_later_one() -> None:
    mine, theirs = meet(replace(ME, generation=-1, after=2), SERVER)
    assert mine[1] == SERVER.generation == 3
    assert theirs[1] == HELLO
    mine, theirs = meet(replace(ME, generation=-1, after=3), SERVER)
    assert isinstance(mine, StaleError)
    assert "generation 3 of the run, where this rank has been in 3" in str(theirs)


def test_only_rank_0_is_asked_for_its_generation() -> None:
    mine, theirs = meet(replace(ME, rank=2, after=0), replace(SERVER, rank=1), peer=1)
    for error in (mine, theirs):
        assert "rank 0 has the say in that" in str(error)


REFUSALS = {
    "secret": (replace(ME, secret=b"x" * 32), "the run's secret differs"),
    "generation": (replace(ME, generation=2), "generation 2 of the run, not 3"),
    "digest": (replace(ME, digest="e" * 64), "another plan"),
    "run": (replace(ME, run_id="r2"), "another run: r2, not r1"),
    "own rank": (replace(ME, rank=0), "rank 0 has no place here"),
    "no such rank": (replace(ME, rank=7), "rank 7 has no place here: the run has ranks 0 to 2"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_whoever_does_not_belong_is_refused_on_both_ends(name: str) -> None:
    stranger, reason = REFUSALS[name]
    mine, theirs = meet(stranger, SERVER)
    for error in (mine, theirs):
        assert isinstance(error, HandshakeError)
        assert reason in str(error)
        assert "kkkk" not in str(error)
        assert "dddd" not in str(error)
    assert str(mine).startswith("rank 0 refused us: ")
    assert "was refused: " in str(theirs)


def test_the_wrong_rank_dialled() -> None:
    mine, theirs = meet(ME, SERVER, peer=2)
    assert isinstance(mine, HandshakeError)
    assert "it dialled rank 2, this is rank 0" in str(mine)
    assert isinstance(theirs, HandshakeError)


def test_an_acceptor_that_is_another_rank_is_refused_by_the_dialler() -> None:
    """It lets us in, but is not whom we wanted: only possible if it lies about `to`, so play it by hand."""
    with ExitStack() as stack:
        one, other = socket_pair(stack)

        def impostor() -> str:
            wire = Wire(other, "x")
            head = bytearray(HEADER_BYTES)
            wire.recv_all(memoryview(head), Deadline(20))
            wire.recv_all(memoryview(bytearray(unpack(head, 4096, "x").length)), Deadline(20))
            claim = b'{"run":"r1","generation":3,"digest":"' + b"d" * 64 + b'","rank":2,"nonce":"00"}'
            wire.send_all(pack(Kind.CHALLENGE, len(claim)) + claim, None, Deadline(20))
            wire.recv_all(memoryview(head), Deadline(20))
            return unpack(head, 4096, "x").kind.name

        mine, told = together(lambda: dial_handshake(one, ME, 0, HELLO, Deadline(20), "rank 0"), impostor)
    assert isinstance(mine, HandshakeError)
    assert "it is rank 2, rank 0 was dialled" in str(mine)
    assert told == "REFUSE"


def test_an_acceptor_without_the_secret_does_not_get_through() -> None:
    """It accepts anybody's proof, but cannot give its own."""
    with ExitStack() as stack:
        one, other = socket_pair(stack)

        def impostor() -> None:
            wire = Wire(other, "x")
            claim = b'{"run":"r1","generation":3,"digest":"' + b"d" * 64 + b'","rank":0,"nonce":"00"}'
            for kind, answer in ((Kind.CHALLENGE, claim), (Kind.WELCOME, b"0" * 32)):
                head = bytearray(HEADER_BYTES)
                wire.recv_all(memoryview(head), Deadline(20))
                wire.recv_all(memoryview(bytearray(unpack(head, 4096, "x").length)), Deadline(20))
                wire.send_all(pack(kind, len(answer)) + answer, None, Deadline(20))

        mine, _ = together(lambda: dial_handshake(one, ME, 0, HELLO, Deadline(20), "rank 0"), impostor)
    assert str(mine) == "rank 0 did not prove that it knows this run's secret"


def test_another_protocol_version_is_said_on_both_ends() -> None:
    with ExitStack() as stack:
        one, other = socket_pair(stack)
        head = bytearray(pack(Kind.HELLO, 2))
        head[4] = 99
        one.sendall(head + b"{}")

        def accept() -> Any:
            try:
                return accept_handshake(other, SERVER, Deadline(20), "the caller")
            finally:
                other.close()

        (theirs,) = together(accept)
        assert isinstance(theirs, HandshakeError)
        assert "speaks protocol version 99, this side 1" in str(theirs)
        answer = one.recv(4096)
    assert unpack(answer, 4096, "x").kind is Kind.REFUSE
    assert b"protocol version 99" in answer
    # The dialler of a newer listener sees the version too.
    newer = bytearray(pack(Kind.REFUSE, 0))
    newer[4] = 2
    with pytest.raises(HandshakeError, match="speaks protocol version 2, this side 1"):
        unpack(newer, 4096, "rank 0")


@pytest.mark.parametrize(
    ("said", "expected", "text"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n        ", ProtocolError, "sent garbage instead of a frame"),
        (pack(Kind.HELLO, 4097), ProtocolError, "announced a frame of 4097 bytes; at most 4096 are allowed here"),
        (pack(Kind.HELLO, 3) + b"[1]", ProtocolError, "not a flat object"),
        (pack(Kind.HELLO, 3) + b"\xff\xff\xff", ProtocolError, "not JSON"),
        (pack(Kind.DATA, 0), ProtocolError, "sent DATA where HELLO was due"),
        (pack(Kind.HELLO, 100) + b"{", HandshakeError, "hung up during the handshake"),
        (b"", HandshakeError, "hung up during the handshake"),
    ],
)
def test_garbage_too_long_and_truncated_greetings(said: bytes, expected: type[Exception], text: str) -> None:
    with ExitStack() as stack:
        one, other = socket_pair(stack)
        one.sendall(said)
        one.shutdown(socket.SHUT_WR)
        with pytest.raises(expected, match=text):
            accept_handshake(other, SERVER, Deadline(20), "the caller")


def test_a_caller_that_says_nothing_runs_into_the_deadline() -> None:
    with ExitStack() as stack:
        _, other = socket_pair(stack)
        with pytest.raises(DeadlineError, match=r"the caller connected but did not finish the handshake within 0\.2 s"):
            accept_handshake(other, SERVER, Deadline(0.2), "the caller")


def test_a_link_that_must_be_encrypted_is_refused_in_the_clear() -> None:
    mine, theirs = meet(ME, SERVER, must_encrypt=frozenset({1}))
    for error in (mine, theirs):
        assert "the link to rank 1 must be encrypted, and it came in the clear" in str(error)


def test_the_secret_is_not_in_a_representation() -> None:
    assert "kkk" not in repr(ME)
