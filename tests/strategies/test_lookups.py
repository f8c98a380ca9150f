"""A tied embedding's gradient in two parts: the same training, and the large part travels during backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategy_jobs import buckets_of, context_of, train
from strategy_models import LENGTH, gpt_of, model_of, shares_of, wordy_gpt
from strategy_pool import FABRICS, Pool
from test_equality import STEPS, UNEVEN, assert_equal, oracle

from smolcluster.strategies.base import build_strategy
from smolcluster.strategies.flat import Bucket
from smolcluster.strategies.fsdp.stage3 import Stage3
from smolcluster.strategies.lookups import lookups_of
from smolcluster.strategies.replica import Replica


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("name", "stage"), [("classicdp", 0), ("fsdp", 1), ("fsdp", 2), ("fsdp", 3)])
@pytest.mark.parametrize("micro", [64, 2])
def test_equals_one_process(pool: Pool, name: str, stage: int, world_size: int, micro: int) -> None:
    shares = UNEVEN[world_size]
    ranks = pool.run("smol", world_size, train, name, stage, shares, STEPS, "wordy gpt", micro, 100_000)
    assert_equal(ranks, oracle(sum(shares), "wordy gpt"))


def order_of_a_step(rank: int, world_size: int) -> tuple[list[str], float]:
    """What a rank's backward did in which order, and its bytes against the ring's."""
    model = wordy_gpt(0)
    with buckets_of(50_000):
        strategy = build_strategy(context_of("classicdp", rank, world_size), model)
    assert isinstance(strategy, Replica)
    assert strategy.lookups is not None
    events: list[str] = []
    plain = strategy.collectives.all_reduce

    def noted(tensor: torch.Tensor) -> Any:
        events.append("bucket")
        return plain(tensor)

    strategy.collectives.all_reduce = noted  # type: ignore[method-assign]
    model.transformer.h[1].register_full_backward_pre_hook(lambda *_: events.append("last block"))
    model.transformer.h[0].register_full_backward_hook(lambda *_: events.append("first block is over"))
    strategy.train_step(shares_of(0, (5,) * world_size, rank, 64), 1e-3)
    before = FABRICS[rank].counters().bytes_out
    strategy.train_step(shares_of(1, (5,) * world_size, rank, 64), 1e-3)
    sent = FABRICS[rank].counters().bytes_out - before
    params = sum(parameter.nbytes for parameter in model.parameters())
    strategy.close()
    assert model.transformer.lookup_sink is None
    return events, sent / (2 * (world_size - 1) / world_size * params)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_embedding_leaves_before_the_blocks_and_the_bytes_stay_near_the_optimum(
    pool: Pool, world_size: int
) -> None:
    for events, ratio in pool.run("smol", world_size, order_of_a_step):
        assert events[0] == "bucket", "the embedding's gradient is there when the loss is"
        assert events.index("last block") < events.index("first block is over")
        assert 1 < ratio < 1.02


def order_of_stage_3(rank: int, world_size: int) -> tuple[list[str], float]:
    """Which bucket left when, and a rank's bytes against two gathers and a reduce-scatter."""
    model = wordy_gpt(0)
    strategy = build_strategy(context_of("fsdp", rank, world_size, stage=3), model)
    assert isinstance(strategy, Stage3)
    events: list[str] = []
    plain = strategy.gradients.send

    def noted(bucket: Bucket) -> None:
        names = {span.name for span in strategy.layout.spans_in(bucket)}
        events.append("embedding" if "transformer.wte.weight" in names else "bucket")
        plain(bucket)

    strategy.gradients.send = noted  # type: ignore[method-assign]
    model.transformer.h[1].register_full_backward_hook(lambda *_: events.append("last block is over"))
    before = FABRICS[rank].counters().bytes_out
    strategy.train_step(shares_of(0, (5,) * world_size, rank, 64), 1e-3)
    sent = FABRICS[rank].counters().bytes_out - before
    params = sum(parameter.numel() * 4 for parameter in model.parameters())
    strategy.close()
    assert model.transformer.lookup_sink is None
    return events, sent / (3 * (world_size - 1) / world_size * params)


def test_in_stage_3_too_the_embedding_leaves_first(pool: Pool) -> None:
    for events, ratio in pool.run("smol", 3, order_of_stage_3):
        assert events.index("embedding") < events.index("last block is over")
        assert 0.99 < ratio < 1.02


def context_and(model: Any, world_size: int, samples: int) -> Any:
    from smolcluster.runtime.device import Collectives

    context = context_of("classicdp", 0, world_size, samples=samples)
    return lookups_of(context, model, Collectives(0, world_size, torch.device("cpu")))


def test_only_where_rows_are_few_the_embedding_is_tied_and_trained() -> None:
    assert context_and(wordy_gpt(0), 2, samples=5) is not None
    assert context_and(wordy_gpt(0), 2, samples=500) is None
    assert context_and(wordy_gpt(0), 1, samples=5) is None
    assert context_and(gpt_of(24, 2, False, 0), 2, samples=1) is None
    assert context_and(model_of("tiny", 0), 2, samples=1) is None
    frozen = wordy_gpt(0)
    frozen.transformer.wte.weight.requires_grad_(False)
    assert context_and(frozen, 2, samples=5) is None


def too_many(rank: int, world_size: int) -> str:
    strategy = build_strategy(context_of("classicdp", rank, world_size, samples=1), wordy_gpt(0))
    with pytest.raises(ValueError, match="the plan has at most") as caught:
        strategy.train_step(shares_of(0, (2,) * world_size, rank, 64), 1e-3)
    return str(caught.value)


def test_more_rows_than_the_plan_has_are_refused(pool: Pool) -> None:
    assert f"{2 * LENGTH} rows were looked up" in pool.run("smol", 2, too_many)[0]
