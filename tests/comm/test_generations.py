"""Who joins a later generation of a run: early ones, late ones, and stragglers of an old one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from smolcluster.comm.announce import announce
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.endpoint import Endpoint, listen
from smolcluster.comm.membership import Membership
from smolcluster.errors import DeadlineError, HandshakeError, PeerError
from tests.comm.wires import until

HOST = "127.0.0.1"


def config(rank: int, file: Path | None = None, port: int = 0, **changes: Any) -> GroupConfig:
    """Of two ranks, that find each other at `port`, or in `file`."""
    return GroupConfig(
        rank=rank,
        world_size=2,
        listen=(HOST,),
        port=port if rank == 0 else 0,
        peers={1 - rank: HOST},
        peer_ports={0: port} if port else {},
        timeout_s=10,
        secret=b"k" * 32,
        endpoint_file=file,
        **changes,
    )


class Joining(threading.Thread):
    """A membership that joins in a thread of its own: `done()` gives it, or raises what it failed of."""

    def __init__(self, config: GroupConfig, seconds: float = 20) -> None:
        super().__init__(daemon=True)
        self._config, self._seconds = config, seconds
        self.member: Membership | None = None
        self._error: PeerError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.member = Membership(self._config)
            self.member.join(Deadline(self._seconds))
        except PeerError as error:
            self._error = error

    def done(self) -> Membership:
        self.join(30)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error
        assert self.member is not None
        return self.member

    def clear(self) -> None:
        if self.member is not None:
            self.member.teardown(0.0)
        self.join(30)


@pytest.fixture
def join() -> Iterator[Callable[..., Joining]]:
    with ExitStack() as stack:

        def begin(*args: Any, seconds: float = 20, **options: Any) -> Joining:
            made = Joining(config(*args, **options), seconds)
            stack.callback(made.clear)
            return made

        yield begin


@contextmanager
def free_port() -> Iterator[tuple[int, Callable[[], None]]]:
    """A port that is held until the second of the two is called."""
    [held] = listen((HOST,), 0)
    try:
        yield held.getsockname()[1], held.close
    finally:
        held.close()


Join = Callable[..., Joining]


def test_rank_0_says_which_generation_it_is(join: Join, tmp_path: Path) -> None:
    entered: list[int] = []
    one = join(1, tmp_path / "endpoint.json", after=3, entered=entered.append)
    zero = join(0, tmp_path / "endpoint.json", generation=7)
    assert (zero.done().generation, one.done().generation) == (7, 7)
    assert entered == [7]


def test_who_is_early_meets_the_last_generation_and_waits_for_the_next(join: Join) -> None:
    with free_port() as (port, let_go):
        let_go()
        old = join(0, port=port, generation=2)
        early = join(1, port=port, after=2)
        until(lambda: old.member is not None)
        listener = old.member._listener  # type: ignore[union-attr]
        until(lambda: len(listener.refusals) > 1)  # it came more than once
        assert "generation 2 of the run, where this rank has been in 2" in str(listener.refusals[0])
        old.member.teardown(0.0)  # type: ignore[union-attr]
        with pytest.raises(PeerError):
            old.done()
        new = join(0, port=port, generation=3, bind_s=20.0)
        assert (new.done().generation, early.done().generation) == (3, 3)


def test_at_a_fixed_port_too_though_it_is_still_held(join: Join) -> None:
    with free_port() as (port, let_go):
        early = join(1, port=port, after=0)
        new = join(0, port=port, generation=1, bind_s=20.0)
        assert new.is_alive()
        let_go()
        assert (new.done().generation, early.done().generation) == (1, 1)


def test_a_port_in_use_at_the_first_start_is_told_at_once(join: Join) -> None:
    with free_port() as (port, _), pytest.raises(PeerError, match="is in use"):
        join(0, port=port, generation=0).done()


def test_an_announcement_of_a_start_that_died_is_looked_up_again(join: Join, tmp_path: Path) -> None:
    file = tmp_path / "endpoint.json"
    with free_port() as (port, let_go):
        let_go()
        announce(file, Endpoint(HOST, port), "run", 4)
        one = join(1, file, after=3)
        zero = join(0, file, generation=5)
        assert (zero.done().generation, one.done().generation) == (5, 5)


def test_stragglers_of_an_old_generation_bounce_off_and_the_right_one_joins(join: Join, tmp_path: Path) -> None:
    file = tmp_path / "endpoint.json"
    zero = join(0, file, generation=5)
    until(file.exists)
    port = zero.member.endpoint.port  # type: ignore[union-attr]
    with pytest.raises(HandshakeError, match="generation 4 of the run, not 5; one of the two is stale"):
        join(1, port=port, generation=4).done()
    one = join(1, file, after=4)
    assert (zero.done().generation, one.done().generation) == (5, 5)


def test_a_later_generation_that_never_comes_is_a_deadline(join: Join, tmp_path: Path) -> None:
    file = tmp_path / "endpoint.json"
    zero = join(0, file, generation=5, seconds=8)
    with pytest.raises(DeadlineError, match=r"rank 0 did not announce|rank 0 was not reached"):
        join(1, file, after=5, seconds=1.5).done()
    assert zero.is_alive() or zero.member is not None
