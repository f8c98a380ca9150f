"""What a step costs: bytes on the wire and bytes of state, against arithmetic; and what ranks agree on."""

from __future__ import annotations

import pytest
from strategy_jobs import account, asked_to_stop, drift, poisoned, staged_sums
from strategy_pool import Pool

STRATEGIES = [("classicdp", 0), ("fsdp", 0), ("fsdp", 1)]


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_bytes_of_a_ring_and_state_of_the_stage(pool: Pool, name: str, stage: int, world_size: int) -> None:
    ranks = pool.run("smol", world_size, account, name, stage)
    params = ranks[0]["params_bytes"]
    padded = ranks[0]["state"]["params"]
    assert params <= padded < params + world_size * 64
    ring = 2 * (world_size - 1) / world_size * params
    for rank in ranks:
        assert rank["out"] == pytest.approx(ring, rel=0.02)
        assert rank["in"] == pytest.approx(ring, rel=0.02)
        shards = world_size if stage == 1 else 1
        assert rank["state"] == {"params": padded, "grads": padded, "optimizer": 2 * padded // shards}


@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_a_loss_that_is_not_finite_ends_every_rank_before_the_update(pool: Pool, name: str, stage: int) -> None:
    for told in pool.run("smol", 3, poisoned, name, stage):
        assert told.startswith("1: the loss of rank 1 is not finite")


@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_one_rank_s_wish_to_stop_is_known_to_all_in_the_same_step(pool: Pool, name: str, stage: int) -> None:
    assert pool.run("smol", 2, asked_to_stop, name, stage) == [[False, True, False]] * 2


@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
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
