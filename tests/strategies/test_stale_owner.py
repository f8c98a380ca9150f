"""An owner under a staleness bound: who may have its shard when, and that every gradient counts once. No wires."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smolcluster.errors import ProtocolError
from smolcluster.strategies.stale.messages import Fence, Weights, head_of, read_head
from smolcluster.strategies.stale.owner import Outcome, Owner, Push, Reply

# Of a rank in a step.
TOKENS = 10


def push(rank: int, step: int, **changed: Any) -> Push:
    settings = {"generation": 0, "tokens": TOKENS, "lr": step / 100, "loss": 2.0 * TOKENS, "loss_tokens": TOKENS}
    return Push(**{"rank": rank, "step": step, "stop": False, **settings, **changed})


class Watched:
    """An owner of one number, and what its updates were: (rate, what was applied x scale, the gradients in it)."""

    def __init__(self, ranks: int = 2, bound: int = 1) -> None:
        self.updates: list[tuple[float, float, list[tuple[int, int]]]] = []
        self.owner = Owner(torch.zeros(1), self._update, ranks, bound, TOKENS * ranks)

    def _update(self, lr: float, scale: float) -> None:
        self.updates.append((lr, float(self.owner.box) * scale, list(self.owner.in_box)))

    def step(self, rank: int, step: int, value: float = 1.0, **changed: Any) -> list[Reply]:
        """A rank's gradient of a step, `value` times its tokens, and its wish for the next; who is answered."""
        tokens = changed.get("tokens", TOKENS)
        outcome = self.owner.push(
            push(rank, step, **changed), (lambda box: box.add_(value * tokens)) if tokens else None
        )
        assert outcome is Outcome.TAKEN
        self.owner.pull(rank, step + 1)
        return list(self.owner.due())


def test_nobody_gets_weights_that_lack_more_than_the_bound() -> None:
    run = Watched(bound=1)
    assert run.step(0, 1) == [Reply(0, 2, 1, 0)]
    assert run.step(0, 2) == []  # rank 1 has taken none: step 3 would be two ahead
    # The box has a whole batch's tokens now: they are in what both get.
    assert run.step(1, 1) == [Reply(1, 2, 2, 1), Reply(0, 3, 2, 1)]
    assert run.step(1, 2) == [Reply(1, 3, 2, 2)]
    assert run.owner.in_box == [(1, 2)]


def test_the_front_runner_takes_what_is_in_the_box_and_others_find_it_done() -> None:
    run = Watched(bound=3)
    run.step(0, 1, 4.0)
    assert run.updates == [(0.01, 2.0, [(0, 1)])]  # half a batch's tokens, divided by a whole one's
    assert run.step(1, 1, 6.0)[0].version == 1
    assert len(run.updates) == 1
    assert run.step(0, 2, 8.0)[0].version == 2
    assert run.updates[1:] == [(0.02, 7.0, [(1, 1), (0, 2)])]


def test_a_batch_of_those_behind_is_taken_though_nobody_lacks_a_step() -> None:
    run = Watched(bound=3)
    for step in (1, 2, 3):
        run.step(0, step)
    assert run.owner.version == 3
    run.step(1, 1)
    assert run.owner.version == 3
    assert run.step(1, 2) == [Reply(1, 3, 4, 2)]
    # Five gradients of ten tokens: of twenty a batch that is the third step, whatever the version says.
    assert run.updates[-1] == (0.03, 1.0, [(1, 1), (1, 2)])


def test_the_rate_follows_the_tokens_not_the_version() -> None:
    run = Watched(bound=3)
    for step in (1, 2, 3):
        run.step(0, step)
    # 10, 20 and 30 tokens of 20 a step.
    assert [lr for lr, _, _ in run.updates] == [0.01, 0.01, 0.02]


def test_a_gradient_that_comes_again_is_counted_once_and_another_generation_s_not_at_all() -> None:
    run = Watched()
    run.step(0, 1)
    assert run.owner.push(push(0, 1), lambda box: box.add_(99)) is Outcome.DUPLICATE
    assert run.owner.push(push(1, 1, generation=1), lambda box: box.add_(99)) is Outcome.OTHER_GENERATION
    assert (run.owner.pushed, run.owner.applied, run.owner.in_box, float(run.owner.box)) == (1, 1, [], 0)


def test_a_gap_and_a_step_beyond_the_bound_are_refused() -> None:
    run = Watched(bound=1)
    with pytest.raises(ProtocolError, match="rank 0 sent the gradient of step 2, after that of step 0"):
        run.owner.push(push(0, 2), None)
    run.step(0, 1)
    run.step(0, 2)
    with pytest.raises(ProtocolError, match="rank 0 has taken step 3 too early: the slowest rank has taken 0"):
        run.owner.push(push(0, 3), None)


def test_a_fence_empties_the_box_and_needs_all_at_one_step() -> None:
    run = Watched(bound=2)
    run.step(0, 1)
    run.step(1, 1)
    run.step(0, 2)
    run.step(1, 2, 5.0)
    assert run.owner.in_box == [(1, 2)]
    run.owner.drain(2)
    assert run.updates[-1] == (0.02, 2.5, [(1, 2)])
    assert (run.owner.pushed, run.owner.applied, run.owner.version) == (4, 4, 2)
    assert not run.owner.box.any()
    run.step(0, 3)
    assert not run.owner.still(3)
    with pytest.raises(RuntimeError, match=r"drained at step 3, but the ranks are at \[3, 2\]"):
        run.owner.drain(3)


def test_steps_in_which_nobody_had_a_gradient_are_no_steps_of_the_optimizer() -> None:
    run = Watched(bound=3)
    for step, tokens in ((1, (TOKENS, TOKENS)), (2, (0, 0)), (3, (0, TOKENS))):
        for rank in (0, 1):
            run.step(rank, step, tokens=tokens[rank])
    assert (run.owner.clock, run.owner.trained) == (3, 2)
    # Nobody's gradient is lost, and a gradient that is 0 is one, too.
    assert run.owner.drain(3) == 6
    run.step(1, 4)
    assert (run.owner.slowest, run.owner.clock, run.owner.trained) == (0, 3, 2)
    run.step(0, 4)
    assert run.owner.drain(4) == 2
    assert run.owner.trained == 3


def test_a_wish_to_stop_ends_the_run_where_nobody_is_yet() -> None:
    run = Watched(bound=1)
    run.step(0, 1)
    run.step(1, 1, stop=True)
    assert [run.owner.ends_with(step) for step in (1, 2, 3, 4)] == [False, False, True, True]


def test_losses_are_those_of_steps_that_all_have_told_of() -> None:
    run = Watched(bound=2)
    run.step(0, 1, loss=30.0)
    assert run.owner.known.loss is None
    run.step(0, 2, loss=10.0)
    run.step(1, 1, loss=50.0)
    assert (run.owner.known.step, run.owner.known.loss, run.owner.known.tokens) == (1, 4.0, 20)
    run.step(1, 2, tokens=0, loss=0.0, loss_tokens=0)
    assert (run.owner.known.step, run.owner.known.loss, run.owner.known.tokens) == (2, 1.0, 10)


def test_a_gradient_that_is_nothing_makes_no_update() -> None:
    run = Watched(bound=1)
    assert run.step(0, 1, tokens=0) == [Reply(0, 2, 1, 0)]
    assert run.updates == []
    assert (run.owner.pushed, run.owner.applied) == (1, 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 4), st.integers(1, 4), st.data())
def test_whatever_the_order_each_gradient_counts_once_and_nobody_is_beyond_the_bound(
    ranks: int, bound: int, data: st.DataObject
) -> None:
    run = Watched(ranks, bound)
    taken = [0] * ranks
    # Who may take the next step with the weights it has: those that were sent lack at most the bound.
    ready = set(range(ranks))
    steps = 6
    while any(count < steps for count in taken):
        rank = data.draw(st.sampled_from(sorted(r for r in ready if taken[r] < steps)))
        ready.discard(rank)
        taken[rank] += 1
        assert taken[rank] - 1 - min(taken[:rank] + taken[rank + 1 :]) <= bound
        for reply in run.step(rank, taken[rank]):
            assert reply.step - 1 - reply.clock <= bound
            ready.add(reply.rank)
        applied = list(itertools.chain.from_iterable(keys for _, _, keys in run.updates))
        assert sorted(applied + run.owner.in_box) == [(r, s) for r in range(ranks) for s in range(1, taken[r] + 1)]
    run.owner.drain(steps)
    assert len(run.updates) >= steps
    assert sum(part for _, part, _ in run.updates) == pytest.approx(steps)
    # All rates are those of steps that were taken, in order.
    rates = [lr for lr, _, _ in run.updates]
    assert rates == sorted(rates)
    assert rates[-1] == steps / 100


@pytest.mark.parametrize("body", [False, True])
def test_heads_travel(body: bool) -> None:
    said = push(2, 7, stop=True, generation=3)
    assert read_head(head_of(said, body), 2) == (said, body)
    assert read_head(head_of(Reply(1, 8, 9, 6), body), 2) == (Weights(8, 9, 6), body)
    assert read_head(head_of(Fence(5), body), 2) == (Fence(5), body)
    head = head_of(Fence(5), body)
    head[0] = 77
    with pytest.raises(ProtocolError, match="rank 2 sent a message of the unknown kind 77"):
        read_head(head, 2)
