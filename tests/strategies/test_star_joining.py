"""What a worker of a star is told when it joins, and what it does where it is not let in."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from star_players import BATCH, LR, WAIT_S, Star, meanwhile, started, steps

from smolcluster.comm.caller import Caller
from smolcluster.comm.endpoint import REDIAL_S
from smolcluster.errors import RunOverError
from smolcluster.runtime.schedule import learning_rate
from smolcluster.spec.run import ScheduleSpec


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


def test_a_worker_s_own_steps_have_the_rate_of_its_gradient_s_update_from_the_first_in_a_warm_up(stack, tmp_path):
    schedule = ScheduleSpec(warmup_iters=6, min_lr=0)
    star = Star(tmp_path, stack, interval=5, rate=lambda step: learning_rate(step, 20, LR, schedule))
    worker = started(star, 1)
    began, local = worker.flat.params.clone(), []
    usual = worker.between

    def between(lr, clip):
        usual(lr, clip)
        local.append(lr)

    worker.between = between
    assert [result.lr for result in steps(star, worker, 1)] == [LR / 6 / 2]  # half a global batch
    assert not torch.equal(worker.flat.params, began)
    steps(star, worker, 3)
    assert local == [update.lr for update in star.server.updates] == [LR / 6 * n / 2 for n in range(1, 5)]


@pytest.mark.parametrize("samples", [0, BATCH + 1])
def test_a_worker_that_is_not_let_in_is_told_why_and_does_not_dial_again(stack, tmp_path, samples):
    star = Star(tmp_path, stack)
    worker = star.worker(1, samples=samples)
    dials = _counted(worker._caller)
    with pytest.raises(RunOverError, match=f"takes {samples} samples at once, of a global batch of 8"):
        meanwhile(star, worker.join)
    assert len(dials) == 1
    assert star.server.active == 0
    worker._caller.close(WAIT_S)
    star.turn_until(lambda: not star.mailbox.members())
    other = star.by_hand(1, 12)  # its next process is as welcome as any
    assert len(other.leases) == 2


def test_who_is_told_to_go_and_stays_is_cut_off(stack, tmp_path):
    star = Star(tmp_path, stack)
    one = star.by_hand(1, 11)
    one.push(1, send_only=True, tokens=0)
    star.turn_until(lambda: star.server.active == 0)
    assert star.server.leases.outstanding == 0
    one.push(2, send_only=True)
    star.turn_until(lambda: not star.mailbox.members())
    assert star.server.ledger.pushed == 0


def test_a_worker_whose_server_hangs_up_again_and_again_dials_ever_more_seldom(stack, tmp_path):
    star = Star(tmp_path, stack)
    worker = star.worker(1, join_s=WAIT_S)
    dials, pauses = _counted(worker._caller), []
    usual = worker._back_off

    def back_off():
        pauses.append(worker._pause_s)
        usual()

    worker._back_off = back_off
    times = 3

    def on_join(member):
        if len(pauses) < times:
            star.mailbox.cut(member)

    star.server.on_join = on_join
    meanwhile(star, worker.join)
    assert pauses == [0.0, REDIAL_S, 2 * REDIAL_S]
    assert len(dials) == times + 1
    steps(star, worker, 1)
    assert worker._pause_s == 0.0


def _counted(caller: Caller) -> list:
    """Every time it dials from now on."""
    dials, usual = [], caller.dial

    def dial(*how):
        dials.append(how)
        return usual(*how)

    caller.dial = dial
    return dials
