"""Predictions as pure functions: what they equal where a formula is known, and in which direction they move."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolcluster.plan.buckets import bucket_bytes, bucket_lengths
from smolcluster.plan.decoding import DecodePace, between
from smolcluster.plan.forecast import Crew, forecast
from smolcluster.plan.pipeline import idle_share
from smolcluster.plan.predict import predict
from smolcluster.plan.predict_mp import predict_pipeline, work_shares
from smolcluster.plan.predict_rounds import predict_rounds, steps_in_a_slot
from smolcluster.plan.predict_serving import decoder_of, predict_serving
from smolcluster.plan.predict_star import predict_star
from smolcluster.plan.shares import Cost
from smolcluster.plan.stages import Ranges
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve
from smolcluster.spec.run import GPTSpec, RunSpec

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventory" / "local.smol.yml"
PACE = DecodePace(
    rows=(1, 8, 128), layer_s=(0.001, 0.002, 0.02), head_s=(0.004, 0.005, 0.01), layer_params=100, table_params=400
)
ALL = ("classicdp", "fsdp", "mp", "diloco", "edp", "syncps")


@functools.cache
def run_of(strategy: str, *overrides: str) -> RunSpec:
    return resolve(Request(LOCAL, strategy, overrides=overrides)).run


def wire(mbps: float = 1e9, rtt_ms: float = 0.0) -> Any:
    return lambda a, b: (mbps, rtt_ms)


def even(run: RunSpec, stages: int) -> Ranges:
    size = run.model.num_layers // stages  # type: ignore[union-attr]
    return tuple((at, at + size) for at in range(0, stages * size, size))


# -- split layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stages", "micros"), [(2, 1), (2, 4), (4, 4), (4, 8), (4, 2)])
def test_even_stages_take_the_textbooks_time(stages: int, micros: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("mp", f"training.grad_accumulation={micros}")
    monkeypatch.setattr("smolcluster.plan.predict_mp.work_shares", lambda run, ranges: [1 / stages] * stages)
    names = [f"n{number}" for number in range(stages)]
    told = predict_pipeline(run, names, [Cost(0.1)] * stages, 8, even(run, stages), wire(1e15))
    one = 0.1 * 8 / micros / stages  # forward and backward of a micro-batch through a stage
    assert told.step_s == pytest.approx((stages - 1 + micros) * one, rel=1e-6)
    assert told.wire_s / told.step_s == pytest.approx(idle_share(stages, micros), rel=1e-6)


def test_the_slowest_stage_is_everybodys_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("mp", "training.grad_accumulation=8")
    monkeypatch.setattr("smolcluster.plan.predict_mp.work_shares", lambda run, ranges: [0.5, 0.5])
    told = predict_pipeline(run, ["a", "b"], [Cost(0.1), Cost(0.3)], 8, ((0, 2), (2, 4)), wire(1e15))
    assert told.step_s == pytest.approx(0.05 + 0.15 + 7 * 0.15, rel=1e-6)


def test_thin_micro_batches_cost_what_each_costs_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolcluster.plan.predict_mp.work_shares", lambda run, ranges: [0.5, 0.5])
    for micros in (1, 4, 8):
        run = run_of("mp", f"training.grad_accumulation={micros}")
        cost = Cost(0.1, 0.0, 0.04, micros)
        told = predict_pipeline(run, ["a", "b"], [cost] * 2, 8, ((0, 2), (2, 4)), wire(1e15))
        assert told.step_s == pytest.approx((1 + micros) * (0.1 * 8 / micros / 2 + 0.04 / 2), rel=1e-6)


def test_a_step_has_no_more_passes_than_samples() -> None:
    cost = Cost(0.1, 1.0, 0.5, 4)
    assert [cost.step_s(samples) for samples in (0, 1, 4, 8)] == pytest.approx([1.0, 1.6, 3.4, 3.8])
    assert Cost(0.1, 1.0).step_s(8) == pytest.approx(1.8)


def test_over_a_long_wire_the_round_trip_is_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("mp", "training.grad_accumulation=8")
    monkeypatch.setattr("smolcluster.plan.predict_mp.work_shares", lambda run, ranges: [0.5, 0.5])
    told = predict_pipeline(run, ["a", "b"], [Cost(0.02)] * 2, 8, ((0, 2), (2, 4)), wire(1e15, 2000.0))
    # Two micro-batches are alive in the first stage: every round trip of two seconds brings two of them.
    loop = 0.02 + 2 * 1.0
    at_the_end = 2 * 1.0  # the tied embedding, and the numbers of all
    assert told.step_s == pytest.approx(loop + 7 * loop / 2 + at_the_end, rel=1e-6)


def test_the_last_stage_has_the_words_too() -> None:
    run = run_of("mp")
    assert isinstance(run.model, GPTSpec)
    first, last = work_shares(run, ((0, 2), (2, 4)))
    assert first + last == pytest.approx(1)
    assert last > first


# -- rounds -----------------------------------------------------------------------------------------------------------


def test_a_rank_that_is_twice_as_slow_takes_half_the_steps() -> None:
    assert steps_in_a_slot(8.0, [1.0, 2.0, 8.0], 8) == [8, 4, 1]
    assert steps_in_a_slot(8.0, [1.0, 20.0], 8) == [8, 1]


def test_a_round_costs_one_exchange_and_overlap_hides_it() -> None:
    run = run_of("diloco", "outer_every=10")
    args = (1_000_000, "fp32", ["a", "b"], [Cost(0.1)] * 2, [1, 1])
    told = predict_rounds(run, *args, wire(32.0))  # type: ignore[arg-type]
    assert told.compute_s == pytest.approx(0.1)
    assert told.wire_s == pytest.approx(1.0 / 10, rel=1e-3)  # 4 MB over 32 Mbit/s, every ten steps
    beside = run.model_copy(update={"outer_overlap": True})
    assert predict_rounds(beside, *args, wire(32.0)).wire_s == 0.0  # type: ignore[arg-type]


# -- stars ------------------------------------------------------------------------------------------------------------


def star(run: RunSpec, workers: int, mbps: float = 1e15, update_s: float = 0.0, **slow: float) -> Any:
    names = [f"n{number}" for number in range(workers + 1)]
    costs = [Cost(0.1, update_s), *[Cost(slow.get(name, 0.1), update_s) for name in names[1:]]]
    return predict_star(run, 1_000_000, "fp32", names, costs, [0, *[1] * workers], wire(mbps))


def test_a_star_of_free_wires_is_as_fast_as_its_workers_together() -> None:
    assert star(run_of("edp"), 2).step_s == pytest.approx(0.1, rel=1e-3)
    # One of two is half as fast: three steps in the time of two.
    assert star(run_of("edp"), 2, n2=0.2).step_s == pytest.approx(2 / 15, rel=1e-3)
    assert star(run_of("syncps", "timeout=1000"), 2, n2=0.2).step_s == pytest.approx(0.2, rel=1e-3)


def test_the_servers_link_and_its_optimizer_are_limits() -> None:
    run = run_of("edp", "worker_update_interval=1000")
    # Each gradient is 4 MB: eight workers' are 32 MB over 256 Mbit/s.
    assert star(run, 8, mbps=256.0).step_s == pytest.approx(1.0, rel=1e-3)
    assert star(run, 8, update_s=1.0).step_s == pytest.approx(8.0, rel=1e-3)


# -- serving ----------------------------------------------------------------------------------------------------------


def test_between_what_was_measured_it_goes_straight() -> None:
    assert between((1, 8), (1.0, 8.0), 1) == 1.0
    assert between((1, 8), (1.0, 8.0), 4.5) == 4.5
    assert between((1, 8), (1.0, 8.0), 15) == 15.0
    assert between((1, 8), (2.0, 1.0), 8) == 2.0, "more rows are never quicker"
    assert between((4,), (2.0,), 100) == 2.0


def test_one_stream_passes_all_stages_and_several_are_as_fast_as_the_slowest() -> None:
    run = run_of("classicdp")
    assert isinstance(run.model, GPTSpec)
    shape = decoder_of(run.model)
    pace = PACE.model_copy(update={"layer_params": shape.layer_params, "table_params": shape.table_params})
    alone = predict_serving(shape, ["a"], [pace], ((0, 4),), wire())
    assert alone.one == pytest.approx(1 / (4 * 0.001 + 0.004))
    assert alone.hops_ms == 0
    split = predict_serving(shape, ["a", "b"], [pace] * 2, ((0, 3), (3, 4)), wire(1e12, 2.0), streams=2)
    assert split.one == pytest.approx(1 / (4 * 0.001 + 0.004 + 0.002), rel=1e-3)
    assert split.hops_ms == pytest.approx(2.0, rel=1e-3)
    assert split.several == pytest.approx(2 / max(0.010, 2 * 0.005), rel=1e-3)
    assert split.bytes_per_token == 4 * (shape.width + shape.vocab_size)


def test_a_stage_that_rests_has_saved_up_and_no_more_than_its_share() -> None:
    run = run_of("classicdp")
    assert isinstance(run.model, GPTSpec)
    shape = decoder_of(run.model)
    sizes = {"layer_params": shape.layer_params, "table_params": shape.table_params}
    pace = PACE.model_copy(update={**sizes, "rested": (0.5, 0.5, 1.0)})

    def of(*ranges: tuple[int, int], streams: int = 8) -> Any:
        return predict_serving(shape, ["a", "b", "c"][: len(ranges)], [pace] * len(ranges), ranges, wire(), streams)

    assert of((0, 4)).one == pytest.approx(1 / 0.008), "alone it never rests"
    # Stages work for 1, 0.5 and 2.5 ms, and the last one can do a token in 5 ms.
    assert of((0, 2), (2, 3), (3, 4)).one == pytest.approx(1 / max(0.001 + 0.0005 + 0.0025, 0.005))
    # The first works for 1.5 ms, the second for 2.5 ms, which it can do every 5 ms.
    assert of((0, 3), (3, 4)).one == pytest.approx(1 / 0.005)
    assert of((0, 3), (3, 4), streams=2).several == pytest.approx(2 / (2 * 0.005)), "each of two has its turn"
    # Of 128 rows a rest saves nothing.
    assert of((0, 3), (3, 4)).prompt == pytest.approx(128 / (3 * 0.02 + 0.02 + 0.004))


# -- all of them ------------------------------------------------------------------------------------------------------


def crew(run: RunSpec, count: int, sample_s: float, mbps: float, rtt_ms: float) -> Crew:
    samples = [4] * count
    if run.strategy == "mp":
        samples = [4, *[0] * (count - 1)]
    elif run.strategy in ("edp", "syncps"):
        samples[0] = 0
    stages = ((0, 1), (1, 2), (2, 3), (3, 4))[: count - 1]
    return Crew(
        nodes=tuple(f"n{number}" for number in range(count)),
        costs=(Cost(sample_s, 0.01),) * count,
        samples=tuple(samples),
        links=wire(mbps, rtt_ms),
        stages=(*stages, (count - 1, 4)) if run.strategy == "mp" else (),
    )


@settings(max_examples=60, deadline=None)
@given(
    strategy=st.sampled_from(ALL), count=st.integers(2, 4), sample_s=st.floats(1e-4, 1.0), mbps=st.floats(1, 1e5),
    rtt_ms=st.floats(0, 100), times=st.floats(1.0, 100.0), stage=st.integers(0, 3),
)  # fmt: skip
def test_nothing_that_is_faster_makes_a_step_slower(
    strategy: str, count: int, sample_s: float, mbps: float, rtt_ms: float, times: float, stage: int
) -> None:
    run = run_of(strategy).model_copy(update={"fsdp_stage": stage, "staleness_bound": 0})
    now = forecast(run, crew(run, count, sample_s, mbps, rtt_ms))
    assert math.isfinite(now.rate)
    assert now.rate > 0
    slack = 1 + 1e-9
    assert forecast(run, crew(run, count, sample_s, mbps * times, rtt_ms)).step_s <= now.step_s * slack
    assert forecast(run, crew(run, count, sample_s, mbps, rtt_ms / times)).step_s <= now.step_s * slack
    if strategy != "diloco":  # whose ranks take other numbers of steps in a shorter slot
        assert forecast(run, crew(run, count, sample_s / times, mbps, rtt_ms)).step_s <= now.step_s * slack
    assert now.step_s >= now.prediction.compute_s
    assert now.bytes_per_step > 0


@pytest.mark.parametrize(
    ("strategy", "stage", "mbps"), [("classicdp", 0, 50.0), ("fsdp", 1, 20.0), ("fsdp", 2, 20.0), ("fsdp", 3, 10.0)]
)
def test_what_travels_behind_computing_may_be_slower_than_what_is_waited_for(
    strategy: str, stage: int, mbps: float
) -> None:
    run = run_of(strategy).model_copy(update={"staleness_bound": 0, "fsdp_stage": stage})
    args = (run, 8_000_000, "fp32", ["a", "b"], [Cost(1.0)] * 2, [4, 4])
    same = predict(*args, wire(1000.0), wire(1000.0))  # type: ignore[arg-type]
    assert same == predict(*args, wire(1000.0))  # type: ignore[arg-type]
    slow = predict(*args, wire(1000.0), wire(mbps))  # type: ignore[arg-type]
    slower = predict(*args, wire(mbps), wire(mbps))  # type: ignore[arg-type]
    assert same.wire_s < slow.wire_s < slower.wire_s


@given(params=st.integers(1, 50_000_000), world_size=st.integers(1, 9))
def test_buckets_are_all_there_and_divide(params: int, world_size: int) -> None:
    lengths = bucket_lengths(params, world_size)
    assert all(length % world_size == 0 for length in lengths)
    assert params <= sum(lengths) < params + 16 * world_size
    assert all(4 * length <= max(bucket_bytes(4 * params), 64 * world_size) for length in lengths)
