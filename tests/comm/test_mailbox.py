"""Ranks that come and go: every letter arrives whole and once, and who is gone is told, at once or at the deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smolcluster.comm.caller import Caller
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.faults import Faults
from smolcluster.comm.letter import Letter, receive_letter, send_letter
from smolcluster.comm.mailbox import MAIL, MOST_UNREAD, Delivered, Joined, Left, Mailbox
from smolcluster.comm.opening import dial_rank_0
from smolcluster.errors import DeadlineError, HandshakeError, PeerLostError
from smolcluster.spec.faults import FaultSpec
from tests.comm.wires import body_of

WAIT_S = 60.0
MOST_BYTES = 8 << 20
WORLD = 4


def config(rank: int, folder: Path, **changes) -> GroupConfig:
    mine = GroupConfig(
        rank=rank,
        world_size=WORLD,
        listen=() if rank else ("127.0.0.1",),
        port=0,
        peers={0: "127.0.0.1"} if rank else {},
        timeout_s=20.0,
        run_id="mail",
        secret=b"a secret of the tests",
        endpoint_file=folder / "endpoint.json",
        after=-1 if rank else None,
    )
    return replace(mine, **changes)


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


def centre(stack: ExitStack, folder: Path, **changes) -> Mailbox:
    mailbox = Mailbox(config(0, folder, **changes), MOST_BYTES)
    stack.callback(mailbox.close, 1.0)
    return mailbox


def caller(stack: ExitStack, folder: Path, rank: int, incarnation: int | None = None, **changes) -> Caller:
    made = Caller(config(rank, folder, **changes), MOST_BYTES, incarnation)
    stack.callback(made.close, 1.0)
    return made


def join(one: Caller, **words):
    return one.dial(Deadline(WAIT_S), lambda: False, words)


def next_of(mailbox: Mailbox, kind):
    event = mailbox.receive(WAIT_S)
    assert isinstance(event, kind), event
    return event


# -- who is there -----------------------------------------------------------------------------------------------------


def test_a_worker_joins_speaks_is_answered_and_leaves(stack, tmp_path):
    mailbox = centre(stack, tmp_path, generation=3)
    one = caller(stack, tmp_path, 2, incarnation=77)
    assert join(one, samples=8) == {"generation": 3}
    assert one.generation == 3
    joined = next_of(mailbox, Joined)
    assert (joined.member.rank, joined.member.incarnation, joined.words["samples"]) == (2, 77, 8)
    assert mailbox.members() == (joined.member,)
    one.send(Letter(9, 4, {"a": 1}, body_of(3_000_000)))
    delivered = next_of(mailbox, Delivered)
    assert torch.equal(delivered.letter.body, body_of(3_000_000))
    mailbox.send(delivered.member, Letter(10, delivered.letter.number, {}, body_of(2_000_000)))
    answer = one.receive(WAIT_S)
    assert answer is not None
    assert (answer.op, answer.number) == (10, 4)
    assert torch.equal(answer.body, body_of(2_000_000))
    assert one.receive(0.01) is None
    one.close(WAIT_S)
    left = next_of(mailbox, Left)
    assert (left.member, left.orderly) == (joined.member, True)
    assert mailbox.members() == ()


def test_what_waits_is_sent_before_the_goodbye_of_either_side(stack, tmp_path):
    mailbox = centre(stack, tmp_path)
    one, other = caller(stack, tmp_path, 1), caller(stack, tmp_path, 2)
    join(one)
    member = next_of(mailbox, Joined).member
    join(other)
    next_of(mailbox, Joined)
    other.send(Letter(1, 1, {}, body_of(4_000_000)))
    closing = threading.Thread(target=other.close, args=(WAIT_S,))
    closing.start()
    assert next_of(mailbox, Delivered).letter.body.numel() == 4_000_000
    assert next_of(mailbox, Left).orderly
    closing.join()
    mailbox.send(member, Letter(2, 1, {}, body_of(4_000_000)))
    mailbox.close(WAIT_S)
    assert one.receive(WAIT_S).body.numel() == 4_000_000
    with pytest.raises(PeerLostError, match="rank 0 has left"):
        one.receive(WAIT_S)


def test_letters_of_many_come_once_each_and_in_order(stack, tmp_path):
    mailbox = centre(stack, tmp_path)
    callers = [caller(stack, tmp_path, rank) for rank in (1, 2, 3)]
    for one in callers:
        join(one)
    for number in range(50):
        for one in callers:
            one.send(Letter(1, number, {}, body_of(100_000)))
    seen: dict[int, list[int]] = {1: [], 2: [], 3: []}
    while min(map(len, seen.values())) < 50:
        event = mailbox.receive(WAIT_S)
        assert event is not None
        if isinstance(event, Delivered):
            seen[event.member.rank].append(event.letter.number)
    assert all(numbers == list(range(50)) for numbers in seen.values())


def test_only_so_much_is_read_ahead(stack, tmp_path):
    mailbox = centre(stack, tmp_path)
    one = caller(stack, tmp_path, 1)
    join(one)
    for number in range(40):
        one.send(Letter(1, number, {}, body_of(1 << 20)))
    next_of(mailbox, Joined)
    for number in range(40):
        assert next_of(mailbox, Delivered).letter.number == number
        assert len(mailbox._events) <= MOST_UNREAD


def test_a_link_that_is_cut_is_told_at_once_on_both_sides_and_made_again(stack, tmp_path):
    mailbox = centre(stack, tmp_path)
    one = caller(stack, tmp_path, 1)
    join(one)
    first = next_of(mailbox, Joined).member
    mailbox.cut(first)
    with pytest.raises(PeerLostError):
        one.receive(WAIT_S)
    left = next_of(mailbox, Left)
    assert (left.member, left.orderly) == (first, False)
    join(one)
    second = next_of(mailbox, Joined).member
    assert (second.incarnation, second.number) == (first.incarnation, first.number + 1)
    mailbox.send(first, Letter(5, 1))  # to one who is gone: nothing
    mailbox.send(second, Letter(6, 1))
    assert one.receive(WAIT_S).op == 6


def test_a_letter_before_joining_ends_the_link(stack, tmp_path):
    mailbox = centre(stack, tmp_path)
    one = caller(stack, tmp_path, 1)
    join(one)
    next_of(mailbox, Joined)
    one._line.cut()
    next_of(mailbox, Left)
    link = dial_rank_0(one.mesh, config(1, tmp_path), MAIL, Deadline(WAIT_S), threading.Event())
    send_letter(link, Letter(1, 1))
    with pytest.raises(PeerLostError):
        receive_letter(link, WAIT_S, MOST_BYTES)
    one.mesh.drop(link)
    assert mailbox.receive(0.1) is None


CHILD = """
    import sys, time
    from pathlib import Path
    from smolcluster.comm.caller import Caller
    from smolcluster.comm.clock import Deadline
    from smolcluster.comm.letter import Letter
    from tests.comm.test_mailbox import MOST_BYTES, config
    rank, folder, timeout_s = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    one = Caller(config(rank, folder, timeout_s=timeout_s), MOST_BYTES)
    one.dial(Deadline(60), lambda: False)
    one.send(Letter(1, 1))
    one.receive(120.0)
"""


@pytest.fixture
def children():
    started: list[subprocess.Popen] = []

    def start(rank: int, folder: Path, timeout_s: float = 20.0) -> subprocess.Popen:
        command = [sys.executable, "-c", textwrap.dedent(CHILD), str(rank), str(folder), str(timeout_s)]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait()


def test_a_killed_process_is_noticed_at_once_and_its_next_one_let_in(stack, tmp_path, children):
    mailbox = centre(stack, tmp_path, timeout_s=600.0)  # only its socket can tell
    child = children(1, tmp_path)
    first = next_of(mailbox, Joined).member
    next_of(mailbox, Delivered)
    other = caller(stack, tmp_path, 2)
    join(other)
    next_of(mailbox, Joined)
    child.kill()
    killed = Deadline(30.0)
    left = next_of(mailbox, Left)
    assert left.member == first
    assert not killed.expired
    assert not left.orderly
    children(1, tmp_path)
    second = next_of(mailbox, Joined).member
    assert (second.rank, second.incarnation != first.incarnation) == (1, True)
    other.send(Letter(3, 1))  # it never noticed any of that
    while (event := mailbox.receive(WAIT_S)) and not (isinstance(event, Delivered) and event.letter.op == 3):
        pass
    assert event is not None


@pytest.mark.skipif(os.name == "nt", reason="no SIGSTOP there")
def test_a_frozen_process_is_noticed_at_its_deadline_and_comes_again(stack, tmp_path, children):
    mailbox = centre(stack, tmp_path, timeout_s=2.0)
    child = children(1, tmp_path, 2.0)
    member = next_of(mailbox, Joined).member
    next_of(mailbox, Delivered)
    os.kill(child.pid, signal.SIGSTOP)
    left = next_of(mailbox, Left)
    assert left.member == member
    assert "sent nothing for 2 s" in left.reason


def test_a_centre_that_starts_again_is_found_in_its_next_generation(stack, tmp_path):
    first = Mailbox(config(0, tmp_path), MOST_BYTES)
    one = caller(stack, tmp_path, 1)
    assert join(one) == {"generation": 0}
    first.close(0.0)
    with pytest.raises(PeerLostError):
        one.receive(WAIT_S)
    with pytest.raises(DeadlineError, match="rank 0 was not reached"):
        one.dial(Deadline(0.3), lambda: False)
    with pytest.raises(PeerLostError, match="to stop"):
        one.dial(Deadline(WAIT_S), lambda: True)
    second = centre(stack, tmp_path, generation=1)
    assert join(one) == {"generation": 1}
    assert next_of(second, Joined).member.incarnation == one.incarnation
    # A process that was in generation 1 does not take an earlier one for it.
    late = caller(stack, tmp_path, 2, after=1)
    with pytest.raises(DeadlineError):
        late.dial(Deadline(0.5), lambda: False)


def test_a_wrong_secret_is_refused_for_good_at_a_fixed_port(stack, tmp_path):
    mailbox = centre(stack, tmp_path)
    port = mailbox.mesh.listener.endpoint.port
    thief = caller(stack, tmp_path, 1, secret=b"another", peer_ports={0: port})
    with pytest.raises(HandshakeError, match="secret"):
        thief.dial(Deadline(WAIT_S), lambda: False)
    assert mailbox.receive(0.1) is None


def test_a_partition_is_a_loss_at_the_deadline_and_a_drop_one_at_once(stack, tmp_path):
    faults = [FaultSpec(kind="drop", rank=1, step=1), FaultSpec(kind="partition", ranks=[1], step=2, seconds=6.0)]
    at_centre, at_worker = (Faults(faults, rank, 1) for rank in (0, 1))
    mailbox = centre(stack, tmp_path, faults=at_centre, timeout_s=2.0)
    one = caller(stack, tmp_path, 1, faults=at_worker, timeout_s=2.0)
    join(one)
    next_of(mailbox, Joined)
    at_worker.begin_step(1)
    assert not next_of(mailbox, Left).orderly
    with pytest.raises(PeerLostError):
        one.receive(WAIT_S)
    join(one)
    next_of(mailbox, Joined)
    at_worker.begin_step(2)
    at_centre.begin_step(2)
    assert "sent nothing for 2 s" in next_of(mailbox, Left).reason
    with pytest.raises(PeerLostError):
        one.receive(WAIT_S)
    join(one)
    assert next_of(mailbox, Joined).member.number == 3


def test_no_thread_and_no_socket_is_left(tmp_path):
    before = set(threading.enumerate())
    for _ in range(3):
        mailbox = Mailbox(config(0, tmp_path), MOST_BYTES)
        one = Caller(config(1, tmp_path), MOST_BYTES)
        join(one)
        one.close()
        mailbox.close(1.0)
    assert set(threading.enumerate()) <= before


def test_nothing_listens_but_rank_0_on_its_own_address(stack, tmp_path):
    mailbox = centre(stack, tmp_path)
    one = caller(stack, tmp_path, 1)
    assert [opened.getsockname()[0] for opened in mailbox.mesh.listener._sockets] == ["127.0.0.1"]
    assert one.mesh.listener is None
