"""diloco: what it must equal, replicas that stay the same bits, and ranks that take as many steps as fit."""

from __future__ import annotations

import functools

import pytest
import torch
from diloco_jobs import RATE, rounds
from strategy_jobs import train
from strategy_models import model_of, shares_of
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
