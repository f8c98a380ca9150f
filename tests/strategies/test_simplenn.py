"""SimpleNN on pictures takes the same steps, and tells the same ones right, in every strategy as in one process."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from strategy_jobs import context_of
from strategy_pool import Pool
from torch import Tensor

from smolcluster.models.nn import SimpleNN
from smolcluster.spec.run import NNSpec
from smolcluster.strategies.base import build_strategy

STEPS, PIXELS, CLASSES = 20, 36, 5
SHARES = {1: (12,), 2: (9, 3), 3: (2, 6, 4)}


def pictures(step: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    x = torch.randn(count, PIXELS, generator=generator)
    x[torch.arange(count), y] += 3
    return x, y


def train(rank: int, world_size: int, name: str, stage: int) -> dict[str, Any]:
    model = SimpleNN(NNSpec(input_dim=PIXELS, hidden=16, out=CLASSES), seed=5 + rank)
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage), model)
    start = sum(SHARES[world_size][:rank])
    mine = slice(start, start + SHARES[world_size][rank])
    results = []
    for step in range(STEPS):
        x, y = pictures(step, 12)
        results.append(strategy.train_step([(x[mine], y[mine])], 1e-2))
    x, y = pictures(99, 12)
    score = strategy.eval_loss(x[mine], y[mine])
    exported = strategy.export()
    strategy.close()
    return {"losses": [r.loss for r in results], "tokens": results[0].tokens, "score": score, "model": exported}


@functools.cache
def oracle() -> dict[str, Any]:
    return train(0, 1, "single", 0)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("name", "stage"), [("classicdp", 0), *(("fsdp", stage) for stage in range(4))])
def test_equals_one_process(pool: Pool, name: str, stage: int, world_size: int) -> None:
    ranks, expected = pool.run("smol", world_size, train, name, stage), oracle()
    for got in ranks:
        torch.testing.assert_close(got["losses"], expected["losses"], rtol=0, atol=1e-5)
        assert got["tokens"] == expected["tokens"] == 12
    assert sum(got["score"].tokens for got in ranks) == 12
    assert sum(got["score"].right for got in ranks) == expected["score"].right
    assert sum(got["score"].loss for got in ranks) == pytest.approx(expected["score"].loss, abs=1e-4)
    for key, value in expected["model"].items():
        torch.testing.assert_close(ranks[0]["model"][key], value, rtol=0, atol=1e-4)


def test_the_oracle_learns_and_its_right_answers_are_counted() -> None:
    trained = oracle()
    assert trained["losses"][-1] < trained["losses"][0] - 0.3
    model = SimpleNN(NNSpec(input_dim=PIXELS, hidden=16, out=CLASSES))
    model.load_state_dict(trained["model"])
    x, y = pictures(99, 12)
    with torch.no_grad():
        assert trained["score"].right == sum(
            int(row.argmax()) == int(label) for row, label in zip(model(x), y, strict=True)
        )
    assert 0 < trained["score"].right <= 12
