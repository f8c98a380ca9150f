"""What only stage 3 has: parameters that come and go."""

from __future__ import annotations

import time

import pytest
import torch
from strategy_jobs import broken_units, context_of, dies_in_a_block, peaks
from strategy_models import ChainLM, gpt_of, model_of, shares_of
from strategy_pool import Pool

from smolcluster.models.units import ShardUnit
from smolcluster.runtime.device import Collectives, Pending
from smolcluster.strategies.base import build_strategy
from smolcluster.strategies.flat import Bucket
from smolcluster.strategies.fsdp.scatter import ScatteredGradients
from smolcluster.strategies.fsdp.stage3 import Stage3
from smolcluster.strategies.fsdp.units import UnitParameters, readings_of
from smolcluster.strategies.sums import ExactSums


@pytest.mark.parametrize("tied", [True, False])
def test_the_units_of_a_gpt(tied: bool) -> None:
    model = gpt_of(16, 3, tied, seed=0)
    layout, units = readings_of(model, world_size=2)
    assert len(units) == 5
    assert [unit.reread for unit in units] == [False, True, True, True, True]
    assert [bucket.index for unit in units for bucket in unit.own] == [4, 3, 2, 1, 0]  # backward's order
    owners = [[span.name for span in layout.spans_in(bucket)] for bucket in layout.buckets]
    assert sorted(name for names in owners for name in names) == sorted(name for name, _ in model.named_parameters())
    assert owners[4] == ["transformer.wpe.weight", "transformer.wte.weight"]
    assert [bucket.index for bucket in units[-1].reads] == ([4, 0] if tied else [0])
    assert all(bucket.start % 32 == 0 and bucket.stop % 32 == 0 for bucket in layout.buckets)


def test_a_model_that_says_nothing_is_one_unit() -> None:
    layout, units = readings_of(model_of("nn", 0), world_size=3)
    assert len(layout.buckets) == len(units) == 1
    assert len(layout.spans) == 4


def test_a_unit_without_anything_to_train_has_no_bucket() -> None:
    layout, units = readings_of(ChainLM(0), world_size=2)
    assert len(units) == 5
    assert len(layout.buckets) == 4
    assert units[3].own == units[3].reads == ()


def test_a_parameter_of_no_unit_is_named() -> None:
    class Forgetful(ChainLM):
        def shard_units(self) -> list[ShardUnit]:
            return super().shard_units()[:-1]

    with pytest.raises(ValueError, match=r"norm.weight belongs to no shard unit: see Forgetful.shard_units"):
        readings_of(Forgetful(0), world_size=2)


def measured(pool: Pool, world_size: int, stage: int) -> tuple[int, int]:
    """The most that a rank holds between steps, and in one."""
    ranks = pool.run("smol", world_size, peaks, stage)
    return max(held for held, _ in ranks), max(peak for _, peak in ranks)


def test_each_stage_s_peak_is_below_the_one_s_before(pool: Pool) -> None:
    params = sum(p.nbytes for p in model_of("deep gpt", 0).parameters())
    held, peak = zip(*(measured(pool, 2, stage) for stage in range(4)), strict=True)
    for stage, theory in enumerate((4, 3, 2.5, 2)):  # times P at two ranks
        assert held[stage] == pytest.approx(theory * params, rel=0.02)
    assert peak[3] < peak[2] < peak[1] < peak[0]


def test_stage_3_has_a_few_units_whole_and_no_more(pool: Pool) -> None:
    layout, _ = readings_of(model_of("deep gpt", 0), world_size=1)
    unit = max(bucket.stop - bucket.start for bucket in layout.buckets) * layout.dtype.itemsize
    held, peak = measured(pool, 4, 3)
    assert held == pytest.approx(layout.length * layout.dtype.itemsize, rel=0.02)
    # Parameters of the unit at work and the next one; gradients of the one at work, here and in autograd, and of two
    # that travel. The activations of two samples are less than another one.
    assert peak < held + 7 * unit
    assert peak < measured(pool, 4, 0)[1] / 2


def test_a_rank_killed_in_the_middle_of_a_step_ends_the_others() -> None:
    pool = Pool(3)
    try:
        pool.run("smol", 3, broken_units, "none")  # torch is imported
        began = time.monotonic()
        outcomes = pool.outcomes("smol", 3, dies_in_a_block, 1)
        took_s = time.monotonic() - began
    finally:
        pool.close()
    assert outcomes[1] == (False, "died")
    for rank in (0, 2):
        good, told = outcomes[rank]
        assert not good
        assert "PeerLostError" in told
        assert "rank 1" in told
    assert took_s < 20  # of the 60 s that a wait may take: it was not a deadline that ended it


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("backward reads the embedding", "reads a weight of unit 0 again: see Model.shard_units, `reread`"),
        ("forward reads a weight that is not there", "is not finite"),
        ("a gradient comes late", "got a gradient when backward had left its unit"),
    ],
)
def test_units_that_are_not_as_they_say_are_an_error(pool: Pool, how: str, told: str) -> None:
    for error in pool.run("smol", 2, broken_units, how):
        assert told in error


@pytest.mark.parametrize("idle", [False, True])
def test_a_unit_s_parameters_travel_while_the_one_before_it_computes(
    monkeypatch: pytest.MonkeyPatch, idle: bool
) -> None:
    said: list[str] = []
    names = {"3": "embedding", "2": "block 1", "1": "block 2", "0": "norm"}
    fetch, send = UnitParameters.fetch, ScatteredGradients.send

    def gather(self: UnitParameters, bucket: Bucket, exact: bool = False) -> None:
        if self.whole(bucket) is None:
            said.append(f"gather {names[str(bucket.index)]}")
        fetch(self, bucket, exact)

    def scatter(self: ScatteredGradients, bucket: Bucket) -> None:
        said.append(f"scatter {names[str(bucket.index)]}")
        send(self, bucket)

    monkeypatch.setattr(UnitParameters, "fetch", gather)
    monkeypatch.setattr(ScatteredGradients, "send", scatter)
    model = gpt_of(16, 2, tied=True, seed=0)
    strategy = build_strategy(context_of("fsdp", 0, 1, stage=3), model)
    for number, block in enumerate(model.transformer.h, 1):
        block.register_forward_hook(lambda *_, number=number: said.append(f"forward {number}"))
        block.register_full_backward_pre_hook(lambda *_, number=number: said.append(f"backward {number}"))
    assert isinstance(strategy, Stage3)
    if idle:
        strategy.micro_batch(None)
    else:
        strategy.micro_batch(shares_of(0, (2,), 0, 2)[0])
    wanted = [
        *("gather embedding", "gather block 1", "gather block 2", "forward 1"),
        *("gather embedding", "gather norm", "forward 2", "gather block 2"),
        *("gather block 1", "scatter norm", "backward 2", "scatter block 2", "backward 1", "scatter block 1"),
        "scatter embedding",
    ]
    # A rank without a sample sends and receives the same, only nothing comes between.
    assert said == [what for what in wanted if not idle or "ward" not in what]


class SlowWire(Collectives):
    """What it is given arrives when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__(rank=0, world_size=1, device=torch.device("cpu"))
        self.travelling = self.most = 0

    def reduce_scatter(self, output: torch.Tensor, tensor: torch.Tensor) -> Pending:
        self.travelling += 1
        self.most = max(self.most, self.travelling)
        return Arrival(self, output, tensor)


class Arrival:
    def __init__(self, wire: SlowWire, output: torch.Tensor, tensor: torch.Tensor) -> None:
        self.wire, self.output, self.tensor = wire, output, tensor

    def wait(self) -> None:
        self.wire.travelling -= 1
        self.output.copy_(self.tensor)


def test_a_slow_wire_does_not_fill_the_memory_with_gradients() -> None:
    layout, _ = readings_of(gpt_of(16, 6, tied=True, seed=0), world_size=1)
    wire = SlowWire()
    gradients = ScatteredGradients(layout, 0, ExactSums(wire))
    for step in range(2):
        gradients.begin()
        for micro in range(3):
            for bucket in layout.buckets:
                gradients.room(bucket).fill_(10 * step + micro)
                gradients.send(bucket)
        gradients.arrived()
        assert wire.travelling == 0
        for bucket, piece in zip(layout.buckets, gradients.pieces, strict=True):
            assert (piece.values == 30 * step + 3).all(), bucket
    assert wire.most == 2
