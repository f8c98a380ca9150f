"""The bytes that the plan says a step sends, against those that strategies do send: all but headers, to the byte."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from pathlib import Path

import mp_jobs
import pytest
from diloco_jobs import rounds
from hypothesis import given
from hypothesis import strategies as st
from mp_replica_jobs import bytes_of_a_step
from star_players import Star, started, steps
from strategy_jobs import account, context_of
from strategy_models import LENGTH, VOCAB
from strategy_pool import Pool

from smolcluster.comm.codec import codec_of
from smolcluster.comm.frame import HEADER_BYTES
from smolcluster.plan.buckets import bucket_lengths, frame_bytes, sent_around
from smolcluster.plan.traffic import rows_apart, sent_in_a_step
from smolcluster.spec.run import GPTSpec, RunSpec, WireFormat

# As strategy_jobs.context_of has it.
SAMPLES = 5
STRATEGIES = [("classicdp", 0), ("fsdp", 0), ("fsdp", 1), ("fsdp", 2), ("fsdp", 3)]
WIDE_LM = 272_372  # parameters of strategy_models.WideLM, which is no GPT


def run_of(name: str, stage: int, tied: bool) -> RunSpec:
    """The run of strategy_models' wide GPT."""
    spec = GPTSpec(
        model_dim=128, num_layers=3, num_heads=2, ff_dim=512, dropout=0, max_seq_len=LENGTH, tie_embeddings=tied,
        vocab_size=VOCAB,
    )  # fmt: skip
    return context_of(name, 0, 1, stage=stage).run.model_copy(update={"model": spec})


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("wire", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", ["wide gpt", "wide untied gpt"])
@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_data_parallel_steps(pool: Pool, name: str, stage: int, kind: str, wire: WireFormat, world_size: int) -> None:
    run = run_of(name, stage, kind == "wide gpt")
    predicted = sent_in_a_step(run, wire, [SAMPLES] * world_size)
    ranks = pool.run("smol", world_size, account, name, stage, kind, 1, wire)
    for rank, payload in zip(ranks, predicted, strict=True):
        assert rank["rows"] == rows_apart(run, wire, [SAMPLES] * world_size)
        more = rank["out"] - payload
        assert 0 < more < 0.02 * payload
        # Headers, and four numbers of each rank, which are as long; from stage 2 on one more of each.
        told = (world_size - 1) * 8 if stage >= 2 else 0
        assert (more - told) % HEADER_BYTES == 0


@pytest.mark.parametrize("micros", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_micro_batches_are_scattered_and_gathered_each_from_stage_2_on(pool: Pool, stage: int, micros: int) -> None:
    run = run_of("fsdp", stage, tied=False)
    predicted = sent_in_a_step(run, "fp32", [SAMPLES] * 3, micros=micros)
    for rank, payload in zip(
        pool.run("smol", 3, account, "fsdp", stage, "wide untied gpt", micros), predicted, strict=True
    ):
        assert 0 < rank["out"] - payload < 0.01 * payload


@pytest.mark.parametrize(
    ("kind", "bounds"), [("gpt", ((0, 2), (2, 4))), ("gpt", ((0, 1), (1, 3), (3, 4))), ("untied gpt", ((0, 2), (2, 4)))]
)
@pytest.mark.parametrize("micros", [1, 3])
def test_split_layers(pool: Pool, kind: str, bounds: mp_jobs.Bounds, micros: int) -> None:
    samples = 6
    run = context_of("mp", 0, 1).run.model_copy(update={"model": mp_jobs.spec_of(kind)})
    predicted = sent_in_a_step(run, "fp32", [samples, *(0 for _ in bounds[1:])], bounds)
    sent = pool.run("smol", len(bounds), mp_jobs.sent_per_step, kind, bounds, samples, micros)
    for out, payload in zip(sent, predicted, strict=True):
        assert 0 < out - payload < (4 * micros + 20) * HEADER_BYTES
        assert (out - payload) % HEADER_BYTES == 0


@pytest.mark.parametrize("kind", ["gpt", "untied gpt"])
def test_pipelines_side_by_side(pool: Pool, kind: str) -> None:
    bounds, shares = ((0, 1), (1, 4)), (4, 2)
    run = context_of("mp", 0, 1).run.model_copy(update={"model": mp_jobs.spec_of(kind)})
    predicted = sent_in_a_step(run, "fp32", (4, 0, 2, 0), bounds)
    for got, payload in zip(pool.run("smol", 4, bytes_of_a_step, kind, bounds, shares), predicted, strict=True):
        assert 0 < got["sent"] - payload < 60 * HEADER_BYTES
        assert (got["sent"] - payload) % 8 == 0  # headers, and the few numbers that ranks tell each other


@pytest.mark.parametrize("wire", ["fp32", "int8"])
def test_a_round_of_ten_steps(pool: Pool, wire: WireFormat) -> None:
    world_size, every = 3, 10
    job = functools.partial(rounds, kind="wide", bucket=16 << 20, outer_every=every, wire=wire)
    lengths = bucket_lengths(WIDE_LM, world_size)
    payload = 2 * sent_around(wire, lengths, world_size)
    for rank in pool.run("smol", world_size, job, (1,) * world_size, 31):
        for sent in rank["sent"][1:]:
            assert 0 < sent - payload < 0.02 * payload


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("wire", ["fp32", "int8"])
def test_a_star(tmp_path: Path, wire: WireFormat, interval: int) -> None:
    with ExitStack() as stack:
        star = Star(tmp_path, stack, wire=wire, interval=interval)
        worker = started(star, 1)
        before = star.mailbox.mesh.counters()
        steps(star, worker, 10)
        after = star.mailbox.mesh.counters()
    frame = frame_bytes(wire, star.length)
    # Letters have a header and a few words besides.
    words = 10 * 400
    untrained = 10 // interval * 2 * 24 * 4 if wire == "fp32" else 0  # full weights bring what is not trained
    assert 0 < after.bytes_in - before.bytes_in - 10 * frame < words
    assert 0 < after.bytes_out - before.bytes_out - 10 // interval * frame < words + untrained


@given(count=st.integers(0, 5000), wire=st.sampled_from(["fp32", "bf16", "fp16", "int8"]))
def test_a_frame_is_as_long_as_the_codec_makes_it(count: int, wire: WireFormat) -> None:
    assert frame_bytes(wire, count) == codec_of(wire).frame_bytes(count)
