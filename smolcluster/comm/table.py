"""The store's content, at rank 0: keys, values, and who waits for which key. Knows nothing of sockets.

`submit` never blocks: a request that has to wait is kept and answered by whoever sets the last key it misses.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

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
    FORGET = 12
    ROLL = 13  # answered by the ranks, see roll.py


Reply = Callable[[list[bytes]], None]
# (rank, number of its request); None for whoever never gives up.
Asker = tuple[int, int] | None


class _Waiting(NamedTuple):
    """A request for keys of which some are missing."""

    missing: set[bytes]
    give: Callable[[], None]
    asker: Asker


class Table:
    """Thread-safe. Arguments and answers are lists of bytes; numbers are decimal text, as c10d's stores have them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._data: dict[bytes, bytes] = {}
        self._waiting: list[_Waiting] = []

    def submit(self, op: Op, args: Sequence[bytes], reply: Reply, asker: Asker = None) -> None:
        """Do `op`; call `reply` with the answer, now or when the keys it waits for are there. See `forget` for `asker`.

        ProtocolError when the arguments do not fit the operation; nothing is changed then.
        """
        with self._lock:
            try:
                ready = self._do(op, list(args), reply, asker)
            except (IndexError, ValueError) as error:
                raise ProtocolError(f"the store got a {op.name} request it cannot read: {error}") from error
        for answer in ready:
            answer()

    def forget(self, whose: Callable[[Asker], bool]) -> None:
        """Drop the requests that still wait and whose askers are among `whose`: they have given up, or gone."""
        with self._lock:
            self._waiting = [request for request in self._waiting if not whose(request.asker)]

    @property
    def waiting(self) -> int:
        """How many requests wait for keys."""
        with self._lock:
            return len(self._waiting)

    def _do(self, op: Op, args: list[bytes], reply: Reply, asker: Asker) -> list[Callable[[], None]]:
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
                    self._waiting.append(_Waiting(missing, give, asker))
                    return []
                return [give]
            case Op.SET | Op.MULTI_SET:
                if len(args) % 2 or not args:
                    raise ValueError(f"{len(args)} arguments are no pairs of key and value")
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
                (key,) = args
                answer = [b"1" if data.pop(key, None) is not None else b"0"]
            case Op.NUM_KEYS:
                answer = [str(len(data)).encode()]
            case Op.LIST_KEYS:
                answer = sorted(data)
            case Op.FORGET:
                raise ValueError("whoever takes requests answers this one")
        return [lambda: reply(answer), *self._due(touched)]

    def _due(self, touched: list[bytes]) -> list[Callable[[], None]]:
        due: list[Callable[[], None]] = []
        if touched and self._waiting:
            still: list[_Waiting] = []
            for request in self._waiting:
                request.missing.difference_update(touched)
                if request.missing:
                    still.append(request)
                else:
                    due.append(request.give)
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
