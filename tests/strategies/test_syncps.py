"""Server and workers of syncps in one thread, on a clock of the test's own: what happens when is the test's affair."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from strategy_jobs import context_of
from strategy_models import model_of, samples_of
from syncps_star import LR, Paused, Star, samples_at, star, star_of

from smolcluster.comm.mailbox import Delivered, Event, Left
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.base import build_strategy
from smolcluster.strategies.star.leases import Lease
from smolcluster.strategies.star.messages import Op, leases_in
from smolcluster.strategies.star.server import Update


def loss_of(update: Update) -> float:
    return update.loss / update.tokens


def ranges(leases: Sequence[Lease]) -> list[tuple[int, int]]:
    return [(lease.start, lease.count) for lease in leases]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["tiny", "gpt", "nn"])
def test_all_on_time_it_equals_one_process_on_the_union_of_the_batches(workers: int, kind: str) -> None:
    run = Star(star_of(workers), kind)
    run.join(*range(1, workers + 1))
    updates = [run.round() for _ in range(20)]
    strategy = build_strategy(context_of("single", 0, 1, samples=6 * workers), model_of(kind, seed=5))
    results = [strategy.train_step([samples_of(step, 6 * workers)], LR) for step in range(20)]
    assert [loss_of(update) for update in updates] == pytest.approx([result.loss for result in results], abs=1e-5)
    assert [one.grad_norm for one in updates] == pytest.approx([result.grad_norm for result in results], rel=1e-3)
    assert [(one.tokens, one.gradients, one.late, one.staleness) for one in updates] == [
        (result.tokens, workers, 0, 0) for result in results
    ]
    assert ranges(run.given) == [(6 * i, 6) for i in range(20 * workers)]


def test_nobody_gets_samples_before_all_of_the_plan_have_come() -> None:
    run = Star(star_of(2))
    run.join(2)
    assert run.idle(2)
    run.join(1)
    assert ranges(leases_in(run.post.letters[1][-1])) == [(0, 6)]
    assert not run.idle(2)


def test_who_does_not_come_is_waited_for_and_then_left_out() -> None:
    run = Star(star_of(2))
    run.join(2)
    run.now += run.contexts[0].run.recovery.elastic_wait_s
    run.turn()
    letter = run.compute(2)
    assert ranges(run.given) == [(0, 12)]  # alone it computes the whole global batch
    run.join(1)
    late = run.compute(1)
    assert ranges(run.given) == [(0, 12), (12, 6)]
    run.deliver(2, letter)
    run.deliver(1, late)
    assert [(one.samples, one.gradients, one.late) for one in run.server.updates] == [(18, 2, 0)]


def test_who_came_and_went_before_the_beginning_starts_no_wait() -> None:
    run = Star(star_of(2))
    run.join(2)
    run.leave(2)
    run.now += 1000
    run.join(1)
    assert run.idle(1)
    run.now += run.contexts[0].run.recovery.elastic_wait_s
    run.turn()
    assert not run.idle(1)


def test_a_slow_worker_s_gradient_joins_the_next_step_with_its_own_weight() -> None:
    run = star(2)
    first, slow = run.compute(1), run.compute(2)
    start = run.params.clone()
    run.deliver(1, first)
    assert not run.server.updates
    run.now += run.contexts[0].run.syncps_timeout_s
    run.turn()
    assert [(one.samples, one.late) for one in run.server.updates] == [(6, 0)]
    before = run.params.clone()
    again = run.compute(1)
    run.deliver(2, slow)
    assert torch.equal(run.workers[2].flat.params, start)
    late = run.compute(2)
    assert torch.equal(run.workers[2].flat.params, before)  # it is at the newest weights at once
    assert ranges(run.given) == [(0, 6), (6, 6), (12, 6), (18, 6)]  # nobody's samples were left out
    run.deliver(1, again)
    run.deliver(2, late)
    step = run.server.updates[-1]
    assert (step.samples, step.gradients, step.late, step.staleness) == (18, 3, 1, 1)
    assert (run.server.account().applied, run.server.account().late) == (4, 1)
    # By hand: each gradient at the weights that it was computed with, one AdamW step on their mean by tokens.
    strategy: Any = build_strategy(context_of("single", 0, 1, samples=6), model_of("tiny", seed=5))
    strategy.train_step([samples_at(0, 6, 12)], LR)
    assert torch.allclose(strategy.flat.params, before, atol=1e-6)
    strategy.flat.params.copy_(start)
    strategy.backward([samples_at(6, 12, 12)])
    box = strategy.whole_grads.clone()
    strategy.flat.params.copy_(before)
    local = strategy.backward([samples_at(12, 18, 12), samples_at(18, 24, 12)])
    strategy.whole_grads.add_(box)
    verdict = strategy.agree(replace(local, tokens=18 * 8), False, [strategy.whole_grads])
    assert step.grad_norm == pytest.approx(verdict.grad_norm, rel=1e-5)
    strategy.adamw.step(0, LR, verdict.scale)
    assert torch.allclose(run.params, strategy.flat.params, atol=1e-5)


def test_who_was_late_jumps_to_the_newest_weights_whatever_alpha_is() -> None:
    run = star(2, alpha=0.5)
    first, slow = run.compute(1), run.compute(2)
    start = run.params.clone()
    run.deliver(1, first)
    run.now += run.contexts[0].run.syncps_timeout_s
    run.turn()
    run.compute(1)
    assert torch.equal(run.workers[1].flat.params, torch.lerp(start, run.params, 0.5))
    run.deliver(2, slow)
    run.compute(2)
    assert torch.equal(run.workers[2].flat.params, run.params)


def test_a_gradient_that_came_in_time_is_in_its_step_however_busy_the_server_was() -> None:
    """To take a gradient in, or to update, may take longer than the timeout; others arrive meanwhile."""
    run = star(3)
    ticks = itertools.count(100.0)
    run.server.clock = lambda: next(ticks)  # each look at the clock is a second later
    letters = {rank: run.compute(rank) for rank in (1, 2, 3)}
    for rank, letter in letters.items():
        run.post.events.append(Delivered(run.post.here[rank], letter))
    run.turn()
    assert [(one.gradients, one.late) for one in run.server.updates] == [(3, 0)]


def test_samples_of_one_that_leaves_go_to_the_others_and_shares_follow() -> None:
    run = star(3)
    run.round()
    run.compute(2)
    run.leave(2)  # with the gradient of samples 24 to 30
    del run.given[3:]
    run.deliver(1, run.compute(1))
    run.deliver(3, run.compute(3))
    assert run.server.updates[-1].samples == 12
    for rank in (1, 3):
        run.deliver(rank, run.compute(rank))
    assert ranges(run.given[3:]) == [(18, 6), (30, 6), (24, 6), (36, 9)]
    for rank in (1, 3):
        run.deliver(rank, run.compute(rank))
    assert ranges(run.given[-2:]) == [(45, 9), (54, 9)]
    assert run.server.updates[-1].samples == 18  # the global batch of the plan, by two
    run.join(2)  # in mid-step: the others have theirs already
    assert run.round().samples == 24
    assert run.round().samples == 18
    done = sorted(ranges(run.given))
    assert [start + count for start, count in done[:-1]] == [start for start, _ in done[1:]]


def test_who_leaves_after_delivering_takes_nothing_along_and_leaves_nothing_behind() -> None:
    run = star(2, wire="int8")
    before = run.server.outgoing.state_bytes()
    run.deliver(1, run.compute(1))
    run.leave(1)
    assert run.server.leases.released == 0
    shadow = run.params.nbytes
    run.deliver(2, run.compute(2))
    assert [(one.samples, one.gradients) for one in run.server.updates] == [(12, 2)]
    assert run.server.outgoing.state_bytes() == before - shadow
    assert not run.post.letters[1]


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("wire", ["fp32", "int8"])
def test_a_pull_is_a_polyak_average_every_interval(alpha: float, wire: WireFormat) -> None:
    run = star(1, worker_update_interval=2, alpha=alpha, wire=wire)
    worker, off, stale = run.workers[1], [], []
    run.idle(1)
    expected = run.params.clone()
    for step in range(6):
        run.idle(1)
        if step and step % 2 == 0:
            expected.lerp_(run.params, alpha)
        off.append((worker.flat.params - expected).abs().max().item())
        stale.append(run.round().staleness)
    assert stale == [0, 1, 0, 1, 0, 1]
    assert max(off) < (1e-3 if wire == "int8" else 1e-7)
    assert (max(off) > 1e-7) == (wire == "int8")


@pytest.mark.parametrize("wire", ["int8", "bf16", "fp16"])
def test_a_narrow_wire_learns_like_float32(wire: WireFormat) -> None:
    plain, short = star(2), star(2, wire=wire)
    losses = [(loss_of(plain.round()), loss_of(short.round())) for _ in range(30)]
    assert losses[-1][0] < losses[0][0] - 0.4  # samples without a pattern: not much below log(61)
    assert losses[-1][1] == pytest.approx(losses[-1][0], rel=0.01)
    assert losses[-1][1] != losses[-1][0]


def test_what_was_pushed_is_accounted_for() -> None:
    run = star(2)
    answer = run.compute(1)
    run.deliver(1, answer)
    box = run.server.centre.whole_grads.clone()
    run.deliver(1, answer)  # its answer was lost, it thinks
    lost = run.compute(2)
    run.leave(2)
    assert len(run.server.updates) == 1  # nobody else was waited for
    assert box.count_nonzero() > 0
    assert run.server.centre.whole_grads.count_nonzero() == 0
    run.deliver(1, run.compute(1))
    run.post.join(2, 6)
    run.turn()
    # Its samples are worker 1's by now, or done.
    run.deliver(2, lost)
    account = run.server.account()
    assert run.server.ledger.closes
    assert (account.pushed, account.applied, account.pending, account.duplicates) == (3, 2, 0, 1)
    assert account.refused == {"its samples were given to another": 1}


@pytest.mark.parametrize("had_it", [False, True])
def test_a_link_that_broke_with_a_gradient_on_it(had_it: bool) -> None:
    run = star(2)
    sent = run.compute(2)
    if had_it:
        run.deliver(2, sent)
    incarnation = run.post.here[2].incarnation
    run.post.leave(2)
    run.post.join(2, 6, incarnation)  # the worker dialled again; it is given samples, and sends what was open
    run.workers[2]._take_up(0)
    run.turn()
    assert ranges(leases_in(run.post.letters[2][-1])) == [(12, 6) if had_it else (6, 6)]
    run.deliver(2, sent)
    run.deliver(1, run.compute(1))
    with contextlib.suppress(Paused):
        run.workers[2]._settle()
    if had_it:
        run.deliver(2, run.compute(2))
    assert run.server.ledger.duplicates == had_it
    assert [(one.samples, one.gradients, one.late) for one in run.server.updates] == [(12 + 6 * had_it, 2 + had_it, 0)]
    assert run.server.ledger.closes
    # Nothing is computed twice: what it was given meanwhile is what it had sent.
    run.deliver(1, run.compute(1))
    run.deliver(2, run.compute(2))
    assert len(run.server.updates) == 2
    assert not run.server.ledger.refused


def test_too_stale() -> None:
    run = star(2, max_staleness=1)
    slow = run.compute(2)
    for _ in range(2):
        run.deliver(1, run.compute(1))
        run.now += 1
        run.turn()
    assert len(run.server.updates) == 2
    run.deliver(2, slow)
    assert run.server.ledger.refused == {"too stale": 1}
    run.deliver(2, run.compute(2))  # the same samples, at the newest weights
    assert ranges(run.given)[-1] == (6, 6)
    run.deliver(1, run.compute(1))
    assert [(one.samples, one.staleness) for one in run.server.updates] == [(6, 0), (6, 0), (12, 0)]


def test_every_sample_of_the_run_is_in_one_step_to_its_end() -> None:
    run = Star(star_of(2), steps=3)
    run.join(1, 2)
    run.round()
    slow = run.compute(2)
    for _ in range(3):
        run.deliver(1, run.compute(1))
        run.now += 1
        run.turn()
    assert run.idle(1)  # nothing is left but what worker 2 has
    assert run.server.leases.left == 6
    run.deliver(2, slow)
    assert run.server.leases.left == 0
    assert [(one.samples, one.late) for one in run.server.updates] == [(12, 0), (6, 0), (6, 0), (6, 0), (6, 1)]
    assert sum(one.samples for one in run.server.updates) == 36
    assert run.server.ledger.applied == 6


def test_who_died_before_it_heard_of_the_end_is_told_when_it_comes_again() -> None:
    made = star(2)
    post, hear = made.post, made.post.receive

    def depart(rank: int) -> None:
        post.events.append(Left(post.here.pop(rank), "it has left", orderly=True))

    steps = deque([lambda: depart(2), lambda: post.leave(1), lambda: post.join(1, 3), lambda: depart(1)])

    def receive(timeout_s: float) -> Event | None:
        if not post.events and steps:
            steps.popleft()()
        return hear(timeout_s)

    post.receive = receive  # type: ignore[method-assign]
    made.server.finish("completed", "", 60.0)
    assert not steps
    assert [letter.op for letter in post.letters[1]] == [Op.DONE]
