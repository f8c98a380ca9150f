"""diloco: what it must equal, replicas that stay the same bits, and ranks that take as many steps as fit."""

from __future__ import annotations

import functools

import pytest
import torch
from diloco_jobs import RATE, cut_and_resumed, poisoned, rounds
from strategy_jobs import account, train
from strategy_models import LENGTH, model_of, shares_of
from strategy_pool import Pool

STEPS = 20
PLAIN = {"outer_lr": 1.0, "outer_momentum": 0.0}


@functools.cache
def descent(samples: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """One process, SGD on whole batches with torch's own optimizer: the losses before each step, the end."""
    model = model_of("tiny", seed=5)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    losses = []
    for step in range(STEPS):
        [(x, y)] = shares_of(step, (samples,), 0, 64)
        loss = model.loss(x, y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses, {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("shares", [(3, 3), (1, 4, 2)])
def test_one_step_of_descent_a_round_equals_classicdp(pool: Pool, shares: tuple[int, ...]) -> None:
    ranks = pool.run(
        "smol", len(shares), functools.partial(rounds, sgd=True, outer_every=1, clip=None, **PLAIN), shares, STEPS
    )
    losses, state = descent(sum(shares))
    for got in ranks:
        torch.testing.assert_close(got["losses"], losses, rtol=0, atol=1e-5)
        torch.testing.assert_close(got["state"], state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("every", [1, 3, 20])
def test_a_rank_alone_that_follows_itself_equals_single(every: int) -> None:
    single = train(0, 1, "single", 1, (5,), STEPS)
    got = rounds(0, 1, (5,), STEPS, outer_every=every, **PLAIN)
    assert [one.local.steps for one in got["results"]][:2] == [1, min(every, STEPS - 1)]
    assert got["taken"] == list(range(1, STEPS + 1))
    at = 0
    for one in got["results"]:  # the mean over a round is that of its steps
        expected = sum(single["losses"][at : at + one.steps]) / one.steps
        assert one.loss == pytest.approx(expected, abs=1e-5)
        at += one.steps
    assert at == STEPS
    torch.testing.assert_close(got["state"], single["state"], rtol=0, atol=1e-5)


def plain_diloco(
    shares: tuple[int, ...], total: int, every: int, warmup: int
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The paper's algorithm 1 in one process, with torch's optimizers: the losses of its rounds, the end."""
    losses = []
    shared = model_of("tiny", seed=5)
    outer = torch.optim.SGD(shared.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    replicas = [model_of("tiny", seed=5) for _ in shares]
    inner = [torch.optim.AdamW(one.parameters(), lr=RATE, weight_decay=0.01) for one in replicas]
    step = rounds_done = 0
    while step < total:
        short = step < warmup or rounds_done == 0
        steps = range(step, min(total, step + (1 if short else every)))
        losses.append(0.0)
        for rank, (replica, optimizer) in enumerate(zip(replicas, inner, strict=True)):
            for at in steps:
                [(x, y)] = shares_of(at, shares, rank, 64)
                for parameter in replica.parameters():  # what no sample of a batch used has a gradient of zeros with us
                    parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
                loss = replica.loss(x, y)
                losses[-1] += loss.item() * shares[rank] / sum(shares) / len(steps)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(replica.parameters(), 1.0)
                optimizer.step()
        with torch.no_grad():
            for parameter, *theirs in zip(shared.parameters(), *(one.parameters() for one in replicas), strict=True):
                mean = sum(share * value for share, value in zip(shares, theirs, strict=True)) / sum(shares)
                if step < warmup:
                    parameter.copy_(mean)
                parameter.grad = parameter - mean
        if step >= warmup:
            outer.step()
        for replica in replicas:
            replica.load_state_dict(shared.state_dict())
        step, rounds_done = steps.stop, rounds_done + 1
    return losses, {name: p.detach() for name, p in shared.named_parameters()}


@pytest.mark.parametrize(("warmup", "lengths"), [(0, [1, 4, 4, 4, 4, 4, 4]), (5, [1] * 5 + [4] * 5)])
def test_it_is_the_algorithm_of_the_paper(pool: Pool, warmup: int, lengths: list[int]) -> None:
    shares, total = (2, 1, 3), 25
    job = functools.partial(rounds, outer_every=4, outer_lr=0.7, outer_momentum=0.9, outer_warmup=warmup)
    losses, state = plain_diloco(shares, total, 4, warmup)
    for got in pool.run("smol", 3, job, shares, total):
        assert [one.local.steps for one in got["results"]] == lengths
        torch.testing.assert_close(got["losses"], losses, rtol=0, atol=1e-5)
        torch.testing.assert_close(got["state"], state, rtol=0, atol=1e-5)


def test_while_it_warms_up_with_overlap_rounds_are_of_one_step_too(pool: Pool) -> None:
    job = functools.partial(rounds, outer_every=4, wire="int8", outer_warmup=5, outer_overlap=True)
    ranks = pool.run("smol", 3, job, (2, 1, 3), 25)
    for got in ranks:
        assert [one.local.steps for one in got["results"]] == [1] * 5 + [4] * 5
        assert got["same"] == [True] * 10
        assert all(torch.equal(value, ranks[0]["state"][name]) for name, value in got["state"].items())
    assert ranks[0]["losses"][-1] < ranks[0]["losses"][0]


@pytest.mark.parametrize("wire", ["fp32", "bf16", "fp16", "int8"])
def test_replicas_are_the_same_bits_after_every_round(pool: Pool, wire: str) -> None:
    shares, total = (2, 1, 3), 25
    ranks = pool.run("smol", 3, functools.partial(rounds, outer_every=4, wire=wire), shares, total)
    for got in ranks:
        assert got["same"] == [True] * len(got["results"])
        assert got["steps"] == total
        assert all(torch.equal(value, ranks[0]["state"][name]) for name, value in got["state"].items())
        assert got["losses"] == ranks[0]["losses"]
    assert ranks[0]["losses"][-1] < ranks[0]["losses"][0]
    assert bool(ranks[0]["owed"]) == (wire == "int8")


def test_int8_trains_what_fp32_trains(pool: Pool) -> None:
    shares, total = (2, 2), 41
    losses = {
        wire: pool.run("smol", 2, functools.partial(rounds, outer_every=5, wire=wire), shares, total)[0]["losses"]
        for wire in ("fp32", "int8")
    }
    assert losses["int8"] == pytest.approx(losses["fp32"], rel=0.01)


def test_ten_steps_a_round_in_int8_send_three_hundredths_of_classicdp(pool: Pool) -> None:
    world, every, total = 3, 10, 31
    plain = pool.run("smol", world, account, "classicdp", 0, "wide")
    ours = pool.run(
        "smol", world, functools.partial(rounds, kind="wide", outer_every=every, wire="int8"), (1,) * world, total
    )
    for fast, slow in zip(ours, plain, strict=True):
        steps = [one.local.steps for one in fast["results"]]
        assert steps == [1, 10, 10, 10]
        a_step = sum(fast["sent"][1:]) / sum(steps[1:])
        assert a_step <= 0.03 * slow["out"], (a_step, slow["out"])


def test_a_rank_that_is_twice_as_slow_takes_half_the_steps(pool: Pool) -> None:
    total, every = 61, 8
    ranks = pool.run("smol", 3, functools.partial(rounds, speeds=(1.0, 2.0, 1.0), outer_every=every), (2, 2, 2), total)
    steps = [[one.local.steps for one in got["results"]] for got in ranks]
    slots = [one.local.slot_s for one in ranks[0]["results"]]
    assert slots[0] is None
    assert set(slots[1:]) == {8.0}
    full = [number for number, taken in enumerate(steps[0]) if taken == every]
    assert full[:3] == [1, 2, 3]
    assert all((steps[0][n], steps[1][n], steps[2][n]) == (8, 4, 8) for n in full)
    for rank, got in enumerate(ranks):
        assert got["same"] == [True] * len(got["results"])
        assert got["steps"] == total
        # Each rank has had its shares of the first global batches, each once: nobody else ever has them.
        assert got["taken"] == list(range(1, sum(steps[rank]) + 1))
        assert [one.tokens for one in got["results"]] == [
            sum(taken[n] for taken in steps) * 2 * LENGTH for n in range(len(got["results"]))
        ]
        assert all(one.local.tokens == one.local.steps * 2 * LENGTH for one in got["results"])
    # A global batch is six samples: the run ends with the one that makes its 61.
    assert total <= sum(map(sum, steps)) * 2 / 6 < total + 1


def test_a_stop_in_mid_round_ends_all_after_that_round(pool: Pool) -> None:
    ranks = pool.run("smol", 3, functools.partial(rounds, stop=(1, 7), outer_every=5), (2, 2, 2), 100)
    steps = [[one.local.steps for one in got["results"]] for got in ranks]
    assert steps == [[1, 5, 5], [1, 5, 1], [1, 5, 5]]
    assert [[one.stop for one in got["results"]] for got in ranks] == [[False, False, True]] * 3
    assert {got["steps"] for got in ranks} == {1 + 5 + 11 // 3}
    assert all(got["same"] == [True] * 3 for got in ranks)


def test_rates_follow_the_steps_of_the_run(pool: Pool) -> None:
    ranks = pool.run("smol", 2, functools.partial(rounds, speeds=(1.0, 4.0), outer_every=4), (1, 1), 9)
    # Rounds of 1+1, 4+1, 4+1 and 4+1 samples, two a step; no step is beyond the last.
    assert [one.steps for one in ranks[0]["results"]] == [1, 2, 3, 2, 1]
    assert ranks[0]["at"] == [1, 2, 3, 4, 5, 4, 5, 6, 7, 7, 8, 9, 9]
    assert ranks[1]["at"] == [1, 2, 4, 7, 9]


@pytest.mark.parametrize("where", ["loss", "average"])
def test_numbers_that_are_not_finite_end_all_ranks_alike(pool: Pool, where: str) -> None:
    said = pool.run("smol", 2, poisoned, where)
    assert said[0] == said[1]
    assert said[0].startswith("1: the loss of rank 1 is" if where == "loss" else "None: the average of what")


@pytest.mark.parametrize(("momentum", "wire"), [(0.9, "int8"), (0.0, "fp32")])
def test_a_resumed_run_takes_the_same_rounds_bit_by_bit(pool: Pool, momentum: float, wire: str) -> None:
    job = functools.partial(cut_and_resumed, outer_every=4, wire=wire, outer_momentum=momentum)
    for rank, (whole, again, names) in enumerate(pool.run("smol", 3, job, (1, 2, 1), 31, 12)):
        assert len(whole) > 4
        assert again == whole
        assert ("wire.outer.momentum.up.weight" in names) == (momentum > 0)
        assert f"wire.inner.{rank}of3.up.weight.exp_avg" in names
        assert ("wire.outer.progress" in names) == (rank == 0)


@pytest.mark.parametrize("every", [1, 3, 20])
def test_a_rank_alone_with_overlap_equals_single_too(every: int) -> None:
    single = train(0, 1, "single", 1, (5,), STEPS)
    got = rounds(0, 1, (5,), STEPS, outer_every=every, outer_overlap=True, **PLAIN)
    assert got["taken"] == list(range(1, STEPS + 1))
    torch.testing.assert_close(got["state"], single["state"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("wire", ["fp32", "int8"])
def test_overlap_counts_every_round_once_and_one_later(pool: Pool, wire: str) -> None:
    shares, total = (2, 1, 3), 25
    job = functools.partial(rounds, outer_every=4, wire=wire, outer_overlap=True)
    ranks = pool.run("smol", 3, job, shares, total)
    steps = [[one.local.steps for one in got["results"]] for got in ranks]
    assert steps == [[1, 4, 4, 4, 4, 4, 4]] * 3
    for got in ranks:
        assert got["steps"] == total
        assert got["same"] == [True] * 7
        # The first round's sum is under way in the second, and moves the anchor at its end.
        assert len(set(got["anchors"])) == 7
        assert got["losses"] == ranks[0]["losses"]
        assert all(torch.equal(value, ranks[0]["state"][name]) for name, value in got["state"].items())
    assert ranks[0]["losses"][-1] < ranks[0]["losses"][0]


def test_without_momentum_overlap_ends_where_all_steps_together_lead(pool: Pool) -> None:
    """Descent at a rate so small that the order of steps is no matter: what each rank did is in the end once."""
    job = functools.partial(rounds, outer_every=3, sgd=True, clip=None, rate=1e-5, **PLAIN)
    ends = [pool.run("smol", 2, functools.partial(job, outer_overlap=on), (2, 2), 13)[0]["state"] for on in (0, 1)]
    begin = {name: p.detach() for name, p in model_of("tiny", seed=5).named_parameters()}
    for name, start in begin.items():
        moved = ends[0][name] - start
        torch.testing.assert_close(ends[1][name] - start, moved, rtol=0.02, atol=2e-7)
    assert max(float((ends[0][name] - start).abs().max()) for name, start in begin.items()) > 1e-5


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_resumed_run_with_overlap_takes_the_same_rounds(pool: Pool, momentum: float) -> None:
    job = functools.partial(cut_and_resumed, outer_every=4, wire="int8", outer_momentum=momentum, outer_overlap=True)
    for whole, again, _ in pool.run("smol", 3, job, (1, 2, 1), 31, 12):
        assert again == whole
