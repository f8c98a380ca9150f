"""The store's content, at rank 0: keys, values, and who waits for which key. Knows nothing of sockets.

`submit` never blocks: a request that has to wait is kept and answered by whoever sets the last key it misses.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum

from smolcluster.errors import ProtocolError

_U32 = struct.Struct("!I")


class Op(IntEnum):
    """Requests a store understands."""

    SET = 1
    GET = 2
    ADD = 3
    WAIT = 4
    CHECK = 5
    COMPARE_SET = 6
    DELETE = 7
    NUM_KEYS = 8
    APPEND = 9
    MULTI_SET = 10
    LIST_KEYS = 11
    ROLL = 12  # answered by the ranks, see roll.py


Reply = Callable[[list[bytes]], None]


class Table:
    """Thread-safe. Arguments and answers are lists of bytes; numbers are decimal text, as c10d's stores have them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._data: dict[bytes, bytes] = {}
        self._waiting: list[tuple[set[bytes], Callable[[], None]]] = []

    def submit(self, op: Op, args: Sequence[bytes], reply: Reply) -> None:
        """Do `op`; call `reply` with the answer, now or when the keys it waits for are there.

        ProtocolError when the arguments do not fit the operation; nothing is changed then.
        """
        with self._lock:
            try:
                ready = self._do(op, list(args), reply)
            except (IndexError, ValueError) as error:
                raise ProtocolError(f"the store got a {op.name} request it cannot read: {error}") from error
        for answer in ready:
            answer()

    def _do(self, op: Op, args: list[bytes], reply: Reply) -> list[Callable[[], None]]:
        """Carry out `op` under the lock; the replies that are due, to be given without it."""
        data = self._data
        answer: list[bytes] = []
        touched: list[bytes] = []
        match op:
            case Op.GET | Op.WAIT:
                missing = {key for key in args if key not in data}

                def give(keys: tuple[bytes, ...] = tuple(args) if op is Op.GET else ()) -> None:
                    reply([self._data.get(key, b"") for key in keys])

                if missing:
                    self._waiting.append((missing, give))
                    return []
                return [give]
            case Op.SET | Op.MULTI_SET:
                for key, value in zip(args[::2], args[1::2], strict=True):
                    data[key] = value
                    touched.append(key)
            case Op.APPEND:
                key, value = args
                data[key] = data.get(key, b"") + value
                touched.append(key)
            case Op.ADD:
                key, amount = args
                data[key] = str(int(data.get(key, b"0")) + int(amount)).encode()
                touched.append(key)
                answer = [data[key]]
            case Op.COMPARE_SET:
                key, expected, desired = args
                current = data.get(key)
                if current == expected or (current is None and not expected):
                    data[key] = desired
                    touched.append(key)
                # c10d: an absent key that was expected to hold something gives the expected value back.
                answer = [data.get(key, expected)]
            case Op.CHECK:
                answer = [b"1" if all(key in data for key in args) else b"0"]
            case Op.DELETE:
                answer = [b"1" if data.pop(args[0], None) is not None else b"0"]
            case Op.NUM_KEYS:
                answer = [str(len(data)).encode()]
            case Op.LIST_KEYS:
                answer = sorted(data)
        return [lambda: reply(answer), *self._due(touched)]

    def _due(self, touched: list[bytes]) -> list[Callable[[], None]]:
        due: list[Callable[[], None]] = []
        if touched and self._waiting:
            still: list[tuple[set[bytes], Callable[[], None]]] = []
            for missing, give in self._waiting:
                missing.difference_update(touched)
                if missing:
                    still.append((missing, give))
                else:
                    due.append(give)
            self._waiting = still
        return due


def encode_parts(parts: Sequence[bytes]) -> bytes:
    """Byte strings as one payload: each with its length before it."""
    return b"".join(_U32.pack(len(part)) + part for part in parts)


def decode_parts(payload: bytes | bytearray) -> list[bytes]:
    """The inverse. ProtocolError if lengths and payload disagree."""
    parts: list[bytes] = []
    at = 0
    while at < len(payload):
        if at + _U32.size > len(payload):
            raise ProtocolError("a store frame ends within a length")
        (size,) = _U32.unpack_from(payload, at)
        at += _U32.size
        if at + size > len(payload):
            raise ProtocolError("a store frame is shorter than its lengths say")
        parts.append(bytes(payload[at : at + size]))
        at += size
    return parts
