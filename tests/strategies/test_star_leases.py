"""Every sample of a run is applied once, whoever comes and goes, and every gradient is accounted for."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from smolcluster.runtime.checkpoint.manifest import StarNote
from smolcluster.strategies.star.leases import Leases
from smolcluster.strategies.star.ledger import ROLLED_BACK, Ledger, taken_up
from smolcluster.train.star.journal import Journal, restored


def closes(leases: Leases) -> bool:
    return leases.leased == leases.applied + leases.outstanding + leases.released


def test_samples_are_given_in_order_and_to_the_last_one():
    leases = Leases(20)
    taken = [leases.give(1, 8, 10.0) for _ in range(4)]
    assert [(lease.start, lease.count) for lease in taken[:3]] == [(0, 8), (8, 8), (16, 4)]
    assert taken[3] is None
    assert leases.held(1) == 3
    for lease in taken[:3]:
        leases.acknowledge(leases.find(lease.number, 1))
    assert (leases.left, leases.applied, leases.leased, leases.released) == (0, 20, 20, 0)


def test_what_a_worker_leaves_goes_first_and_is_cut_for_a_smaller_one():
    leases = Leases(100)
    first = leases.give(1, 8, 10.0)
    leases.give(2, 4, 10.0)
    assert leases.leave(1) == 8
    assert closes(leases)
    parts = [leases.give(2, 3, 10.0) for _ in range(4)]
    assert [(part.start, part.count) for part in parts] == [(0, 3), (3, 3), (6, 2), (12, 3)]
    assert leases.find(first.number, 1) is None  # it is in parts by now
    assert closes(leases)


def test_a_lease_that_nobody_took_up_yet_may_still_be_acknowledged():
    """A link broke and was made again; the push comes late."""
    leases = Leases(100)
    lease = leases.give(1, 8, 10.0)
    leases.leave(1)
    leases.acknowledge(leases.find(lease.number, 2))
    assert (leases.applied, leases.outstanding, leases.released) == (8, 0, 0)
    assert closes(leases)
    assert leases.give(1, 8, 10.0).start == 8


def test_a_lease_of_another_s_is_not_found():
    leases = Leases(100)
    lease = leases.give(1, 8, 10.0)
    assert leases.find(lease.number, 2) is None
    leases.acknowledge(lease)
    assert leases.find(lease.number, 1) is None


def test_leases_expire_at_their_time():
    leases = Leases(100)
    first = leases.give(1, 8, 10.0)
    leases.give(2, 8, 20.0)
    assert leases.expire(9.9) == []
    assert leases.expire(10.0) == [(1, first)]
    assert leases.outstanding == 8
    assert leases.give(2, 8, 30.0).start == 0


def test_what_is_open_goes_on_in_another_process():
    leases = Leases(100)
    done, under_way, given_back = (leases.give(holder, 10, 10.0) for holder in (1, 2, 3))
    leases.acknowledge(done)
    leases.leave(3)
    front, back = leases.open_ranges()
    assert (front, back) == (30, ((10, 10), (20, 10)))
    again = Leases(100, front, back)
    again.take_up(leases.leased)
    assert (again.applied, again.left, again.leased, again.released) == (10, 90, 30, 20)
    assert closes(again)
    assert [again.give(1, 10, 1.0).start for _ in range(3)] == [10, 20, 30]
    assert under_way.start == 10
    assert given_back.start == 20


def test_a_shorter_run_has_no_sample_beyond_its_end():
    leases = Leases(35, 50, ((10, 10), (30, 10), (40, 10)))
    assert (leases.applied, leases.left) == (20, 15)
    assert [(one.start, one.count) for one in (leases.give(1, 10, 1.0), leases.give(1, 10, 1.0))] == [(10, 10), (30, 5)]
    assert leases.give(1, 10, 1.0) is None


@pytest.mark.parametrize("seed", range(20))
def test_random_comings_and_goings_apply_every_sample_once(seed):
    chance = random.Random(seed)
    leases, done, mine = Leases(1000), [0] * 1000, {holder: [] for holder in range(4)}
    while leases.left:
        holder = chance.randrange(4)
        match chance.randrange(6):
            case 0:
                leases.leave(holder)
                mine[holder].clear()
            case 1 if chance.random() < 0.1:
                leases = Leases(1000, *leases.open_ranges())
                mine = {holder: [] for holder in range(4)}
            case 2 | 3 if mine[holder]:
                lease = leases.find(mine[holder].pop(0), holder)
                if chance.random() < 0.2:
                    leases.release(lease)
                else:
                    leases.acknowledge(lease)
                    for sample in range(lease.start, lease.start + lease.count):
                        done[sample] += 1
            case _:
                lease = leases.give(holder, chance.randrange(1, 12), 1.0)
                if lease is not None:
                    mine[holder].append(lease.number)
        assert closes(leases)
        assert leases.applied == sum(done)
    assert done == [1] * 1000


def test_a_ledger_closes_and_counts_a_duplicate_once():
    ledger = Ledger()
    assert ledger.arrive(1, 77, 1)
    ledger.apply()
    assert not ledger.arrive(1, 77, 1)
    assert ledger.arrive(1, 78, 1)  # another process of that rank
    ledger.refuse("too stale")
    assert ledger.arrive(2, 5, 1)
    ledger.refuse(ROLLED_BACK)
    assert ledger.arrive(2, 5, 2)
    assert ledger.closes
    account = ledger.account()
    assert (account.pushed, account.applied, account.refused, account.rolled_back) == (4, 1, {"too stale": 1}, 1)
    assert (account.duplicates, account.pending) == (1, 1)


def test_what_a_killed_server_had_applied_after_its_checkpoint_is_rolled_back():
    checkpoint = Ledger(pushed=10, applied=9)
    checkpoint.refused["too stale"] = 1
    written = Ledger(pushed=18, applied=14, pending=1, duplicates=2, seen={1: (77, 9)})
    written.refused["too stale"] = 3
    assert written.closes
    now = taken_up(written, checkpoint)
    assert now.closes
    assert (now.pushed, now.applied, now.rolled_back, now.refused.total(), now.pending) == (18, 9, 6, 3, 0)
    assert not now.arrive(1, 77, 9)
    assert taken_up(now, checkpoint) == now


def journal_of(path: Path, ledger: Ledger) -> Journal:
    """The journal of the next process of a server that left this ledger."""
    with closing(Journal(path)) as journal:
        journal.write(ledger.account(leased=40), ledger)
    with closing(Journal(path)) as journal:
        return journal


def note_of(ledger: Ledger) -> StarNote:
    return StarNote(front=20, back=(), gradients=ledger.account(), seen=ledger.seen)


def test_of_a_run_that_goes_on_from_another_s_checkpoint_its_own_gradients_are_told_of(tmp_path: Path) -> None:
    """Its server was killed before it had saved anything: all that it had applied is rolled back."""
    theirs, written = Ledger(pushed=9, applied=9, seen={1: (5, 9)}), Ledger(pushed=3, applied=3, seen={1: (77, 3)})
    leases = Leases(100, 20)
    now = restored(note_of(theirs), journal_of(tmp_path / "journal", written), ours=False, leases=leases)
    assert now.closes
    assert (now.pushed, now.applied, now.rolled_back) == (3, 0, 3)
    assert not now.arrive(1, 77, 3)
    assert now.arrive(1, 5, 9)
    assert (leases.leased, leases.released) == (40, 20)


def test_a_journal_older_than_the_checkpoint_counts_for_nothing(tmp_path: Path) -> None:
    checkpoint = Ledger(pushed=10, applied=8, pending=2, seen={1: (77, 9)})
    old = journal_of(tmp_path / "journal", Ledger(pushed=4, applied=4, seen={1: (77, 4)}))
    now = restored(note_of(checkpoint), old, ours=True, leases=Leases(100, 20))
    assert now.closes
    # What was pending when it was saved died with the process.
    assert (now.pushed, now.applied, now.rolled_back, now.pending) == (10, 8, 2, 0)
    assert not now.arrive(1, 77, 9)


def test_what_is_kept_stays_when_its_holder_leaves() -> None:
    leases = Leases(30)
    first, second = leases.give(1, 10, 5.0), leases.give(1, 10, 5.0)
    assert first is not None
    assert second is not None
    leases.keep(first)
    assert (leases.held(1), leases.free, leases.leave(1), leases.expire(99.0)) == (1, 10, 10, [])
    assert leases.open_ranges() == (20, ((0, 10), (10, 10)))  # in a checkpoint it is not done
    leases.keep(second)  # its gradient comes all the same, and nobody had it meanwhile
    assert (leases.free, leases.released, leases.outstanding) == (10, 0, 20)
    leases.acknowledge(first)
    leases.acknowledge(second)
    assert (leases.applied, leases.leased, leases.left) == (20, 20, 10)
