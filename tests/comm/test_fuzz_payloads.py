"""What peers say in payloads, requests, answers, cards and files, made wrong in thousands of ways; see test_fuzz.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smolcluster.comm.alarm import Alarm, decode_error, encode_error
from smolcluster.comm.announce import find
from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.comm.mesh import Card
from smolcluster.comm.store import SmolStore
from smolcluster.comm.table import Op, Table, decode_parts, encode_parts
from smolcluster.errors import DeadlineError, PeerError, PeerLostError, ProtocolError
from tests.comm.mangle import cases, judged, mangle, odd_json


class Oracle:
    """A control whose rank 0 answers what it likes."""

    def __init__(self, answer: list[bytes]) -> None:
        self.alarm = Alarm()
        self._answer = answer

    def call(self, op: Op, args: Any, seconds: float) -> list[bytes]:
        return self._answer


def test_answers_of_the_store_that_make_no_sense() -> None:
    for label, dice in cases("answer", 3_000):
        answer = [
            dice.choice((b"", b"1", b"-5", b"x", b"\xff\xfe", b"9" * 5000)) for _ in range(dice.choice((0, 1, 1, 2)))
        ]
        store = SmolStore(Oracle(answer), None, 1.0)  # type: ignore[arg-type]
        calls: tuple[Callable[[], Any], ...] = (
            lambda: store.get("k"),  # noqa: B023
            lambda: store.add("k", 1),  # noqa: B023
            lambda: store.check(["k"]),  # noqa: B023
            lambda: store.compare_set("k", "a", "b"),  # noqa: B023
            lambda: store.delete_key("k"),  # noqa: B023
            lambda: store.num_keys(),  # noqa: B023
            lambda: store.list_keys(),  # noqa: B023
            lambda: store.wait(["k"]),  # noqa: B023
        )
        judged(label, answer, dice.choice(calls))


def test_requests_to_the_table() -> None:
    for label, dice in cases("table", 20_000):
        words = [
            dice.choice((b"", b"k", b"n", b"5", b"-3", b"\xff", b"9" * 5000, dice.randbytes(5)))
            for _ in range(dice.randrange(6))
        ]
        payload = encode_parts(words)
        if dice.random() < 0.5:
            payload = mangle(dice, payload)
        op = dice.choice(list(Op))
        table = Table()
        judged(label, payload, lambda: table.submit(Op.SET, [b"k", b"v", b"n", b"4"], lambda _: None))  # noqa: B023
        answers: list[list[bytes]] = []
        outcome = judged(label, payload, lambda: table.submit(op, decode_parts(payload), answers.append, (1, 2)))  # noqa: B023
        if isinstance(outcome, PeerError):
            kept: list[list[bytes]] = []
            table.submit(Op.LIST_KEYS, [], kept.append)
            table.submit(Op.GET, [b"k", b"n"], kept.append)
            assert kept == [[b"k", b"n"], [b"v", b"4"]], f"{label}: a refused {op.name} changed something"
            assert not answers, label
        else:
            assert len(answers) + table.waiting == 1, label


def test_words_of_failure() -> None:
    for label, dice in cases("words", 5_000):
        right = json.loads(encode_error(PeerLostError("rank 2 was lost")))
        payload = odd_json(dice, right) if dice.random() < 0.8 else mangle(dice, json.dumps(right).encode())
        outcome = judged(label, payload, lambda: decode_error(payload, seen_by=dice.choice((None, 1))))  # noqa: B023
        assert isinstance(outcome, PeerError), label
        assert len(str(outcome)) < 2100, label
        assert "\x1b" not in str(outcome), label
    assert isinstance(decode_error(b"[" * 100_000), ProtocolError)


def test_cards() -> None:
    read = 0
    for label, dice in cases("card", 5_000):
        payload = odd_json(dice, {"hosts": ["127.0.0.1"], "port": 5000, "buffer_bytes": 1 << 20})
        outcome = judged(label, payload, lambda: Card.decode(payload))  # noqa: B023
        if isinstance(outcome, Card):
            read += 1
            assert type(outcome.port) is int, label
            assert 0 <= outcome.port <= 65535, label
            assert type(outcome.buffer_bytes) is int, label
        else:
            assert isinstance(outcome, ProtocolError), label
    assert read > 500


def test_announcements(tmp_path: Path) -> None:
    file = tmp_path / "endpoint.json"
    found = 0
    for label, dice in cases("announce", 1_000):
        payload = odd_json(dice, {"host": "127.0.0.1", "port": 5000, "run_id": "r", "generation": 1})
        file.write_bytes(payload)
        outcome = judged(label, payload, lambda: find(file, "r", 1, Deadline(0)))
        assert isinstance(outcome, DeadlineError | Endpoint), label
        found += isinstance(outcome, Endpoint)
    assert found > 100
