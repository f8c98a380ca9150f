"""The words between the API's rank and the head: what is sent is what comes, and garbage is no crash."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from smolcluster.comm.frame import Kind, pack, unpack
from smolcluster.comm.link import Message
from smolcluster.errors import BusyError, PeerLostError, ProtocolError, RequestError
from smolcluster.infer.head import Health
from smolcluster.infer.request import Delta, Done, Failed, Request, Usage
from smolcluster.infer.words import (
    MOST_BYTES,
    Accepted,
    Counted,
    Op,
    Refused,
    Text,
    Within,
    error_of,
    frame,
    read,
    refusal,
)
from smolcluster.models.sampling import Sampling
from smolcluster.runtime.tabletnote import TabletNote
from tests.infer.gates import ABOUT, STAGE, USAGE


def framed(op: int, tag: int, payload: bytes) -> Message:
    head = pack(Kind.MESSAGE, len(payload), op=op, tag=tag)
    return Message(unpack(head, 1 << 30, "the test"), bytearray(payload))


TABLET = TabletNote(
    time=1.5,
    run="r",
    tablet="ipad",
    app="native",
    state="waiting",
    address="172.20.10.3:8000",
    layers="2:4",
    left_s=9.5,
)
WORDS = [
    (Op.ABOUT, ABOUT),
    (Op.SUBMIT, Request("the €", 5, Sampling(0.5, 3, 0.9), ("x", "é"), 2**64 - 1, 3.5, True)),
    (Op.SUBMIT, Request([1, 2, 3])),
    (Op.ACCEPTED, Accepted(within_s=3.5, prompt_tokens=3)),
    (Op.REFUSED, Refused(kind="busy", message="later")),
    (Op.DELTA, Delta(7, "é\n")),
    (Op.DONE, Done("stop", "", USAGE)),
    (Op.FAILED, Failed("stage_lost", "rank 2 was lost", Usage(3, 0, None, 1.5))),
    (Op.BEHIND, None),
    (Op.CANCEL, None),
    (Op.COUNT, Text(text="")),
    (Op.COUNTED, Counted(tokens=3)),
    (Op.HEALTH, None),
    (Op.HEALTH, Health(state="lost", reason="rank 1 was lost", stages=(STAGE,))),
    (Op.HEALTH, Health(state="starting", stages=(STAGE,), tablets=(TABLET,))),
    (Op.RECONNECT, Within(seconds=3)),
    (Op.RECONNECTED, None),
]


@pytest.mark.parametrize(("op", "word"), WORDS, ids=lambda one: type(one).__name__)
def test_a_word_that_is_sent_is_what_comes(op, word):
    assert read(framed(*frame(op, 2**40, word)), "the test") == (op, 2**40, word)


@given(st.integers(0, 255), st.binary(max_size=80))
@hypothesis_settings(max_examples=300, deadline=None)
def test_garbage_is_a_protocol_error_or_a_word(op, payload):
    try:
        read(framed(op, 5, payload), "the test")
    except ProtocolError as error:
        assert "the test" in str(error)  # noqa: PT017


@given(st.sampled_from(WORDS), st.integers(0, 200), st.integers(0, 255))
@hypothesis_settings(max_examples=300, deadline=None)
def test_a_changed_byte_or_a_cut_end_is_no_crash(said, place, value):
    op, tag, payload = frame(said[0], 5, said[1])
    changed = bytearray(payload)
    if place < len(changed):
        changed[place] = value
    for damaged in (bytes(changed), payload[:place]):
        try:
            read(framed(op, tag, damaged), "the test")
        except ProtocolError as error:
            assert "the test" in str(error)  # noqa: PT017


def test_what_is_too_long_for_a_frame_is_the_request_s_fault():
    with pytest.raises(RequestError, match="at most"):
        frame(Op.SUBMIT, 1, Request("x" * (MOST_BYTES + 1)))


@pytest.mark.parametrize("error", [RequestError("a"), BusyError("b"), PeerLostError("c")])
def test_an_error_that_is_refused_comes_out_as_itself(error):
    found = error_of(refusal(error))
    assert (type(found), str(found)) == (type(error), str(error))
