"""Wire formats of data parallelism: the bytes, how near to one process, replicas that stay equal, nothing lost."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import wire_jobs
from strategy_jobs import account
from strategy_jobs import train as train_plainly
from strategy_pool import Pool

from smolcluster.comm.codec import codec_of
from smolcluster.comm.frame import HEADER_BYTES
from smolcluster.spec.run import WireFormat

STRATEGIES = [("classicdp", 0), ("fsdp", 0), ("fsdp", 1), ("fsdp", 2), ("fsdp", 3)]
STEPS = 20
# How far from one process's float32 the losses of 20 steps may be, which go from 5.0 to 4.2: twice what they are.
TOLERANCE: dict[WireFormat, float] = {"bf16": 0.007, "fp16": 0.001, "int8": 0.02}
SHARE: dict[WireFormat, float] = {"bf16": 0.505, "fp16": 0.505, "int8": 0.27}
# Ranks exchange the four numbers of a step.
EXCHANGE_BYTES = HEADER_BYTES + 4 * 8


@functools.cache
def oracle(world_size: int, kind: str) -> list[float]:
    losses: list[float] = train_plainly(0, 1, "single", 1, (2 * world_size,), STEPS, kind)["losses"]
    return losses


def assert_near(ranks: list[dict[str, Any]], wire: WireFormat, kind: str) -> None:
    expected = oracle(len(ranks), kind)
    for got in ranks:
        assert got["losses"] == ranks[0]["losses"]
        assert got["same"] == [True] * STEPS
    torch.testing.assert_close(ranks[0]["losses"], expected, rtol=0, atol=TOLERANCE[wire])
    assert ranks[0]["losses"] != expected, "nothing was rounded"


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("wire", ["bf16", "fp16", "int8"])
@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_near_to_one_process_and_replicas_equal_to_the_bit(
    pool: Pool, name: str, stage: int, wire: WireFormat, world_size: int
) -> None:
    ranks = pool.run("smol", world_size, wire_jobs.train, name, stage, wire, STEPS, "chain")
    assert ranks[0]["buckets"] > 2
    assert_near(ranks, wire, "chain")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_int8_through_cpu_buffers_is_the_same(pool: Pool, stage: int) -> None:
    plain = pool.run("smol", 2, wire_jobs.train, "fsdp", stage, "int8", 4, "chain", 1)
    staged = pool.run("smol", 2, wire_jobs.train, "fsdp", stage, "int8", 4, "chain", 1, 4096, True)
    assert plain[0]["losses"] == staged[0]["losses"]


@pytest.mark.parametrize(("wire", "stage"), [("int8", 0), ("int8", 2), ("bf16", 1), ("int8", 3)])
def test_over_gloo(pool: Pool, wire: WireFormat, stage: int) -> None:
    assert_near(pool.run("gloo", 2, wire_jobs.train, "fsdp", stage, wire, STEPS, "chain"), wire, "chain")


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("wire", ["bf16", "fp16", "int8"])
@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_bytes_on_the_wire(pool: Pool, name: str, stage: int, wire: WireFormat, world_size: int) -> None:
    exact = pool.run("smol", world_size, account, name, stage, "wide")
    narrow = pool.run("smol", world_size, account, name, stage, "wide", 1, wire)
    sent = sum(rank["out"] for rank in narrow)
    assert sent <= SHARE[wire] * sum(rank["out"] for rank in exact)
    assert sent == sum(rank["in"] for rank in narrow)
    if wire == "int8" and stage < 2:
        # To the byte: each bucket's shards go to their owners once, and come back once, each in a frame of its own.
        shards = [length // world_size for length in narrow[0]["buckets"]]
        frames = sum(2 * (codec_of("int8").frame_bytes(count) + HEADER_BYTES) for count in shards)
        assert sent == world_size * (world_size - 1) * (frames + EXCHANGE_BYTES)


@pytest.mark.parametrize("wire", ["bf16", "int8"])
def test_bytes_of_stage_3_with_a_tied_embedding(pool: Pool, wire: WireFormat) -> None:
    """Rows of looked up embeddings travel apart, in float32, only where they are few beside this format's bytes."""
    exact = pool.run("smol", 3, account, "fsdp", 3, "wide gpt")
    narrow = pool.run("smol", 3, account, "fsdp", 3, "wide gpt", 1, wire)
    assert sum(rank["out"] for rank in narrow) <= SHARE[wire] * sum(rank["out"] for rank in exact)


@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_what_the_wire_format_keeps_is_what_the_plan_says(pool: Pool, name: str, stage: int) -> None:
    for wire in ("bf16", "int8"):
        ranks = pool.run("smol", 3, account, name, stage, "wide", 1, wire)
        state = ranks[0]["state"]
        params = 3 * state["params"] if stage == 3 else state["params"]
        residuals = params if wire == "int8" else 0
        assert state["wire"] == residuals + (params // 3 if stage in (1, 2) else 0)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("gathered", [True, False], ids=["all-reduce", "reduce-scatter"])
def test_all_that_was_given_came_out_or_is_owed(pool: Pool, gathered: bool, world_size: int) -> None:
    ranks = pool.run("smol", world_size, wire_jobs.sums, 30, gathered)
    given, owed = sum(rank["given"] for rank in ranks), sum(rank["owed"] for rank in ranks)
    got = ranks[0]["got"] if gathered else sum(rank["got"] for rank in ranks)
    assert all(torch.equal(rank["got"], got) for rank in ranks) or not gathered
    assert owed.any()
    assert torch.equal(got + owed, given)


@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_after_many_steps_the_loss_is_within_one_percent(pool: Pool, name: str, stage: int) -> None:
    tail = {}
    for wire in ("fp32", "int8"):
        losses = pool.run("smol", 2, wire_jobs.train, name, stage, wire, 120, "tiny")[0]["losses"]
        tail[wire] = sum(losses[-20:]) / 20
    assert tail["int8"] == pytest.approx(tail["fp32"], rel=0.01)


@pytest.mark.parametrize("wire", ["bf16", "fp16", "int8"])
@pytest.mark.parametrize(("name", "stage"), [("classicdp", 0), ("fsdp", 1), ("fsdp", 2), ("fsdp", 3)])
def test_a_resumed_run_goes_on_to_the_bit(pool: Pool, name: str, stage: int, wire: WireFormat) -> None:
    before = pool.run("smol", 3, wire_jobs.slices_after, name, stage, wire, 4)
    saved = [part for parts, _ in before for part in parts]
    for losses, kept in pool.run("smol", 3, wire_jobs.resume, name, stage, wire, 4, saved):
        assert losses == before[0][1]
        assert (kept["owed"] > 0) == (wire == "int8")
        assert (kept["lag"] > 0) == (stage in (1, 2))


@pytest.mark.parametrize(("to", "stage"), [("classicdp", 0), ("fsdp", 1), ("fsdp", 3)])
def test_other_strategies_take_up_what_is_owed(pool: Pool, to: str, stage: int) -> None:
    before = pool.run("smol", 3, wire_jobs.slices_after, "classicdp", 0, "int8", 4)
    saved = [part for parts, _ in before for part in parts]
    for losses, kept in pool.run("smol", 3, wire_jobs.resume, to, stage, "int8", 4, saved):
        assert losses == pytest.approx(before[0][1], abs=TOLERANCE["int8"])
        assert kept["owed"] > 0


@pytest.mark.parametrize(("world_size", "wire"), [(2, "int8"), (3, "fp32"), (3, "bf16")])
def test_with_other_ranks_or_another_format_nothing_is_owed(pool: Pool, world_size: int, wire: WireFormat) -> None:
    before = pool.run("smol", 3, wire_jobs.slices_after, "fsdp", 1, "int8", 4)
    saved = [part for parts, _ in before for part in parts]
    for _, kept in pool.run("smol", world_size, wire_jobs.resume, "fsdp", 1, wire, 1, saved):
        assert kept["owed"] == 0
        assert (kept["lag"] > 0) == (wire != "fp32")  # what all replicas had is by name, whoever owns it now


def test_int8_goes_on_from_a_run_without(pool: Pool) -> None:
    before = pool.run("smol", 3, wire_jobs.slices_after, "fsdp", 2, "fp32", 4)
    saved = [part for parts, _ in before for part in parts]
    for losses, kept in pool.run("smol", 3, wire_jobs.resume, "fsdp", 2, "int8", 4, saved):
        assert kept == {"owed": 0, "lag": 0}
        assert losses == pytest.approx(before[0][1], abs=TOLERANCE["int8"])


def test_what_is_owed_follows_float16_s_scale_and_is_dropped_with_a_step(pool: Pool) -> None:
    for owed, skipped, after, small, factor, large in pool.run("smol", 2, wire_jobs.overflowing):
        assert owed > 0
        assert skipped == 1
        assert after == 0
        assert factor == 2
        assert large == 2 * small > 0


@pytest.mark.parametrize(("wire", "digits"), [("fp16", 1e-3), ("bf16", 1e-2)])
@pytest.mark.parametrize("unit", [1.0, 65536.0, 2.0**24])
def test_large_sums_do_not_overflow_and_small_ones_do_not_vanish(
    pool: Pool, wire: WireFormat, digits: float, unit: float
) -> None:
    """A gradient of 10 times 65,536 tokens is beyond float16, one of 1e-6 below what it holds with all its digits."""
    for sums in pool.run("smol", 2, wire_jobs.large_sums, wire, unit):
        for values in sums:
            assert values == pytest.approx([2e-6, 2e-3, 2.0, 20.0], rel=digits)
