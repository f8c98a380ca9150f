"""Messages that came before anybody asked for them: bounded, and whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smolcluster.comm.backend.flat import Flat
from smolcluster.comm.backend.message import Incoming, Stream
from smolcluster.comm.clock import Deadline
from smolcluster.comm.frame import HEADER_BYTES, Kind, pack
from smolcluster.comm.wire import await_ready
from smolcluster.errors import ProtocolError
from tests.comm.test_fuzz import Reader, link_that_hears


def test_messages_that_nobody_asked_for_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolcluster.comm.backend.message.MAX_PAYLOAD", 1000)
    other = b"".join(pack(Kind.MESSAGE, 300, 1, seq=1, tag=tag) + bytes(300) for tag in range(100, 110))
    refusal = pytest.raises(ProtocolError, match="sent 1328 bytes that nobody has asked for: at most 1000 wait")
    with link_that_hears(other) as (link, _), refusal:
        Reader(link, (5,)).read(1.0)


def test_an_early_message_comes_in_pieces_and_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolcluster.comm.backend.message.FIRST_BYTES", 100)
    numbers = torch.arange(1000.0)
    sent = pack(Kind.MESSAGE, 4000, 1, seq=1, tag=9) + numbers.numpy().tobytes()
    kept: list[Any] = []
    with link_that_hears(sent) as (link, _):
        stream = Stream(1, link.inward, lambda _, __: None, lambda _, message: kept.append(message))
        while not kept:
            if not stream.pump():
                await_ready(stream.wire, None, Deadline(20))
    place = torch.zeros(1000)
    kept[0].give(Incoming(Flat(place), 9), "rank 1")
    assert torch.equal(place, numbers)
    assert stream.kept == 4000 + HEADER_BYTES
