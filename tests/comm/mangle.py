"""What a broken or hostile peer might send: good bytes made bad, the same for the same seed.

`cases(name, count)` gives each case a dice of its own; `judged` says which case broke what, so that it can be played
again: `dice_of("accept", 4711)`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smolcluster.comm.frame import HEADER_BYTES, Kind
from smolcluster.errors import PeerError

SEED = "2026"


def dice_of(name: str, index: int) -> random.Random:
    return random.Random(f"{SEED}/{name}/{index}")


def cases(name: str, count: int) -> Iterator[tuple[str, random.Random]]:
    for index in range(count):
        yield f"dice_of({name!r}, {index})", dice_of(name, index)


def judged(label: str, sent: object, call: Callable[[], Any]) -> Any:
    """What `call` gave, or the PeerError it raised. Any other exception fails the test, with the case's seed."""
    try:
        return call()
    except PeerError as error:
        str(error).encode()  # words that a log can take
        return error
    except Exception as error:
        raise AssertionError(f"{label} ended in {type(error).__name__}: {error}\nsent: {sent!r:.2000}") from error


def mangle(dice: random.Random, good: bytes) -> bytes:
    """One frame, or anything else, made bad in one or two ways; now and then left as it is."""
    data = bytearray(good)
    for _ in range(dice.choice((0, 1, 1, 1, 2))):
        data = bytearray(dice.choice(_WAYS)(dice, data))
    return bytes(data)


def mangled_stream(dice: random.Random, frames: Sequence[bytes]) -> bytes:
    """Several frames: reordered, repeated, left out, or one of them mangled."""
    sent = list(frames)
    for _ in range(dice.choice((0, 1, 1, 2))):
        way = dice.randrange(5)
        at = dice.randrange(len(sent)) if sent else 0
        if not sent:
            break
        if way == 0:
            dice.shuffle(sent)
        elif way == 1:
            sent.insert(at, dice.choice(sent))
        elif way == 2:
            del sent[at]
        else:
            sent[at] = mangle(dice, sent[at])
    stream = b"".join(sent)
    return stream if dice.random() < 0.8 else stream[: dice.randrange(len(stream) + 1)]


def _truncated(dice: random.Random, data: bytearray) -> bytes:
    return bytes(data[: dice.randrange(len(data) + 1)])


def _flipped(dice: random.Random, data: bytearray) -> bytes:
    for _ in range(dice.choice((1, 1, 2, 8))):
        if data:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)


def _garbage(dice: random.Random, data: bytearray) -> bytes:
    return dice.randbytes(dice.choice((0, 1, HEADER_BYTES, len(data), 300)))


def _followed(dice: random.Random, data: bytearray) -> bytes:
    return bytes(data) + dice.randbytes(dice.randrange(1, 80))


def _repeated(dice: random.Random, data: bytearray) -> bytes:
    return bytes(data) * 2


def _without_middle(dice: random.Random, data: bytearray) -> bytes:
    low, high = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    return bytes(data[:low] + data[high:])


def _length(dice: random.Random, data: bytearray) -> bytes:
    wrong = dice.choice((0, 1, 31, 4096, 4097, 1 << 20, (16 << 20) + 1, 1 << 30, (1 << 30) + 1, 1 << 63, (1 << 64) - 1))
    data[24:32] = wrong.to_bytes(8, "big")
    return bytes(data)


def _field(dice: random.Random, data: bytearray) -> bytes:
    """Version, kind, dtype, op, seq, part or tag is another."""
    at = dice.choice((4, 5, 5, 5, 6, 7, 8, 11, 12, 15, 16, 23))
    if at < len(data):
        data[at] = dice.choice([*map(int, Kind), dice.randrange(256)]) if at == 5 else dice.randrange(256)
    return bytes(data)


def _elsewhere(dice: random.Random, data: bytearray) -> bytes:
    return (
        dice.choice((b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01\x02\x00", b"\x80\x04K\x01."))
        + data
    )


_WAYS: tuple[Callable[[random.Random, bytearray], bytes], ...] = (
    _truncated,
    _flipped,
    _garbage,
    _followed,
    _repeated,
    _without_middle,
    _length,
    _field,
    _field,
    _elsewhere,
)


def odd_value(dice: random.Random) -> Any:
    """Anything that JSON can say in place of a word or a number."""
    return dice.choice(
        (
            True,
            False,
            None,
            0,
            -1,
            1,
            10**18,
            10**1500,
            1.0,
            1.5,
            float("nan"),
            float("inf"),
            1e400,
            "",
            "\ud800",
            "\x1b[31mred\x07",
            "x" * 3000,
            "1",
            "out",
            [],
            [[1]],
            {},
            {"rank": 1},
        )
    )


def odd_json(dice: random.Random, right: dict[str, Any]) -> bytes:
    """The JSON of `right` with something wrong about it, or not JSON at all; now and then right."""
    fields = dict(right)
    for _ in range(dice.choice((0, 1, 1, 2))):
        fields[dice.choice([*right, "extra"])] = odd_value(dice)
    if dice.random() < 0.15 and fields:
        del fields[dice.choice(list(fields))]
    text = json.dumps(fields, ensure_ascii=dice.random() < 0.8)
    way = dice.randrange(12)
    if way == 0:
        depth = dice.choice((10, 1000, 2000))
        return b"[" * depth + b"]" * depth
    if way == 1:
        return b'{"run":' * 500 + b"1" + b"}" * 500
    if way == 2:  # the same key twice: the last one counts
        key = dice.choice(list(right))
        return (text[:-1] + f", {json.dumps(key)}: {json.dumps(odd_value(dice))}" + "}").encode(errors="surrogatepass")
    if way == 3:
        return text.encode(dice.choice(("utf-16", "utf-32", "utf-8-sig")), errors="surrogatepass")
    if way == 4:
        return text.encode(errors="surrogatepass") + dice.choice((b"\xff\xfe", b"\x00", b"}", b" "))
    if way == 5:
        return json.dumps(odd_value(dice)).encode(errors="surrogatepass")
    if way == 6:
        return mangle(dice, text.encode(errors="surrogatepass"))
    return text.encode(errors="surrogatepass")
