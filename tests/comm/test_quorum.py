"""Which lists of ranks may go on: whatever is cut whenever, the lists that count form one chain."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from smolcluster.comm.quorum import Entry, Muster, awaited, verdict_of
from smolcluster.errors import DeadlineError
from smolcluster.runtime.entering import entry_of, note_of
from smolcluster.runtime.generation import GenerationNote, read_generation, write_generation
from smolcluster.runtime.runfolder import RunFolder

FIVE = (0, 1, 2, 3, 4)


def entry(rank: int, *pending: Muster, generation: int = 4, members: tuple[int, ...] = FIVE) -> Entry:
    return Entry(rank=rank, generation=generation, members=members, pending=pending)


def may(*known: Entry) -> bool:
    try:
        verdict_of(known, len(FIVE), 1)
    except DeadlineError:
        return False
    return True


def test_a_cable_that_is_cut_between_note_and_answer_does_not_make_two_runs() -> None:
    """0 offered {0, 1, 2}, 1 and 2 noted it, and their answers are lost: it does not count, which they cannot know."""
    offered = Muster(generation=5, members=(0, 1, 2))
    zero, one, two = (entry(rank).offered(offered) for rank in offered.members)
    assert not may(one, two)
    assert not may(zero, entry(3), entry(4))
    assert may(zero, one, two)
    assert may(zero, one, entry(3), entry(4))
    # Had the leader noted nothing and the followers all, as if it counted, both halves would go on.
    assert may(entry(0), entry(3), entry(4))
    assert may(one.committed(offered), two.committed(offered))


def test_what_is_missing_and_why_is_said() -> None:
    with pytest.raises(
        DeadlineError, match=r"rank\(s\) 1, 2 did not come within 7 s, and more than half of \[0, 1, 2\]"
    ):
        verdict_of([entry(0, Muster(generation=5, members=(0, 1, 2))), entry(3), entry(4)], 5, 7)


def test_an_open_list_is_counted_above_and_waited_for() -> None:
    known = [entry(0, Muster(generation=8, members=(0, 1))), entry(1), entry(2)]
    assert verdict_of(known, 5, 1) == Muster(generation=9, members=(0, 1, 2))
    back = entry(3, Muster(generation=6, members=(0, 1, 3)), generation=5, members=(0, 1))
    assert awaited([back], 5) == {0, 1, 3}


def test_a_later_list_that_counts_has_settled_the_open_ones() -> None:
    stale = entry(4, Muster(generation=5, members=(0, 1, 4)))
    assert may(entry(2, generation=6, members=(2, 3)), stale)


def test_every_open_list_is_kept_until_one_counts() -> None:
    first, second = Muster(generation=5, members=(0, 1, 2)), Muster(generation=6, members=(1, 2, 3))
    mine = entry(1).offered(first).offered(second)
    assert mine.pending == (first, second)
    again = Muster(generation=7, members=first.members)
    assert mine.offered(again).pending == (second, again)
    assert mine.committed(again) == entry(1, generation=7, members=first.members)


def test_a_rank_that_is_started_again_knows_what_was_open(tmp_path: Path) -> None:
    """From generation.json, which keeps the step of the generation that still counts."""
    folder, offered = RunFolder(tmp_path), Muster(generation=5, members=(0, 1))
    before = GenerationNote(generation=4, step=30)
    mine = entry_of(before, 1, 5, 0)
    assert mine == entry(1)
    write_generation(folder, "node2", 1, note_of(mine.offered(offered), before))
    after = read_generation(folder, "node2", 1)
    assert after is not None
    assert after.step == 30
    assert entry_of(after, 1, 5, 0) == entry(1, offered)
    assert note_of(mine.committed(offered), after) == GenerationNote(generation=5, members=(0, 1))
    assert entry_of(None, 1, 5, 0) == entry(1, generation=-1)


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 6])
def test_lists_that_count_form_one_chain(ranks: int) -> None:
    """Random musters, each of which breaks off somewhere: before an acceptance, before or amidst the commit."""
    chance = random.Random(ranks)
    everybody = tuple(range(ranks))
    lengths = []
    for _ in range(300):
        notes = {rank: entry(rank, members=everybody) for rank in everybody}
        chain = [Muster(generation=4, members=everybody)]
        for _ in range(12):
            came = sorted(chance.sample(everybody, chance.randint(1, ranks)))
            try:
                verdict = verdict_of([notes[rank] for rank in came], ranks, 1)
            except DeadlineError:
                continue
            some = [came[0], *chance.sample(came[1:], chance.randint(0, len(came) - 1))]
            accepted = some if chance.random() < 0.5 else came
            for rank in accepted:
                notes[rank] = notes[rank].offered(verdict)
            if len(accepted) == len(came) and chance.random() < 0.7:
                assert set(verdict.members) & set(chain[-1].members), (chain, verdict)
                assert verdict.generation > chain[-1].generation, (chain, verdict)
                chain.append(verdict)
                for rank in [came[0], *chance.sample(came[1:], chance.randint(0, len(came) - 1))]:
                    notes[rank] = notes[rank].committed(verdict)
        lengths.append(len(chain))
    assert max(lengths) > 4
