"""Bytes of messages: what is sent is what comes, and garbage is a ProtocolError, whatever it says of its lengths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smolcluster.comm.frame import Kind, pack, unpack
from smolcluster.comm.link import Message
from smolcluster.errors import ProtocolError
from smolcluster.infer.layout import Assignment, Here, Place, heard
from smolcluster.infer.messages import Cancel, Error, Logits, Op, Open, Reset, Span, Step, decode, encode


def framed(op: int, tag: int, payload: bytes) -> Message:
    head = pack(Kind.MESSAGE, len(payload), op=op, tag=tag)
    return Message(unpack(head, 1 << 30, "the test"), bytearray(payload))


def same(one, other) -> bool:
    if isinstance(one, (Step, Logits)):
        tensors = [getattr(each, "hidden" if isinstance(each, Step) else "rows") for each in (one, other)]
        plain = [
            {key: value for key, value in vars(each).items() if not isinstance(value, torch.Tensor)}
            for each in (one, other)
        ]
        return plain[0] == plain[1] and tensors[0].dtype == tensors[1].dtype and torch.equal(*tensors)
    return one == other


SPANS = (Span(2**40, 0, 2, False), Span(7, 1000, 1, True))
MESSAGES = [
    Open(1, 2**40, 4096),
    Step(3, 9, SPANS, torch.randn(3, 5)),
    Step(3, 9, SPANS, torch.randn(3, 5).bfloat16()),
    Step(3, 9, (), torch.empty(0, 5)),
    Logits(3, 9, (7, 2**40), torch.randn(2, 11)),
    Logits(3, 9, (), torch.empty(0, 11)),
    Cancel(3, 7),
    Error(3, 7, "tokens 3 to 4 after 2: €"),
    Reset(8),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_sent_is_what_comes(message):
    assert same(decode(framed(*encode(message)), "the test"), message)


@given(st.integers(0, 255), st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_garbage_is_a_protocol_error_or_a_message(op, payload):
    for read in (decode, heard):
        try:
            read(framed(op, 5, payload), "the test")
        except ProtocolError as error:
            assert "the test" in str(error)  # noqa: PT017


@given(st.sampled_from(MESSAGES), st.integers(0, 200), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_or_a_cut_end_is_no_crash(message, place, value):
    op, tag, payload = encode(message)
    changed = bytearray(payload)
    if place < len(changed):
        changed[place] = value
    for damaged in (bytes(changed), payload[:place]):
        try:
            decode(framed(op, tag, damaged), "the test")
        except ProtocolError as error:
            assert "the test" in str(error)  # noqa: PT017


def test_words_between_head_and_stage():
    word = Assignment(
        life="ab", epoch=2, place=Place(rank=1, start=0, stop=3), layers=4, precision="int8", upstream=0, port=5,
        after=None, within_s=3.0,
    )  # fmt: skip
    assert heard(framed(Op.ASSIGN, 0, word.model_dump_json().encode()), "it") == (Op.ASSIGN, word)
    assert heard(framed(Op.HERE, 0, b'{"port": 7}'), "it") == (Op.HERE, Here(port=7))
    assert heard(framed(Op.PING, 0, b""), "it") == (Op.PING, None)
    with pytest.raises(ProtocolError, match="it sent a word"):
        heard(framed(Op.HERE, 0, b'{"port": 70000}'), "it")
