"""A rank is killed or frozen in the middle of each operation: every other one learns who it was, and keeps nothing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.comm import middle
from tests.comm.pool import Pool
from tests.comm.wires import together

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/self/fd, SIGSTOP and fork")

EVERY = middle.COLLECTIVES + middle.MESSAGES + middle.WAITING
SIZES = (2, 3)
TIMEOUT_S = 3.0
# Longer than the pool waits for a rank: an error in time is never that of this deadline.
NEVER_S = 600.0
# On a machine where everything else runs too: the workers' start and two rounds of 24 MB a pair come before the freeze.
BUSY_S = 150.0


def victims(n: int) -> Iterator[tuple[str, int]]:
    """Each operation with one victim: rank 0, which keeps the store, and the last rank, in turns."""
    for index, name in enumerate(EVERY):
        yield name, (index + n) % 2 * (n - 1)


KILLS = [(n, name, victim) for n in SIZES for name, victim in victims(n)]
# Each operation once, at two ranks and at three, rank 0 and the last one in turns.
FREEZES = [KILLS[index + index // 2 % 2 * len(EVERY)] for index in range(len(EVERY))]
ALL = [(n, name, victim) for n in SIZES for name in EVERY for victim in range(n)]


@pytest.fixture(scope="module")
def forked() -> Iterator[Pool]:
    """Workers from a process that has imported torch already: most tests here cost one its life."""
    made = Pool("forkserver")
    yield made
    made.close()


@pytest.fixture(scope="module")
def several() -> Iterator[list[Pool]]:
    made = [Pool("forkserver") for _ in range(len(FREEZES) // 4)]
    yield made
    for pool in made:
        pool.close()


def check(outcomes: list[middle.Seen], victim: int, name: str) -> None:
    for seen in outcomes:
        assert seen.culprit == victim, seen
        assert seen.kind in ("PeerLostError", "DeadlineError"), seen
        assert seen.threads == [], seen
        assert seen.descriptors == 0, seen
        assert seen.tensors == 0, seen


def kill(pool: Pool, n: int, name: str, victim: int) -> None:
    outcomes = pool.outcomes(
        n,
        middle.survive,
        name,
        victim,
        signal.SIGKILL,
        prepare=middle.before_joining,
        timeout_s=NEVER_S,
        operation_s=NEVER_S,
    )
    assert outcomes.pop(victim).error == "died"
    assert all(not outcome.error for outcome in outcomes), outcomes
    check([outcome.value for outcome in outcomes], victim, name)
    assert all(outcome.value.kind == "PeerLostError" for outcome in outcomes), outcomes


def freeze(pool: Pool, n: int, name: str, victim: int, wake: bool) -> None:
    with pool.begun(
        n,
        middle.survive,
        name,
        victim,
        signal.SIGSTOP,
        prepare=middle.before_joining,
        timeout_s=TIMEOUT_S,
        operation_s=NEVER_S,
    ):
        outcomes = [pool.outcome(rank) for rank in range(n) if rank != victim]
        os.kill(pool.pid(victim), signal.SIGCONT if wake else signal.SIGKILL)
        woken = pool.outcome(victim)
    assert woken.error == ("" if wake else "died"), woken  # it finds the others gone, and ends as they did
    if wake:
        assert woken.value.threads == [], woken
        assert woken.value.descriptors == 0, woken
    assert all(not outcome.error for outcome in outcomes), outcomes
    check([outcome.value for outcome in outcomes], victim, name)


@pytest.mark.parametrize(("n", "name", "victim"), KILLS)
def test_a_rank_killed_in_the_middle(forked: Pool, n: int, name: str, victim: int) -> None:
    kill(forked, n, name, victim)


@pytest.mark.parametrize("batch", range(4))
def test_a_rank_frozen_in_the_middle(several: list[Pool], batch: int) -> None:
    """Each takes as long as silence is forgiven, so several runs wait side by side."""
    cases = FREEZES[batch::4]

    def one(pool: Pool, n: int, name: str, victim: int) -> Callable[[], None]:
        return lambda: freeze(pool, n, name, victim, wake=n == 2)

    failed = [
        error
        for error in together(*(one(pool, *case) for pool, case in zip(several, cases, strict=True)), within_s=BUSY_S)
        if error is not None
    ]
    assert not failed, "\n".join(f"{error!r}" for error in failed)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("n", "name", "victim"), ALL)
def test_every_rank_goes_in_the_middle_of_everything(forked: Pool, n: int, name: str, victim: int) -> None:
    kill(forked, n, name, victim)
    freeze(forked, n, name, victim, wake=True)
