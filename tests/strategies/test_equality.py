"""classicdp and fsdp take the same steps as one process on the union of the batches (DESIGN section 6)."""

from __future__ import annotations

import pytest
import torch
from strategy_jobs import train
from strategy_pool import Pool

STEPS = 20
EVEN = {2: (3, 3), 3: (2, 2, 2)}
UNEVEN = {2: (5, 1), 3: (1, 4, 2)}


def oracle(shares: tuple[int, ...]) -> dict:
    return train(0, 1, "single", 1, (sum(shares),), STEPS)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("name", "stage"), [("classicdp", 0), ("fsdp", 0), ("fsdp", 1)])
@pytest.mark.parametrize("shares", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_equals_single_on_the_union(pool: Pool, name: str, stage: int, world_size: int, shares: dict) -> None:
    expected = oracle(shares[world_size])
    ranks = pool.run("smol", world_size, train, name, stage, shares[world_size], STEPS)
    for got in ranks:
        torch.testing.assert_close(got["losses"], expected["losses"], rtol=0, atol=1e-5)
        torch.testing.assert_close(got["norms"], expected["norms"], rtol=1e-4, atol=1e-5)
        assert got["tokens"] == expected["tokens"]
        for key, value in ranks[0]["state"].items():
            assert torch.equal(got["state"][key], value), key
    for key, value in expected["state"].items():
        torch.testing.assert_close(
            ranks[0]["state"][key], value, rtol=0, atol=2e-4, msg=lambda text, key=key: f"{key}: {text}"
        )
