"""Frames over a link: what arrives, what is refused, how it ends."""

from __future__ import annotations

import contextlib
import threading
import time
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolcluster.comm import kernel
from smolcluster.comm.backend.flow import Landing, Sending, Stamp, flow
from smolcluster.comm.frame import HEADER_BYTES, MAX_PAYLOAD, Header, Kind, pack, unpack
from smolcluster.comm.link import Link
from smolcluster.errors import DeadlineError, HandshakeError, PeerLostError, ProtocolError
from tests.comm.wires import link_pair, together


@given(
    kind=st.sampled_from(Kind),
    length=st.integers(0, MAX_PAYLOAD),
    seq=st.integers(0, 2**32 - 1),
    tag=st.integers(-(2**63), 2**63 - 1),
    dtype=st.integers(0, 255),
)
def test_a_header_reads_back(kind: Kind, length: int, seq: int, tag: int, dtype: int) -> None:
    data = pack(kind, length, dtype=dtype, op=7, seq=seq, part=9, tag=tag)
    assert len(data) == HEADER_BYTES
    assert unpack(data, MAX_PAYLOAD, "x") == Header(kind, dtype, 7, seq, 9, tag, length)


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    try:
        header = unpack(data, 1000, "x")
    except (ProtocolError, HandshakeError):
        return
    assert header.length <= 1000


def test_messages_and_counters() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        mine.send(Kind.MESSAGE, b"hello", op=3, tag=-5)
        mine.send(Kind.MESSAGE)
        first, second = theirs.receive(1), theirs.receive(1)
        assert (bytes(first.payload), first.header.op, first.header.tag) == (b"hello", 3, -5)
        assert second.header.length == 0
        assert mine.bytes_out == theirs.bytes_in == 2 * HEADER_BYTES + 5


@pytest.mark.parametrize(
    ("raw", "error", "text"),
    [
        (b"x" * 64, ProtocolError, "rank 0 sent garbage instead of a frame"),
        (pack(Kind.MESSAGE, 2000), ProtocolError, "rank 0 announced a frame of 2000 bytes; at most 1000 are allowed"),
        (pack(Kind.MESSAGE, 100) + b"part", PeerLostError, "rank 0 was lost: it closed the connection"),
        (pack(Kind.MESSAGE, 0)[:10], PeerLostError, "rank 0 was lost"),
        (pack(Kind.MESSAGE, 0)[:5] + b"\xee" + pack(Kind.MESSAGE, 0)[6:], ProtocolError, "unknown kind 238"),
    ],
)
def test_bad_frames(raw: bytes, error: type[Exception], text: str) -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        mine.out.sock.send(raw)
        mine.out.close()
        with pytest.raises(error, match=text):
            theirs.receive(2, limit=1000)


def test_a_truncated_frame_is_an_error_at_the_deadline() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        mine.out.sock.send(pack(Kind.MESSAGE, 100) + b"part")
        with pytest.raises(DeadlineError, match=r"rank 0 sent nothing for 0\.2 s"):
            theirs.receive(0.2)


def test_heartbeats_tell_an_idle_peer_from_a_frozen_one() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        alive = threading.Event()

        def beat() -> None:
            for _ in range(8):
                alive.wait(0.1)
                mine.pulse(0.05)
            mine.send(Kind.MESSAGE, b"late")

        started = time.monotonic()
        message, _ = together(lambda: theirs.receive(silence_s=0.5), beat)
        assert bytes(message.payload) == b"late"
        assert time.monotonic() - started > 0.7  # longer than the silence that is allowed
        with pytest.raises(DeadlineError):
            theirs.receive(silence_s=0.2)


def test_closing_is_acknowledged_and_nothing_before_it_is_lost() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        mine.send(Kind.MESSAGE, b"last words")

        def serve() -> bytes:
            words = theirs.receive(2)
            assert theirs.receive(2).header.kind is Kind.FIN
            theirs.answer_fin()
            return bytes(words.payload)

        acknowledged, words = together(lambda: mine.close(2), serve)
        assert acknowledged is True
        assert words == b"last words"
        assert mine.closed
        assert theirs.closed


def test_closing_a_frozen_peer_ends_in_time() -> None:
    with ExitStack() as stack:
        mine, _ = link_pair(stack)
        started = time.monotonic()
        assert mine.close(0.2) is False
        assert time.monotonic() - started < 20  # it would be for ever


def test_abort_wakes_whoever_waits() -> None:
    with ExitStack() as stack:
        mine, _ = link_pair(stack)
        timer = threading.Timer(0.1, mine.abort)
        timer.start()
        with pytest.raises(PeerLostError):
            mine.receive(10)
        timer.join()


def test_ranks_that_do_different_things_are_told_so() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        memory = memoryview(bytearray(8))
        outcomes = together(
            lambda: flow(mine.out, mine.inward, [Sending(memory)], [], Stamp(1, "all_reduce", 1, 4), 2),
            lambda: flow(theirs.out, theirs.inward, [], [Landing(memory)], Stamp(4, "broadcast", 1, 4), 2),
        )
    assert isinstance(outcomes[1], ProtocolError)
    assert str(outcomes[1]).startswith(
        "the ranks do not do the same: rank 0 is at operation 4 (code 1, piece 0, 8 bytes"
    )


def test_a_flow_that_stands_still_is_an_error_at_the_deadline() -> None:
    with ExitStack() as stack:
        mine, _ = link_pair(stack)
        memory = memoryview(bytearray(8))
        with pytest.raises(DeadlineError, match=r"rank 1 sent nothing for 0\.2 s"):
            flow(mine.out, mine.inward, [], [Landing(memory)], Stamp(1, "all_reduce", 1, 0), 0.2)


def fill(link: Link) -> None:
    """Until the kernel takes nothing more: the peer reads nothing."""
    junk = memoryview(bytes(1 << 16))
    while link.out.send(junk):
        pass


def test_a_pulse_does_not_wait_for_a_peer_that_takes_nothing() -> None:
    """Or one frozen rank would hold up the heartbeats to all others, and they would be taken for dead."""
    with ExitStack() as stack:
        mine, _ = link_pair(stack)
        fill(mine)
        before = mine.bytes_out
        started = time.monotonic()
        mine.pulse(0.0)
        for _ in range(5):
            mine._last_sent = 0.0
            mine.pulse(20.0)
        assert time.monotonic() - started < 50  # it would be 100
        assert mine.bytes_out == before


def test_telling_has_a_bound_of_its_own() -> None:
    with ExitStack() as stack:
        mine, _ = link_pair(stack, timeout_s=60)
        fill(mine)
        with pytest.raises(DeadlineError, match=r"rank 1 took nothing for 0\.2 s"):
            mine.tell(Kind.ABORT, b"it is over", 0.2)
        with mine._send_lock, pytest.raises(DeadlineError, match=r"rank 1 took nothing for 0\.2 s"):
            mine.tell(Kind.ABORT, b"it is over", 0.2)


def test_a_goodbye_does_not_wait_for_whoever_is_stuck_in_sending() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack, timeout_s=60)
        with mine._send_lock, theirs._send_lock:
            (closed,) = together(lambda: mine.close(0.2))
            together(theirs.answer_fin)
        assert closed is False


def test_closing_a_peer_that_never_stops_talking_ends_in_time() -> None:
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        ended = threading.Event()

        def babble() -> None:
            with contextlib.suppress(PeerLostError):
                while not ended.is_set():
                    theirs.send(Kind.HEARTBEAT)

        def close() -> bool:
            try:
                return mine.close(0.3)
            finally:
                ended.set()

        closed, _ = together(close, babble)
        assert closed is False


def test_a_timeout_of_a_month_is_one() -> None:
    """poll counts milliseconds in an int of 32 bits."""
    with ExitStack() as stack:
        mine, theirs = link_pair(stack)
        timer = threading.Timer(0.1, lambda: mine.send(Kind.MESSAGE, b"late"))
        timer.start()
        assert theirs.receive(40 * 86400.0).payload == b"late"
        timer.join()


def test_a_socket_closed_under_a_wait_is_a_lost_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' select raises where poll only reports; play it."""

    def broken(*_: object) -> bool:
        raise OSError(10038, "An operation was attempted on something that is not a socket")

    monkeypatch.setattr("smolcluster.comm.wire._poll", broken)
    with ExitStack() as stack:
        mine, _ = link_pair(stack)
        with pytest.raises(PeerLostError, match="the connection to rank 1 was closed"):
            mine.receive(1)


def test_a_socket_that_is_closed_while_it_is_looked_at_has_no_figures() -> None:
    with ExitStack() as stack:
        mine, _ = link_pair(stack)
        mine.out.close()  # another thread closes it after `closed` was asked
        assert (kernel.rtt_ms(mine.out.sock), kernel.unsent(mine.out.sock)) == (None, None)
        assert kernel.unread(mine.out.sock) is None
