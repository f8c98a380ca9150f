"""What a step costs: bytes on the wire and bytes of state, against arithmetic; and what ranks agree on."""

from __future__ import annotations

import math

import pytest
import torch
from strategy_jobs import account, asked_to_stop, drift, poisoned, staged_sums
from strategy_pool import Pool

from smolcluster.strategies.squares import sum_of_squares

REPLICAS = [("classicdp", 0), ("fsdp", 0), ("fsdp", 1), ("fsdp", 2)]
STRATEGIES = [*REPLICAS, ("fsdp", 3)]


def shards(total: int, stage: int, world_size: int) -> dict[str, int]:
    """Theory: what each stage shards, of `total` bytes of parameters."""
    part = total // world_size
    return {
        "params": part if stage >= 3 else total,
        "grads": part if stage >= 2 else total,
        "optimizer": 2 * (part if stage >= 1 else total),
        "wire": 0,
    }


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize(("name", "stage"), REPLICAS)
def test_bytes_of_a_ring_and_state_of_the_stage(pool: Pool, name: str, stage: int, world_size: int) -> None:
    ranks = pool.run("smol", world_size, account, name, stage)
    params = sum(ranks[0]["sizes"].values())
    padded = ranks[0]["state"]["params"]
    assert params <= padded < params + world_size * 64
    ring = 2 * (world_size - 1) / world_size * params
    for rank in ranks:
        assert rank["out"] == pytest.approx(ring, rel=0.02)
        assert rank["in"] == pytest.approx(ring, rel=0.02)
        assert rank["state"] == shards(padded, stage, world_size)


def times_on_the_wire(kind: str, name: str) -> int:
    """How often stage 3 moves a parameter in a micro-batch."""
    if kind == "wide":
        return 2  # one unit: gathered, whole until its gradients are scattered
    if kind == "wide gpt":  # last norm and tied embedding are gathered as one, for both ends
        return 2 if "transformer.wpe" in name else 3
    once = name.startswith(("transformer.ln_f", "lm_head"))  # stays whole from the loss to backward
    once = once or (kind == "wide untied gpt" and "transformer.w" in name)  # backward needs no embedding
    return 2 if once else 3


@pytest.mark.parametrize("micros", [1, 2])
@pytest.mark.parametrize("kind", ["wide", "wide gpt", "wide untied gpt"])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_stage_3_gathers_twice_and_scatters_once(pool: Pool, kind: str, world_size: int, micros: int) -> None:
    ranks = pool.run("smol", world_size, account, "fsdp", 3, kind, micros)
    sizes = ranks[0]["sizes"]
    params, share = sum(sizes.values()), micros * (world_size - 1) / world_size
    wanted = share * sum(size * times_on_the_wire(kind, name) for name, size in sizes.items())
    if kind == "wide gpt":
        assert wanted == pytest.approx(3 * share * params, rel=0.01)
        assert 0 < ranks[0]["rows"] * (world_size - 1) < 0.02 * wanted
        wanted += ranks[0]["rows"] * (world_size - 1)
    for rank in ranks:
        assert rank["out"] == pytest.approx(wanted, rel=0.01)
        assert rank["in"] == pytest.approx(wanted, rel=0.01)
        assert sum(rank["state"].values()) == pytest.approx(4 * params / world_size, rel=0.01)
        assert rank["state"] == shards(world_size * rank["state"]["params"], 3, world_size)


def test_stage_2_scatters_every_micro_batch(pool: Pool) -> None:
    for rank in pool.run("smol", 3, account, "fsdp", 2, "wide", 3):
        assert rank["out"] == pytest.approx((3 + 1) * 2 / 3 * sum(rank["sizes"].values()), rel=0.02)


@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_a_loss_that_is_not_finite_ends_every_rank_before_the_update(pool: Pool, name: str, stage: int) -> None:
    for told in pool.run("smol", 3, poisoned, name, stage):
        assert told.startswith("1: the loss of rank 1 is not finite")


@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_one_rank_s_wish_to_stop_is_known_to_all_in_the_same_step(pool: Pool, name: str, stage: int) -> None:
    assert pool.run("smol", 2, asked_to_stop, name, stage) == [[False, True, False]] * 2


@pytest.mark.parametrize(("name", "stage"), REPLICAS)
def test_a_replica_that_drifted_takes_rank_0_s_weights(pool: Pool, name: str, stage: int) -> None:
    for same, messages in pool.run("smol", 2, drift, name, stage):
        assert same
        assert messages == ["step 0: parameters of rank 1 on node1 drifted from rank 0's; sent again"]


def test_staging_through_cpu_buffers_changes_no_result(pool: Pool) -> None:
    for rank, (reduced, part, gathered, sent) in enumerate(pool.run("smol", 3, staged_sums)):
        assert reduced == [3.0, 6.0, 9.0, 12.0]
        assert part == [6.0 * (2 * rank), 6.0 * (2 * rank + 1)]
        assert gathered == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
        assert sent == [5.0, 5.0, 5.0]


@pytest.mark.parametrize("large", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("count", [0, 1, 70_000, 4_000_000])
def test_a_sum_of_squares_keeps_its_digits(count: int, large: float) -> None:
    """In one float32 sum of four million, of which some are large, three digits are left."""
    values = torch.randn(count, generator=torch.Generator().manual_seed(1)) * 1e-3
    values[: count // 10] *= large
    assert sum_of_squares(values) == pytest.approx(float(values.double().square().sum()), rel=1e-6)


def test_a_sum_of_squares_that_is_not_finite_is_told() -> None:
    values = torch.ones(200_000)
    values[-1] = float("inf")
    assert sum_of_squares(values) == float("inf")
    values[0] = float("nan")
    assert math.isnan(sum_of_squares(values))
