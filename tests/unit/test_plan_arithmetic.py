"""Sizes by arithmetic against the models themselves, and against the theory of ZeRO."""

from __future__ import annotations

import pytest

from smolcluster.models import build_model
from smolcluster.plan.arithmetic import memory_of, param_count, stage_params
from smolcluster.spec.run import (
    CommSpec,
    DataSpec,
    GPTSpec,
    ModelSpec,
    NNSpec,
    Participant,
    RunSpec,
    ScheduleSpec,
    TrainingSpec,
    WireFormat,
)  # fmt: skip
from smolcluster.spec.stages import split_layers

GPT = GPTSpec(model_dim=16, num_layers=3, num_heads=2, ff_dim=40, dropout=0.0, max_seq_len=12, vocab_size=31)
GUIDE = GPTSpec(model_dim=256, num_layers=6, num_heads=4, ff_dim=1024, dropout=0.1, max_seq_len=128, vocab_size=50257)


def run_of(strategy: str, stage: int = 0, model: ModelSpec = GPT) -> RunSpec:
    return RunSpec(
        strategy=strategy,  # type: ignore[arg-type]
        participants=tuple(Participant(node=f"n{rank}", port=0) for rank in range(3)),
        model=model,
        training=TrainingSpec(batch_size=1, epochs=1, learning_rate=0.1),
        schedule=ScheduleSpec(warmup_iters=0, min_lr=0),
        data=DataSpec(dataset="pydoc", tokenizer="bpe:300"),
        comm=CommSpec(),
        seed=0,
        fsdp_stage=stage,
        project_name="test",
    )


@pytest.mark.parametrize("tied", [True, False])
def test_gpt_has_the_parameters_of_the_real_one(tied: bool) -> None:
    spec = GPT.model_copy(update={"tie_embeddings": tied})
    real = build_model(spec, spec.vocab_size, seed=0)
    assert param_count(spec) == sum(p.numel() for p in {id(p): p for p in real.parameters()}.values())


def test_nn_has_the_parameters_of_the_real_one() -> None:
    spec = NNSpec(input_dim=784, hidden=128, out=10)
    assert param_count(spec) == sum(p.numel() for p in build_model(spec, None, seed=0).parameters()) == 101770


def test_the_guides_model() -> None:
    assert param_count(GUIDE) == 17_637_632
    assert param_count(GUIDE.model_copy(update={"tie_embeddings": False})) == 30_503_424


@pytest.mark.parametrize(
    ("strategy", "stage", "params", "grads", "moments"),
    [
        ("classicdp", 0, 1, 1, 2),
        ("fsdp", 0, 1, 1, 2),
        ("fsdp", 1, 1, 1, 2 / 3),
        ("fsdp", 2, 1, 1 / 3, 2 / 3),
        ("fsdp", 3, 1 / 3, 1 / 3, 2 / 3),
    ],
)
def test_memory_follows_zero(strategy: str, stage: int, params: float, grads: float, moments: float) -> None:
    memory = memory_of(run_of(strategy, stage), 1, 3, "worker")
    size = 4 * param_count(GPT)
    assert memory.params_bytes == pytest.approx(params * size, abs=8)
    assert memory.grads_bytes == pytest.approx(grads * size, abs=8)
    assert memory.optimizer_bytes == pytest.approx(moments * size, abs=16)


@pytest.mark.parametrize(("momentum", "outer"), [(0.9, 2), (0.0, 1)])
def test_a_diloco_rank_has_the_outer_optimizer_and_what_int8_owes_twice(momentum: float, outer: int) -> None:
    run, size = run_of("diloco").model_copy(update={"outer_momentum": momentum}), 4 * param_count(GPT)
    memory = memory_of(run, 1, 3, "worker", "int8")
    assert memory.params_bytes == memory.grads_bytes == size
    assert (memory.optimizer_bytes, memory.wire_bytes) == ((2 + outer) * size, 2 * size)
    assert memory_of(run, 0, 1, "worker", "int8").wire_bytes == 0


def test_a_syncps_worker_has_no_optimizer() -> None:
    assert memory_of(run_of("syncps"), 1, 3, "worker").optimizer_bytes == 0
    assert memory_of(run_of("syncps"), 0, 3, "server").optimizer_bytes == 8 * param_count(GPT)


def test_a_syncps_server_that_trains_holds_a_second_model() -> None:
    run = run_of("syncps").model_copy(update={"server_trains": True})
    size = 4 * param_count(GPT)
    server, worker = memory_of(run, 0, 3, "server"), memory_of(run, 1, 3, "worker")
    assert (server.params_bytes, server.grads_bytes, server.optimizer_bytes) == (2 * size, 2 * size, 2 * size)
    assert (worker.params_bytes, worker.grads_bytes, worker.optimizer_bytes) == (size, size, 0)


def test_what_lies_between_a_server_and_its_workers_is_counted() -> None:
    size = 4 * param_count(GPT)
    server, worker = (memory_of(run_of("edp"), rank, 3, role) for rank, role in enumerate(("server", "worker")))
    assert (server.wire_bytes, worker.wire_bytes) == (2 * size, 2 * size)
    server, worker = (memory_of(run_of("edp"), rank, 3, role, "int8") for rank, role in enumerate(("server", "worker")))
    assert server.wire_bytes == (2 + 2 + 1) * size  # a shadow for each worker
    assert worker.wire_bytes == pytest.approx(2.25 * size, abs=4)


def test_the_stages_of_mp_hold_the_whole_model_and_a_second_embedding() -> None:
    cut = split_layers(GPT.num_layers, 3)
    stages = [memory_of(run_of("mp"), rank, 3, "worker", stages=cut).params_bytes // 4 for rank in range(3)]
    assert sum(stages) == param_count(GPT) + GPT.vocab_size * GPT.model_dim
    assert stages[0] > stages[1]
    assert stage_params(GPT, (0, GPT.num_layers), GPT.num_layers) == param_count(GPT)
    nn = NNSpec(input_dim=5, hidden=4, out=3)
    assert [stage_params(nn, half, 2) for half in ((0, 1), (1, 2))] == [24, 15]


@pytest.mark.parametrize(
    ("layers", "parts", "expected"),
    [
        (12, 3, ((0, 4), (4, 8), (8, 12))),
        (7, 3, ((0, 3), (3, 5), (5, 7))),
        (1, 1, ((0, 1),)),
    ],
)
def test_layers_are_split_half_open(layers: int, parts: int, expected: tuple[tuple[int, int], ...]) -> None:
    assert split_layers(layers, parts) == expected


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize(("wire", "frame", "owed", "shadows"), [("fp32", 2 / 3, 0, 0), ("int8", 1 / 6, 1, 2 / 3)])
def test_under_a_staleness_bound_all_stages_are_alike(
    stage: int, wire: WireFormat, frame: float, owed: float, shadows: float
) -> None:
    run, size = run_of("fsdp", stage).model_copy(update={"staleness_bound": 5}), 4 * param_count(GPT)
    memory = memory_of(run, 1, 3, "worker", wire)
    assert memory.params_bytes == memory.grads_bytes == size
    assert memory.optimizer_bytes == pytest.approx(2 / 3 * size, abs=16)
    # Its shard and its box; a gradient on its way; what int8 owes; what the others have of the shard.
    assert memory.wire_bytes == pytest.approx((2 / 3 + frame + owed + shadows) * size, abs=32)
    assert memory_of(run, 0, 1, "worker", wire).wire_bytes == 0
