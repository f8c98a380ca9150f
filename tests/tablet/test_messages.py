"""The bytes of the protocol. A tablet's app cannot be compiled here, so these files are what both sides are held to.

A change of any byte is a new version of the protocol, not an edit of a file in golden/.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolcluster.errors import ProtocolError
from smolcluster.tablet.greeting import proof, tablet_key
from smolcluster.tablet.messages import (
    MOST_PIECE,
    MOST_SMALL,
    Assign,
    Challenge,
    Code,
    Failure,
    Fetch,
    Forget,
    Forward,
    Hello,
    Open,
    Piece,
    Ping,
    Pong,
    Proof,
    Ready,
    Result,
    VersionError,
    Welcome,
    decode,
    encode,
)

GOLDEN = Path(__file__).parent / "golden"
VALUES = np.array([[0.0, 1.0, -2.0], [0.5, 65504.0, -0.25]])

HELLO = Hello(role="cluster", run="20261129-1200-inference", name="mini1", nonce="01" * 32)
CHALLENGE = Challenge(role="tablet", run="20261129-1200-inference", name="Mina’s iPad", nonce="ab" * 32)
KEY = tablet_key(b"the secret of the run")
PACKAGES = {"coreml": "1f" * 32, "onnx": "2e" * 32}
MESSAGES = {
    "hello": HELLO,
    "challenge": CHALLENGE,
    "proof": Proof(proof(KEY, b"smolcluster tablet dialler", encode(HELLO), encode(CHALLENGE))),
    "welcome": Welcome(proof(KEY, b"smolcluster tablet listener", encode(HELLO), encode(CHALLENGE))),
    "assign": Assign(
        model="gpt2", layers="4:8", width=768, out_width=768, last=False, context=1024, dtype="fp16", packages=PACKAGES
    ),
    "ready": Ready(device="iPad (A16)", format="coreml", hash="1f" * 32, layers="4:8"),
    "fetch_listing": Fetch(1, "onnx", "", 0, 1 << 20),
    "fetch": Fetch(9, "coreml", "stage.mlpackage/Data/com.apple.CoreML/weights/weight.bin", 1 << 20, 1 << 16),
    "piece": Piece(9, 1 << 20, (1 << 20) + 5, b"\x00\x01\xfe\xffS"),
    "open": Open(session=0x0102030405060708, capacity=1024),
    "forward_fp16": Forward(7, 0x0102030405060708, 42, VALUES.astype(np.float16)),
    "forward_fp32": Forward(8, 1, 0, VALUES.astype(np.float32)),
    "result_fp16": Result(7, 0x0102030405060708, 42, VALUES.astype(np.float16)),
    "result_fp32": Result(8, 1, 0, VALUES.astype(np.float32)),
    "forget": Forget(session=0x0102030405060708),
    "ping": Ping(0xDEADBEEF),
    "pong": Pong(0xDEADBEEF),
    "error_session": Failure(Code.UNKNOWN_SESSION, "it is not open here", request=7, session=0x0102030405060708),
    "error_connection": Failure(Code.WRONG_STAGE, "this tablet has layers 0:4"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_bytes_are_the_golden_ones_both_ways(name):
    golden = (GOLDEN / f"{name}.bin").read_bytes()
    assert encode(MESSAGES[name]) == golden
    assert decode(golden, "the test") == MESSAGES[name]
    assert encode(decode(golden, "the test")) == golden


def test_there_is_a_golden_file_of_every_message_and_no_other():
    assert {file.stem for file in GOLDEN.glob("*.bin")} == set(MESSAGES)


def test_a_forward_is_what_the_page_says_byte_by_byte():
    """Independent of struct formats: an app's author reads this."""
    data = (GOLDEN / "forward_fp16.bin").read_bytes()
    assert data[:4] == b"ST\x01\x11"
    assert int.from_bytes(data[4:8], "little") == 7  # request
    assert int.from_bytes(data[8:16], "little") == 0x0102030405060708  # session
    assert int.from_bytes(data[16:20], "little") == 42  # position
    assert int.from_bytes(data[20:24], "little") == 2  # T
    assert int.from_bytes(data[24:28], "little") == 3  # width
    assert data[28] == 1  # fp16
    assert data[29:32] == b"\0\0\0"
    assert data[32:] == bytes.fromhex("0000 003c 00c0 0038 ff7b 00b4")


@pytest.mark.parametrize("name", MESSAGES)
def test_half_a_message_and_one_too_long_are_none(name):
    golden = (GOLDEN / f"{name}.bin").read_bytes()
    # How many bytes a piece of a file has, the WebSocket says: those that lack come with the next one.
    for end in range(24 if name == "piece" else len(golden)):
        with pytest.raises(ProtocolError):
            decode(golden[:end], "the test")
    with pytest.raises(ProtocolError):
        decode(golden + b"\0", "the test")


def test_a_fetch_and_a_piece_are_what_the_page_says_byte_by_byte():
    data = (GOLDEN / "fetch.bin").read_bytes()
    assert data[:4] == b"ST\x01\x07"
    assert int.from_bytes(data[4:8], "little") == 9  # request
    assert int.from_bytes(data[8:16], "little") == 1 << 20  # offset
    assert int.from_bytes(data[16:20], "little") == 1 << 16  # the most bytes
    assert data[20:28] == b"\x06\x00coreml"
    assert data[28:] == b"\x38\x00stage.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    data = (GOLDEN / "piece.bin").read_bytes()
    assert data[:4] == b"ST\x01\x08"
    assert int.from_bytes(data[4:8], "little") == 9
    assert int.from_bytes(data[8:16], "little") == 1 << 20
    assert int.from_bytes(data[16:24], "little") == (1 << 20) + 5  # of the whole file
    assert data[24:] == b"\x00\x01\xfe\xffS"


def test_another_version_is_told_apart():
    data = bytearray(encode(Ping(1)))
    data[2] = 2
    with pytest.raises(VersionError, match=r"speaks version 2 .* this smolcluster 1"):
        decode(bytes(data), "the iPad")


@pytest.mark.parametrize(
    "data",
    [
        b"ST\x01\x63",  # no such kind
        b"GET / HTTP/1.1\r\n\r\n",
        b"ST\x01\x01" + b"[" * 8000,  # JSON that is nested deeply
        b"ST\x01\x01{}",
        b"ST\x01\x01" + b" " * MOST_SMALL,
        encode(Ready(device="d", format="f", hash="h", layers="0:1")).replace(b'"0:1"', b'"0:x"'),
        encode(HELLO).replace(b'"name"', b'"nome"'),
        encode(MESSAGES["error_session"])[:16] + b"\xff\xff" + encode(MESSAGES["error_session"])[18:],  # no such code
        encode(MESSAGES["forward_fp16"])[:28] + b"\x02" + encode(MESSAGES["forward_fp16"])[29:],  # no such numbers
        encode(MESSAGES["forward_fp16"])[:20] + b"\xff" * 8 + encode(MESSAGES["forward_fp16"])[28:],  # T x width
        b"ST\x01\x08" + bytes(20) + b"x" * (MOST_PIECE + 1),
        encode(MESSAGES["piece"]) + b"x",  # beyond the file's end
        encode(MESSAGES["fetch"])[:20] + b"\xff\xff" + encode(MESSAGES["fetch"])[22:],  # a format that long
        encode(MESSAGES["fetch"])[:28] + b"\x39" + encode(MESSAGES["fetch"])[29:],  # a path longer than the rest
        encode(MESSAGES["fetch"]).replace(b"weight.bin", b"weight.b\xff\xfe"),  # no UTF-8
        encode(MESSAGES["forward_fp16"])[:20] + b"\0\0\0\0" + encode(MESSAGES["forward_fp16"])[24:32],  # no tokens
    ],
)  # fmt: skip
def test_garbage_is_refused(data):
    with pytest.raises(ProtocolError):
        decode(data, "the test")


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_message_or_an_error(data):
    for start in (b"", b"ST\x01", b"ST\x01\x11", b"ST\x01\x22", b"ST\x01\x05", b"ST\x01\x07", b"ST\x01\x08"):
        try:
            message = decode(start + data, "the test")
        except ProtocolError:
            continue
        assert decode(encode(message), "the test") == message


def test_what_a_stranger_writes_cannot_steer_a_terminal():
    failure = decode(encode(Failure(Code.FAILED, "\x1b[2Jgone")), "the test")
    assert "\x1b" not in failure.reason
