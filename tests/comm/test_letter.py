"""A letter arrives whole or not at all: what was sent, what is no letter, and what there is no room for."""

from __future__ import annotations

import json
import struct
from contextlib import ExitStack

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from smolcluster.comm.frame import Kind, pack
from smolcluster.comm.letter import LETTER_VERSION, MOST_WORDS, PIECE_BYTES, Letter, receive_letter, send_letter
from smolcluster.errors import PeerError, PeerLostError, ProtocolError
from tests.comm.wires import body_of, link_pair, together

MOST_BYTES = 8 << 20


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("length", [0, 1, PIECE_BYTES, 2 * PIECE_BYTES + 13])
def test_a_letter_arrives_as_it_was_sent(stack, length):
    here, there = link_pair(stack)
    words = {"lease": 3, "loss": 0.1, "why": "ä", "fresh": True, "ranges": [1, 2, 3], "shares": [0.5]}
    sent = Letter(7, -5, words, body_of(length))
    got, _ = together(lambda: receive_letter(there, 10.0, MOST_BYTES), lambda: send_letter(here, sent))
    assert (got.op, got.number, got.words) == (7, -5, words)
    assert torch.equal(got.body, sent.body)
    assert here.bytes_out == there.bytes_in


def test_heartbeats_may_stand_between_the_pieces_of_a_letter(stack):
    here, there = link_pair(stack)
    here.send(Kind.MESSAGE, struct.pack("!BQ", LETTER_VERSION, 4) + b"{}", op=1)
    for part in (b"ab", b"cd"):
        here.send(Kind.HEARTBEAT)
        here.send(Kind.DATA, part)
    got = receive_letter(there, 10.0, MOST_BYTES)
    assert bytes(got.body.tolist()) == b"abcd"


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        (b"", "0 bytes where a letter was due"),
        (struct.pack("!BQ", LETTER_VERSION + 1, 0) + b"{}", "version 2, this side 1"),
        (struct.pack("!BQ", LETTER_VERSION, MOST_BYTES + 1) + b"{}", f"at most {MOST_BYTES} are allowed"),
        (struct.pack("!BQ", LETTER_VERSION, 0) + b"[1", "no JSON"),
        (struct.pack("!BQ", LETTER_VERSION, 0) + b"[" * 60_000, "no JSON"),
        (struct.pack("!BQ", LETTER_VERSION, 0) + b"[]", "no flat object"),
        (struct.pack("!BQ", LETTER_VERSION, 0) + b'{"a": {"b": 1}}', "no flat object"),
        (struct.pack("!BQ", LETTER_VERSION, 0) + b'{"a": null}', "no flat object"),
    ],
)
def test_what_is_no_letter_is_refused(stack, payload, what):
    here, there = link_pair(stack)
    here.send(Kind.MESSAGE, payload, op=1)
    with pytest.raises(ProtocolError, match=what):
        receive_letter(there, 10.0, MOST_BYTES)


def test_a_body_that_is_longer_or_of_another_kind_is_refused(stack):
    here, there = link_pair(stack)
    here.send(Kind.MESSAGE, struct.pack("!BQ", LETTER_VERSION, 2) + b"{}", op=1)
    here.send(Kind.DATA, b"abc")
    with pytest.raises(ProtocolError, match="announced a frame of 3 bytes; at most 2"):
        receive_letter(there, 10.0, MOST_BYTES)
    here, there = link_pair(stack)
    here.send(Kind.MESSAGE, struct.pack("!BQ", LETTER_VERSION, 2) + b"{}", op=1)
    here.send(Kind.REQUEST, b"ab")
    with pytest.raises(ProtocolError, match="REQUEST of 2 bytes in a message's body"):
        receive_letter(there, 10.0, MOST_BYTES)


def test_a_body_that_memory_is_too_short_for_ends_the_link_alone(stack):
    here, there = link_pair(stack)
    here.send(Kind.MESSAGE, struct.pack("!BQ", LETTER_VERSION, 1 << 55) + b"{}", op=1)
    with pytest.raises(PeerLostError, match="no memory for a letter of 36028797018963968 bytes"):
        receive_letter(there, 10.0, 1 << 60)


def test_words_have_a_cap_on_both_sides(stack):
    here, there = link_pair(stack)
    with pytest.raises(ValueError, match=f"at most {MOST_WORDS}"):
        send_letter(here, Letter(1, 0, {"long": "x" * MOST_WORDS}))
    here.out.sock.send(pack(Kind.MESSAGE, MOST_WORDS + 100, op=1))
    with pytest.raises(ProtocolError, match="announced a frame"):
        receive_letter(there, 10.0, MOST_BYTES)


def test_words_are_taken_by_kind():
    letter = Letter(1, 0, {"n": 3, "yes": True, "x": 0.5, "huge": 10**400, "ranges": [1, 2], "shares": [0.5]})
    assert (letter.say("n", int), letter.say("n", float), letter.say("yes", bool)) == (3, 3.0, True)
    assert letter.numbers("ranges") == [1, 2]
    for key, kind in (("yes", int), ("x", int), ("n", str), ("missing", int), ("huge", float)):
        with pytest.raises(ProtocolError, match=repr(key)):
            letter.say(key, kind)
    for key in ("shares", "n"):
        with pytest.raises(ProtocolError, match=repr(key)):
            letter.numbers(key)


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_are_a_letter_or_an_error_of_ours(data):
    with ExitStack() as stack:
        here, there = link_pair(stack)
        here.send(Kind.MESSAGE, data, op=1)
        here.abort()
        try:
            got = receive_letter(there, 5.0, 1 << 10)
        except PeerError:
            return
        assert got is not None
        assert json.loads(data[9:]) == got.words
