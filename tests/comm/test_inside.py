"""A worker inside the centre's process is a member like the others."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from smolcluster.comm.clock import Deadline
from smolcluster.comm.inside import Inside
from smolcluster.comm.letter import Letter
from smolcluster.comm.mailbox import Delivered, Joined, Left, Mailbox
from smolcluster.errors import PeerLostError
from tests.comm.test_mailbox import MOST_BYTES, WAIT_S, WORLD, caller, centre, config, join, next_of, stack

__all__ = ["stack"]


def inside(mailbox: Mailbox) -> Inside:
    made = Inside(mailbox, 0, WAIT_S)
    made.dial(Deadline(WAIT_S), lambda: False, {"samples": 3})
    return made


def test_it_joins_sends_hears_and_leaves(tmp_path: Path, stack) -> None:
    mailbox = centre(stack, tmp_path)
    assert mailbox.workers == WORLD - 1
    worker = inside(mailbox)
    assert mailbox.workers == WORLD
    joined = next_of(mailbox, Joined)
    assert (joined.member.rank, joined.member.incarnation, dict(joined.words)) == (
        0,
        worker.incarnation,
        {"samples": 3},
    )
    assert mailbox.members() == (joined.member,)
    body = torch.arange(5, dtype=torch.uint8)
    worker.send(Letter(1, 7, {"loss": 0.5}, body))
    event = next_of(mailbox, Delivered)
    assert (event.member, event.letter.op, event.letter.number, event.letter.words) == (
        joined.member,
        1,
        7,
        {"loss": 0.5},
    )
    assert event.letter.body is body
    mailbox.send(joined.member, Letter(2, 7))
    assert worker.receive(WAIT_S).op == 2
    assert worker.receive(0.0) is None
    worker.close()
    worker.close()
    left = next_of(mailbox, Left)
    assert (left.member, left.orderly) == (joined.member, True)
    mailbox.send(joined.member, Letter(3))
    with pytest.raises(PeerLostError):
        worker.receive(0.0)
    assert mailbox.receive(0.0) is None


def test_its_letters_come_among_the_others(tmp_path: Path, stack) -> None:
    mailbox = centre(stack, tmp_path)
    outside = caller(stack, tmp_path, 2)
    join(outside)
    worker = inside(mailbox)
    members = {next_of(mailbox, Joined).member.rank for _ in range(2)}
    assert members == {0, 2}
    outside.send(Letter(1, 1))
    assert next_of(mailbox, Delivered).member.rank == 2
    worker.send(Letter(1, 2))
    assert next_of(mailbox, Delivered).member.rank == 0
    assert [member.rank for member in mailbox.members()] == [0, 2]
    worker.close()


def test_who_was_cut_off_may_join_again_as_another_member(tmp_path: Path, stack) -> None:
    mailbox = centre(stack, tmp_path)
    worker = inside(mailbox)
    first = next_of(mailbox, Joined).member
    mailbox.send(first, Letter(2))
    mailbox.cut(first)
    left = next_of(mailbox, Left)
    assert (left.member, left.orderly) == (first, False)
    assert worker.receive(WAIT_S).op == 2  # what had come is read
    with pytest.raises(PeerLostError):
        worker.receive(WAIT_S)
    worker.dial(Deadline(WAIT_S), lambda: False)
    again = next_of(mailbox, Joined).member
    assert (again.incarnation, again.number) == (first.incarnation, first.number + 1)
    worker.close()


def test_a_mailbox_that_closes_lets_go_of_it(tmp_path: Path) -> None:
    mailbox = Mailbox(config(0, tmp_path), MOST_BYTES)
    worker = inside(mailbox)
    heard: list[BaseException] = []

    def wait() -> None:
        try:
            worker.receive(WAIT_S)
        except PeerLostError as error:
            heard.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    mailbox.close(1.0)
    thread.join(WAIT_S)
    assert len(heard) == 1
    with pytest.raises(PeerLostError, match="closed"):
        worker.dial(Deadline(WAIT_S), lambda: False)
    with pytest.raises(PeerLostError, match="to stop"):
        worker.dial(Deadline(WAIT_S), lambda: True)
