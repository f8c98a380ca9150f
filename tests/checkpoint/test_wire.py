"""What a wire format keeps, in checkpoints: taken up by the same ranks, dropped with a word by others."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.spec.run import WireFormat
from tests.checkpoint.jobs import train, warnings_of
from tests.checkpoint.runs import loaded, plan, same, state_of
from tests.checkpoint.test_resume import losses, run
from tests.comm.pool import Pool

STEPS = 10
DROPPED = "what 3 ranks had not yet sent of their gradients (wire: int8) fits no other ranks or format: it is dropped"


INNER = "the own optimizers of 3 ranks fit no other ranks: all begin with the same one, made of a piece from each"
MOMENTUM = "the momentum over diloco's rounds is dropped"


def plan_with(world_size: int, strategy: str, stage: int, wire: WireFormat):
    return plan(world_size, strategy, stage, max_steps=STEPS).model_copy(update={"wire": wire})


@pytest.mark.parametrize(
    ("strategy", "stage", "wire"),
    [("classicdp", 0, "int8"), ("fsdp", 1, "int8"), ("fsdp", 2, "bf16"), ("fsdp", 3, "int8")],
)
def test_a_restart_is_bit_equal_to_an_undisturbed_run(
    pool: Pool, data: Path, tmp_path: Path, strategy: str, stage: int, wire: WireFormat
) -> None:
    made = plan_with(3, strategy, stage, wire)
    run(pool, train, 3, tmp_path / "whole", data, made)
    run(pool, train, 3, tmp_path / "cut", data, made, stop_at=7)
    accounts = run(pool, train, 3, tmp_path / "cut", data, made, generation=1)
    assert {account.resumed_step for account in accounts} == {7}
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert same(state_of(tmp_path / "whole", STEPS), state_of(tmp_path / "cut", STEPS))


@pytest.mark.parametrize(
    ("world_size", "strategy", "stage", "wire", "told"),
    [
        (2, "fsdp", 1, "int8", [DROPPED]),
        (3, "fsdp", 2, "fp32", [DROPPED]),
        (1, "single", 0, "fp32", [DROPPED]),
        (3, "classicdp", 0, "int8", []),
    ],
)
def test_what_int8_had_not_sent_is_dropped_with_a_warning_or_taken_up(
    pool: Pool,
    data: Path,
    tmp_path: Path,
    world_size: int,
    strategy: str,
    stage: int,
    wire: WireFormat,
    told: list[str],
) -> None:
    run(pool, train, 3, tmp_path / "first", data, plan_with(3, "fsdp", 1, "int8"), stop_at=5)
    state = state_of(tmp_path / "first", 5)
    assert {name.split(".")[1] for name in state if name.startswith("wire.")} == {"residual", "replica"}
    assert all(value.isfinite().all() for value in state.values()), "an element is nobody's"
    made = plan_with(world_size, strategy, stage, wire)
    warned = run(pool, warnings_of, world_size, train, tmp_path / "next", data, made, 0, tmp_path / "first")
    assert warned[0] == told
    assert warned[1:] == [[]] * (world_size - 1)
    assert loaded(tmp_path / "next", STEPS).step == STEPS
    # What travels in eight bits goes on in eight bits: the model is the same, nearly.
    assert losses(tmp_path / "next")[6] == pytest.approx(losses(tmp_path / "first")[5], rel=0.05)


def test_a_run_in_float32_goes_on_in_eight_bits_without_a_word(pool: Pool, data: Path, tmp_path: Path) -> None:
    run(pool, train, 2, tmp_path / "first", data, plan_with(2, "fsdp", 3, "fp32"), stop_at=5)
    made = plan_with(2, "fsdp", 1, "int8")
    assert run(pool, warnings_of, 2, train, tmp_path / "next", data, made, 0, tmp_path / "first") == [[], []]
    assert sorted(losses(tmp_path / "next")) == list(range(6, STEPS + 1))


@pytest.mark.parametrize(
    ("world_size", "strategy", "told"),
    [(3, "diloco", []), (2, "diloco", [INNER]), (2, "classicdp", [INNER, MOMENTUM])],
)
def test_what_diloco_keeps_for_its_ranks_is_taken_up_by_the_same_ones(
    pool: Pool, data: Path, tmp_path: Path, world_size: int, strategy: str, told: list[str]
) -> None:
    run(pool, train, 3, tmp_path / "first", data, plan(3, "diloco", max_steps=STEPS))
    made = plan(world_size, strategy, max_steps=STEPS + 4)
    warned = run(pool, warnings_of, world_size, train, tmp_path / "next", data, made, 0, tmp_path / "first")
    assert warned[0] == told
    assert warned[1:] == [[]] * (world_size - 1)
    after = losses(tmp_path / "next")
    assert max(after) == STEPS + 4
    assert min(after) > STEPS
    assert after[STEPS + 4] == pytest.approx(losses(tmp_path / "first")[STEPS], rel=0.3)
