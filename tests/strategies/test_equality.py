"""classicdp and fsdp take the same steps as one process on the union of the batches (DESIGN section 6)."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from strategy_jobs import train
from strategy_pool import Pool

STEPS = 20
STRATEGIES = [("classicdp", 0), ("fsdp", 0), ("fsdp", 1), ("fsdp", 2), ("fsdp", 3)]
EVEN = {2: (3, 3), 3: (2, 2, 2)}
UNEVEN = {2: (5, 1), 3: (1, 4, 2)}
# A rank without a sample; ranks with different numbers of micro-batches.
IDLE = (3, 0, 2)


@functools.cache
def oracle(samples: int, kind: str = "tiny") -> dict[str, Any]:
    return train(0, 1, "single", 1, (samples,), STEPS, kind)


def assert_equal(ranks: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for rank, got in enumerate(ranks):
        torch.testing.assert_close(got["losses"], expected["losses"], rtol=0, atol=1e-5)
        torch.testing.assert_close(got["norms"], expected["norms"], rtol=1e-3, atol=1e-5)
        assert_layers_equal(got["layers"], expected["layers"], got["norms"])
        assert got["tokens"] == expected["tokens"]
        assert got["evaluated"].tokens == (1 + rank) * expected["evaluated"].tokens
        for key, value in got["state"].items():
            assert torch.equal(value, ranks[0]["state"][key]), key
    assert ranks[0]["evaluated"].loss == pytest.approx(expected["evaluated"].loss, abs=1e-3)
    for key, value in expected["state"].items():
        compared = slice(None)
        if key.endswith("attn.c_attn.bias"):
            # A key's bias moves all scores of a query alike: its gradient is rounding, which Adam blows up.
            compared = torch.arange(len(value)) // (len(value) // 3) != 1
        torch.testing.assert_close(
            ranks[0]["state"][key][compared],
            value[compared],
            rtol=0,
            atol=2e-4,
            msg=lambda text, key=key: f"{key}: {text}",
        )


def assert_layers_equal(got: list[Any], expected: list[Any], norms: list[float]) -> None:
    """Norms by parameter, of every second step: together they are the norm of all."""
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-5)
    assert len(got) > 2
    for step, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        assert (ours is None) == (theirs is None) == (step % 2 == 1)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
            assert math.hypot(*ours.values()) == pytest.approx(norms[step], rel=1e-4)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
@pytest.mark.parametrize("shares", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_equals_single_on_the_union(pool: Pool, name: str, stage: int, world_size: int, shares: dict) -> None:
    ranks = pool.run("smol", world_size, train, name, stage, shares[world_size], STEPS)
    assert_equal(ranks, oracle(sum(shares[world_size])))


@pytest.mark.parametrize(("kind", "world_size"), [("chain", 2), ("chain", 3), ("gpt", 2), ("untied gpt", 3), ("nn", 2)])
@pytest.mark.parametrize("stage", [2, 3])
def test_every_kind_of_model(pool: Pool, stage: int, kind: str, world_size: int) -> None:
    shares = UNEVEN[world_size]
    ranks = pool.run("smol", world_size, train, "fsdp", stage, shares, STEPS, kind)
    assert_equal(ranks, oracle(sum(shares), kind))


@pytest.mark.parametrize(
    ("stage", "kind"), [(0, "tiny"), (1, "tiny"), (2, "tiny"), (2, "gpt"), (3, "tiny"), (3, "chain"), (3, "gpt")]
)
def test_micro_batches_add_up_and_a_rank_may_have_none(pool: Pool, stage: int, kind: str) -> None:
    micro, bucket = 2, 600  # bytes: buckets cut through parameters
    ranks = pool.run("smol", 3, train, "fsdp", stage, IDLE, STEPS, kind, micro, bucket)
    assert_equal(ranks, oracle(sum(IDLE), kind))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_over_gloo(pool: Pool, stage: int) -> None:
    ranks = pool.run("gloo", 2, train, "fsdp", stage, UNEVEN[2], STEPS, "chain", 2)
    assert_equal(ranks, oracle(sum(UNEVEN[2]), "chain"))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_on_a_device_whose_tensors_cannot_travel(pool: Pool, stage: int) -> None:
    ranks = pool.run("smol", 2, train, "fsdp", stage, UNEVEN[2], STEPS, "chain", 2, 600, True)
    assert_equal(ranks, oracle(sum(UNEVEN[2]), "chain"))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_rank_alone_needs_no_group(stage: int) -> None:
    assert_equal([train(0, 1, "fsdp", stage, (5,), STEPS, "gpt", 2)], oracle(5, "gpt"))
