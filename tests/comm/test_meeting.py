"""Ranks find each other through a plain store of c10d's: rounds, stale notices, refusals. Threads stand for ranks."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from smolcluster.comm import torchrun
from smolcluster.comm.clock import Deadline
from smolcluster.comm.control import Hub
from smolcluster.comm.link import Link
from smolcluster.comm.meeting import Meeting, Notice
from smolcluster.comm.membership import Membership
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, ProtocolError
from tests.comm.certificates import make_certificates
from tests.comm.wires import together

NOTICE = Notice(("127.0.0.1",), 1, "gone", 0, encrypted=False, secret=b"s")


@pytest.fixture
def store() -> dist.HashStore:
    return dist.HashStore()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("smol")]


def joining(
    store: dist.Store, n: int, timeout_s: float = 20.0, per_rank: Mapping[int, Mapping[str, str]] | None = None
) -> list[Callable[[], Membership]]:
    def one(rank: int) -> Callable[[], Membership]:
        return lambda: torchrun.join(store, rank, n, timeout_s, (per_rank or {}).get(rank, {}))

    return [one(rank) for rank in range(n)]


def leave(members: list[Any]) -> None:
    for member in members:
        assert isinstance(member, Membership), member
    together(*[lambda member=member: member.teardown(member.farewell_s) for member in members])


def test_three_starts_over_one_store(store: dist.HashStore) -> None:
    seen = set()
    for _ in range(3):
        members = together(*joining(store, 3))
        leave(members)
        seen.add(members[1].config.run_id)
        assert len({member.config.secret for member in members}) == 1
        assert len(members[0].config.secret) == 32
    assert len(seen) == 3


def test_the_secret_does_not_stay_in_the_store(store: dist.HashStore) -> None:
    leave(together(*joining(store, 2)))
    assert store.get("smol/at/1") == b"over"


def test_a_rank_may_come_long_before_rank_0(store: dist.HashStore) -> None:
    came = threading.Event()

    def late() -> Membership:
        came.wait(1.0)
        return joining(store, 2)[0]()

    leave(together(late, joining(store, 2)[1]))


def test_a_notice_that_a_killed_rank_0_left_is_passed_over(
    store: dist.HashStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens where it points to; the next round begins while it is being tried."""
    monkeypatch.setattr(torchrun, "REACH_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as opened:
        free = opened.getsockname()[1]
    Meeting(store, 0).publish(Notice(("127.0.0.1",), free, "gone", 0, encrypted=False, secret=b"s"))
    came = threading.Event()

    def late() -> Membership:
        came.wait(1.0)
        return joining(store, 2)[0]()

    leave(together(late, joining(store, 2)[1]))


def test_a_stale_notice_of_a_port_that_the_next_start_took_is_passed_over(
    store: dist.HashStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 listens at a fixed port again and has not said so when rank 1 dials the port by the old notice."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port = opened.getsockname()[1]
    Meeting(store, 0).publish(replace(NOTICE, port=port))
    looks_again, publish, find = threading.Event(), Meeting.publish, Meeting.find

    def publish_late(meeting: Meeting, notice: Notice) -> int:
        assert looks_again.wait(10), "rank 1 gave up"
        return publish(meeting, notice)

    def note(meeting: Meeting, deadline: Deadline, after: int = 0) -> tuple[int, Notice]:
        if after:
            looks_again.set()
        return find(meeting, deadline, after)

    monkeypatch.setattr(Meeting, "publish", publish_late)
    monkeypatch.setattr(Meeting, "find", note)
    members = together(*joining(store, 2, per_rank={0: {"SMOL_PORT": str(port)}}))
    leave(members)
    assert members[1].config.peer_ports == {0: port}


def test_a_port_that_another_run_holds_is_said_at_the_deadline(store: dist.HashStore) -> None:
    other = dist.HashStore()
    calls = joining(other, 2, timeout_s=5.0)
    with ExitStack() as stack:
        stranger = together(*calls)
        stack.callback(leave, stranger)
        Meeting(store, 0).publish(replace(NOTICE, port=stranger[0].endpoint.port))
        (error,) = together(joining(store, 2, timeout_s=1.0)[1])
    assert isinstance(error, HandshakeError)
    assert "refused us: another run: gone, not " in str(error)


def test_rounds_that_were_missed_are_passed_over(store: dist.HashStore) -> None:
    """Rank 1 sat out two rounds: one ended well, of the other only the notice is left."""
    first = Meeting(store, 0)
    first.conclude(first.publish(NOTICE))
    first.publish(NOTICE)
    third = first.publish(NOTICE)
    later = Meeting(store, 1)
    assert later.find(Deadline(1)) == (third, NOTICE)
    later.enter(third)
    with pytest.raises(DeadlineError, match=r"rank 0 did not come within 0\.2 s"):
        later.find(Deadline(0.2))
    first.conclude(third)
    assert Meeting(store, 2).newest() == third


@pytest.mark.parametrize("missing", [0, 2])
def test_a_rank_that_never_comes_is_named_to_all_in_time(store: dist.HashStore, missing: int) -> None:
    calls = joining(store, 3, timeout_s=1.0)
    del calls[missing]
    for error in together(*calls):
        assert isinstance(error, DeadlineError)
        assert str(error).startswith(f"rank {missing} did not co"), error


def test_rank_0_that_answers_no_more_is_given_up_in_time(
    store: dist.HashStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchrun, "REACH_S", 0.2)
    Meeting(store, 0).publish(NOTICE)
    (error,) = together(joining(store, 2, timeout_s=1.0)[1])
    assert isinstance(error, DeadlineError)
    assert str(error).startswith("nobody listens for rank 0 at 127.0.0.1:1 after")


def test_heartbeats_go_on_while_a_rank_is_late(store: dist.HashStore) -> None:
    """Rank 2 takes longer to start than a silent rank is borne with."""
    variables = {rank: {"SMOL_TIMEOUT_S": "1"} for rank in range(3)}
    calls = joining(store, 3, per_rank=variables)
    came = threading.Event()

    def late() -> Membership:
        came.wait(2.5)
        return calls[2]()

    leave(together(calls[0], calls[1], late))


def test_rank_0_takes_ranks_in_the_order_in_which_they_come(
    store: dist.HashStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 starts when rank 2 has been taken."""
    calls, taken, attach = joining(store, 3), threading.Event(), Hub.attach

    def note(hub: Hub, link: Link) -> None:
        attach(hub, link)
        if link.peer == 2:
            taken.set()

    monkeypatch.setattr(Hub, "attach", note)

    def late() -> Membership:
        assert taken.wait(10), "rank 2 has to wait for rank 1"
        return calls[1]()

    leave(together(calls[0], late, calls[2]))


def test_a_wrong_secret(store: dist.HashStore, tmp_path: Path) -> None:
    for name in ("right", "wrong"):
        (tmp_path / name).write_text(name)
    files = {0: {"SMOL_SECRET_FILE": str(tmp_path / "right")}, 1: {"SMOL_SECRET_FILE": str(tmp_path / "wrong")}}
    here, there = together(*joining(store, 2, timeout_s=2.0, per_rank=files))
    assert isinstance(there, HandshakeError)
    assert "the run's secret differs" in str(there)
    assert isinstance(here, DeadlineError)
    assert str(here).startswith("rank 1 did not connect within 2 s")
    assert "the run's secret differs" in str(here)
    assert b"right" not in store.get("smol/at/1")


@pytest.mark.parametrize("who", [0, 1])
def test_a_secret_on_one_side_only_is_refused(store: dist.HashStore, tmp_path: Path, who: int) -> None:
    (tmp_path / "secret").write_text("quiet")
    files = {who: {"SMOL_SECRET_FILE": str(tmp_path / "secret")}}
    _, there = together(*joining(store, 2, timeout_s=1.0, per_rank=files))
    assert isinstance(there, HandshakeError)
    has, lacks = ("rank 0", "this rank") if who == 0 else ("this rank", "rank 0")
    assert str(there).startswith(f"{has} was given SMOL_SECRET_FILE, {lacks} was not. Fix: ")


def test_tls_on_one_side_only_is_refused(store: dist.HashStore, tmp_path: Path) -> None:
    make_certificates(tmp_path, "a")
    files = {"SMOL_TLS_CERT": "a.pem", "SMOL_TLS_KEY": "a.key", "SMOL_TLS_CA": "ca.pem"}
    per_rank = {0: {key: str(tmp_path / name) for key, name in files.items()}}
    _, there = together(*joining(store, 2, timeout_s=1.0, per_rank=per_rank))
    assert isinstance(there, HandshakeError)
    assert str(there).startswith("rank 0 was given SMOL_TLS_CERT, SMOL_TLS_KEY and SMOL_TLS_CA, this rank was not.")


def test_beyond_loopback_a_secret_in_the_store_is_warned_of_once(
    store: dist.HashStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING):
        leave(together(*joining(store, 2)))
    assert not caplog.records
    monkeypatch.setattr(torchrun, "is_loopback", lambda host: False)
    with caplog.at_level(logging.WARNING):
        leave(together(*joining(store, 2)))
    assert [record.getMessage()[:24] for record in caplog.records] == ["smol: no SMOL_SECRET_FIL"]
    caplog.clear()
    (tmp_path / "secret").write_text("quiet")
    with caplog.at_level(logging.WARNING):
        leave(
            together(
                *joining(store, 2, per_rank={key: {"SMOL_SECRET_FILE": str(tmp_path / "secret")} for key in range(2)})
            )
        )
    assert not caplog.records


def test_a_rank_that_listens_on_several_addresses_is_dialled_on_the_nearest(store: dist.HashStore) -> None:
    hosts = ("127.1.0.2,127.2.0.2", "127.2.0.3,127.3.0.3", "127.3.0.4")
    per_rank = {rank: {"SMOL_ADDRESS": text} for rank, text in enumerate(hosts)}
    with ExitStack() as stack:
        members = together(*joining(store, 3, per_rank=per_rank))
        stack.callback(leave, members)
        pair = together(lambda: members[1].mesh.link(2, "x"), lambda: members[2].mesh.link(1, "x"))
        assert pair[1].out.sock.getpeername()[0] == "127.3.0.3"
        control = next(link for link in members[1].mesh.links() if link.peer == 0)
        assert control.out.sock.getpeername()[0] == "127.2.0.2"


def test_a_store_that_goes_away_is_no_missing_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = dist.TCPStore("127.0.0.1", server.port, is_master=False)
    waiting, wait = threading.Event(), Meeting._wait

    def says_so(meeting: Meeting, key: str, deadline: Deadline) -> bytes:
        waiting.set()
        return wait(meeting, key, deadline)

    monkeypatch.setattr(Meeting, "_wait", says_so)

    def goes() -> None:
        nonlocal server
        assert waiting.wait(10)
        del server

    error, _ = together(lambda: torchrun.join(client, 1, 2, 20.0, {}), goes)
    assert isinstance(error, PeerError)
    assert str(error).startswith("the rendezvous store was lost while waiting for rank 0")


@pytest.mark.parametrize("text", ["", "[]", '{"hosts": 3}', '{"hosts": ["a"], "port": "x"}'])
def test_a_notice_of_another_version(text: str) -> None:
    with pytest.raises(ProtocolError, match="the same version on every machine"):
        Notice.decode(text.encode())


def test_a_notice_keeps_its_secret_to_itself() -> None:
    assert Notice.decode(NOTICE.encode().encode()) == NOTICE
    assert "secret" not in repr(NOTICE)


def test_one_rank_needs_nobody(store: dist.HashStore) -> None:
    leave([joining(store, 1)[0]()])
    assert store.num_keys() == 0
