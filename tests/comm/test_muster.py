"""Who goes on when ranks are lost: everybody who does has the same list, and half a cluster never goes on twice."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from smolcluster.comm.config import GroupConfig
from smolcluster.comm.faults import Faults
from smolcluster.comm.link import Link
from smolcluster.comm.muster import Ground, _Gathering, muster
from smolcluster.comm.quorum import Entry, Muster
from smolcluster.errors import DeadlineError, PeerError
from smolcluster.spec.faults import FaultSpec
from tests.comm.wires import together

HOST = "127.0.0.1"
ALL = (0, 1, 2)


def ground(folder: Path, rank: int, window_s: float = 1.5, **changes: Any) -> Ground:
    config = GroupConfig(
        rank=rank,
        world_size=3,
        listen=(HOST,),
        port=0,
        peers={peer: HOST for peer in ALL if peer != rank},
        timeout_s=10,
        secret=b"k" * 32,
        digest="d" * 64,
        **changes,
    )
    return Ground(config, {peer: folder / f"muster-{peer}.json" for peer in ALL}, window_s, first_s=10)


def come(folder: Path, entries: list[Entry], window_s: float = 1.5) -> tuple[list[Any], dict[int, Entry]]:
    """Those ranks muster at the same time: what each of them got, and what each has noted."""
    notes: dict[int, Entry] = {}

    def one(entry: Entry) -> Muster:
        return muster(ground(folder, entry.rank, window_s), entry, lambda mine: notes.update({entry.rank: mine}))

    return together(*[lambda entry=entry: one(entry) for entry in entries]), notes  # type: ignore[misc]


def entry(rank: int, generation: int = 4, members: tuple[int, ...] = ALL) -> Entry:
    return Entry(rank=rank, generation=generation, members=members)


def test_all_come_and_nobody_waits(tmp_path: Path) -> None:
    began = time.monotonic()
    got, notes = come(tmp_path, [entry(rank) for rank in ALL], window_s=60)
    assert got == [Muster(generation=5, members=ALL)] * 3
    assert notes == {rank: entry(rank, 5) for rank in ALL}
    assert time.monotonic() - began < 60


def test_what_is_broken_on_purpose_is_a_generation_and_no_muster(tmp_path: Path) -> None:
    """A partition that nobody's steps could end, and relays that would never be told of it."""
    asked = [Faults([FaultSpec(kind="partition", ranks=[0], step=1, seconds=600)], rank, 0) for rank in ALL]

    def one(rank: int) -> Muster:
        return muster(ground(tmp_path, rank, faults=asked[rank]), entry(rank), lambda mine: None)

    assert together(*[lambda rank=rank: one(rank) for rank in ALL]) == [Muster(generation=5, members=ALL)] * 3  # type: ignore[misc]
    assert [faults._relays for faults in asked] == [[]] * 3


def test_the_first_generation_begins_with_all(tmp_path: Path) -> None:
    got, _ = come(tmp_path, [entry(rank, -1) for rank in ALL], window_s=0.1)
    assert got == [Muster(generation=0, members=ALL)] * 3


@pytest.mark.parametrize("lost", ALL)
def test_one_is_lost(tmp_path: Path, lost: int) -> None:
    left = tuple(rank for rank in ALL if rank != lost)
    got, notes = come(tmp_path, [entry(rank) for rank in left])
    assert got == [Muster(generation=5, members=left)] * 2
    assert set(notes) == set(left)


def test_numbers_go_on_from_the_latest_that_anybody_knows(tmp_path: Path) -> None:
    got, _ = come(tmp_path, [entry(0, 2), entry(1, 7), entry(2, 7)])
    assert [one.generation for one in got] == [8] * 3


def test_one_that_was_left_out_before_is_not_waited_for_and_welcome(tmp_path: Path) -> None:
    got, _ = come(tmp_path, [entry(1, 5, (1, 2)), entry(2, 5, (1, 2))], window_s=60)
    assert got == [Muster(generation=6, members=(1, 2))] * 2
    back, _ = come(tmp_path, [entry(0, 4), entry(2, 6, (0, 2))])
    assert back == [Muster(generation=7, members=(0, 2))] * 2


@pytest.mark.parametrize("alone", [entry(2), entry(0, 4, ALL), entry(2, 5, (1, 2))])
def test_less_than_half_does_not_go_on(tmp_path: Path, alone: Entry) -> None:
    got, notes = come(tmp_path, [alone], window_s=0.3)
    assert isinstance(got[0], DeadlineError)
    assert "did not come within 0.3 s" in str(got[0])
    assert "-e resume=true -e nodes=" in str(got[0])
    assert not notes


def test_half_goes_on_where_it_has_the_lowest(tmp_path: Path) -> None:
    got, _ = come(tmp_path, [entry(1, 5, (1, 2))], window_s=0.3)
    assert got == [Muster(generation=6, members=(1,))]


def test_one_who_has_no_business_here_is_not_counted(tmp_path: Path) -> None:
    """Another plan's rank 1, and another secret's."""
    for changes in ({"digest": "e" * 64}, {"secret": b"x" * 32}):
        folder = tmp_path / next(iter(changes))

        def odd(changes: dict[str, Any] = changes, folder: Path = folder) -> Muster:
            config = ground(folder, 1)
            mine = GroupConfig(**{**config.config.__dict__, **changes})
            return muster(Ground(mine, config.files, 1.5, 10), entry(1), lambda _: None)

        got = together(
            odd,
            lambda folder=folder: muster(ground(folder, 0), entry(0), lambda _: None),  # type: ignore[misc]
            lambda folder=folder: muster(ground(folder, 2), entry(2), lambda _: None),  # type: ignore[misc]
        )
        assert isinstance(got[0], PeerError)
        assert got[1:] == [Muster(generation=5, members=(0, 2))] * 2


def test_a_follower_whose_leader_dies_before_all_agreed_fails(tmp_path: Path) -> None:
    """The leader goes when it has sent its verdict: what a rank has noted then binds it, and it does not go on."""
    dead = threading.Event()
    notes: list[Entry] = []

    def leader() -> Muster:
        def gone(mine: Entry) -> None:
            if not mine.pending:
                dead.set()
                raise PeerError("killed before the commit")

        return muster(ground(tmp_path, 0), entry(0), gone)

    got = together(leader, lambda: muster(ground(tmp_path, 1), entry(1), notes.append))
    assert dead.is_set()
    assert all(isinstance(one, PeerError) for one in got)
    assert notes == [entry(1).offered(Muster(generation=5, members=(0, 1)))]


def test_a_lower_rank_that_goes_before_the_verdict_is_not_the_leader_s_end(tmp_path: Path) -> None:
    """Rank 2 reaches both others, which do not reach each other; rank 0 dies while rank 1 leads."""
    apart = ground(tmp_path, 1, 60)
    grounds = [ground(tmp_path, 0, 60), Ground(apart.config, {1: apart.files[1], 0: tmp_path / "no"}, 60, 10)]
    lower = [_Gathering(each, entry(rank), lambda _: None) for rank, each in enumerate(grounds)]
    mine = _Gathering(ground(tmp_path, 2, 60), entry(2), lambda _: None)
    heard, gone = mine._hear, threading.Event()

    def hear(link: Link, *rest: Any) -> None:
        heard(link, *rest)
        if link.peer == 0:
            gone.set()

    def lead() -> Muster:
        lower[0].close()
        assert gone.wait(10)
        return lower[1].lead()

    mine._hear = hear  # type: ignore[method-assign]
    with ExitStack() as stack:
        for gathering in (*lower, mine):
            stack.callback(gathering.close)
        with mine._changed:
            assert mine._changed.wait_for(lambda: len(mine._lower) == 2, 10)
        with lower[1]._changed:
            assert lower[1]._changed.wait_for(lambda: 2 in lower[1]._higher, 10)
        got = together(lead, mine.follow)
    assert got == [Muster(generation=5, members=(1, 2))] * 2


def test_nobody_hears_the_commit_while_a_port_of_the_muster_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ports of their own ranks listen on the same ones in the next generation: who is fast must not dial these."""
    looked = threading.Event()
    close = _Gathering.close

    def slow(gathering: _Gathering) -> None:
        if gathering._me.rank != 2:
            looked.wait(10)
        close(gathering)

    monkeypatch.setattr(_Gathering, "close", slow)
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server((HOST, 0))) for _ in ALL]
        ports = dict(zip(ALL, [server.getsockname()[1] for server in servers], strict=True))

    def one(rank: int) -> Muster:
        others = {peer: port for peer, port in ports.items() if peer != rank}
        config = GroupConfig(**{**ground(tmp_path, rank).config.__dict__, "port": ports[rank], "peer_ports": others})
        return muster(Ground(config, {}, 10, 10), entry(rank), lambda _: None)

    def fast() -> list[int]:
        try:
            one(2)
            return [port for port in ports.values() if _answers(port)]
        finally:
            looked.set()

    got = together(lambda: one(0), lambda: one(1), fast)
    assert got == [Muster(generation=5, members=ALL)] * 2 + [[]]


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 5).close()
    except ConnectionRefusedError:
        return False
    return True
