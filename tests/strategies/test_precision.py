"""bf16 and fp16, recomputed blocks and compiled ones: the numbers of the plain run, within the precision's tolerance.

Tolerances: bf16 has 8 bits of mantissa, fp16 11. Over these steps losses stay within 1e-2 and 5e-3 of float32's.
Against one process in the same precision every strategy stays closer: only sums are in another order.
"""

from __future__ import annotations

import functools
from typing import Any

import psutil
import pytest
import torch
from strategy_jobs import context_of, steps_of
from strategy_models import model_of, shares_of
from strategy_pool import Pool
from torch.multiprocessing.reductions import StorageWeakRef

from smolcluster.errors import ConfigError
from smolcluster.models.compiled import require_compiler
from smolcluster.strategies.base import NotFiniteError, build_strategy, judge
from smolcluster.strategies.scaling import FIRST, GROWTH_EVERY, LARGEST, SMALLEST, next_scale

STEPS = 10
STRATEGIES = [("classicdp", 0), ("fsdp", 0), ("fsdp", 1), ("fsdp", 2), ("fsdp", 3)]
SHARES = (4, 2)
OF_FLOAT32 = {"bf16": 1e-2, "fp16": 5e-3}
OF_ITSELF = {"bf16": 5e-3, "fp16": 1e-3}


def trained(
    rank: int, world_size: int, name: str, stage: int, shares: tuple[int, ...], kind: str, micro: int = 64,
    recompute: bool = False, **training: Any,
) -> dict[str, Any]:  # fmt: skip
    """Losses, the final model, and what the state is made of."""
    torch.manual_seed(0)
    model = model_of(kind, seed=5 + rank)
    if recompute:
        model.checkpoint_blocks()
    dtypes = set()
    for parameter in filter(lambda p: p.requires_grad, model.parameters()):
        # The strategy's own hook comes after this one and takes the gradient away.
        parameter.register_post_accumulate_grad_hook(lambda p: dtypes.add(p.grad.dtype))
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage, **training), model)
    results = steps_of(strategy, shares, rank, STEPS, micro)
    dtypes |= {piece.values.dtype for piece in (*strategy.params, *strategy.grads)}
    dtypes |= {moment.dtype for moment in strategy.adamw.exp_avg}
    exported = strategy.export() or {}
    state = {key: value.clone() for key, value in exported.items()}
    strategy.close()
    return {
        "losses": [r.loss for r in results], "scales": [r.loss_scale for r in results],
        "skipped": [r.skipped for r in results], "state": state, "dtypes": dtypes,
    }  # fmt: skip


@functools.cache
def oracle(precision: str, kind: str = "gpt") -> dict[str, Any]:
    return trained(0, 1, "single", 1, (sum(SHARES),), kind, precision=precision)


def job(rank: int, world_size: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return trained(rank, world_size, **arguments)


def run(pool: Pool, **arguments: Any) -> list[dict[str, Any]]:
    return pool.run("smol", 2, job, {"shares": SHARES, "kind": "gpt", **arguments})


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_one_process_stays_near_float32(precision: str) -> None:
    got, exact = oracle(precision), oracle("fp32")
    assert got["dtypes"] == {torch.float32}, "parameters, gradients and moments are float32"
    assert got["losses"] != exact["losses"], "it is another precision indeed"
    assert got["losses"] == pytest.approx(exact["losses"], abs=OF_FLOAT32[precision])
    assert not any(got["skipped"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_every_strategy_equals_one_process(pool: Pool, name: str, stage: int, precision: str) -> None:
    for rank in run(pool, name=name, stage=stage, precision=precision):
        assert rank["losses"] == pytest.approx(oracle(precision)["losses"], abs=OF_ITSELF[precision])
        assert rank["dtypes"] == {torch.float32}


@pytest.mark.parametrize(
    ("name", "stage", "kind"),
    [("classicdp", 0, "wordy gpt"), ("fsdp", 3, "untied gpt"), ("fsdp", 2, "nn"), ("fsdp", 3, "chain")],
)
def test_other_models_and_parted_lookups(pool: Pool, name: str, stage: int, kind: str) -> None:
    for rank in run(pool, name=name, stage=stage, kind=kind, precision="bf16"):
        assert rank["losses"] == pytest.approx(oracle("bf16", kind)["losses"], abs=OF_ITSELF["bf16"])
        assert rank["dtypes"] == {torch.float32}


@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_micro_batches_are_added_up_in_float32(pool: Pool, name: str, stage: int) -> None:
    for rank in run(pool, name=name, stage=stage, micro=1, precision="fp16"):
        assert rank["losses"] == pytest.approx(oracle("fp16")["losses"], abs=OF_ITSELF["fp16"])


@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
@pytest.mark.parametrize(("precision", "micro"), [("fp32", 64), ("bf16", 1)])
def test_recomputed_blocks_change_no_bit(pool: Pool, name: str, stage: int, precision: str, micro: int) -> None:
    plain = run(pool, name=name, stage=stage, precision=precision, micro=micro)
    again = run(pool, name=name, stage=stage, precision=precision, micro=micro, recompute=True)
    for one, other in zip(plain, again, strict=True):
        assert one["losses"] == other["losses"]
        assert one["state"].keys() == other["state"].keys()
        for key, value in one["state"].items():
            assert torch.equal(value, other["state"][key]), key


def test_recomputing_finds_its_unit_though_a_later_one_got_no_gradient() -> None:
    """Nothing but the recomputed call itself tells stage 3 then that backward has come to the block before."""
    losses = []
    for recompute in (False, True):
        model = model_of("deep gpt", seed=1)
        for block in model.transformer.h:
            block.unused = torch.nn.Parameter(torch.ones(3))
        if recompute:
            model.checkpoint_blocks()
        strategy = build_strategy(context_of("fsdp", 0, 1, stage=3), model)
        losses.append([result.loss for result in steps_of(strategy, (4,), 0, 3, micro=2)])
        strategy.close()
    assert losses[0] == losses[1]


# -- what stage 3 gives back, what is compiled ----------------------------------------------------------------------


def after_a_forward(strategy: Any, stored: list[torch.Tensor]) -> tuple[set[int], set[int]]:
    """A step of stage 3: which buckets' memory is there between forward and backward, and which it means to hold."""
    parameters, passage = strategy.parameters, strategy.passage
    fetch, finish, lend = parameters.fetch, passage.finish_forward, passage._lend
    memory: dict[int, StorageWeakRef] = {}
    found: list[tuple[set[int], set[int]]] = []

    def fetched(bucket: Any, exact: bool = False) -> None:
        fetch(bucket, exact)
        memory[bucket.index] = StorageWeakRef(parameters._whole[bucket.index].untyped_storage())

    def finished() -> None:
        finish()
        found.append(({n for n, storage in memory.items() if not storage.expired()}, set(parameters._whole)))

    def lent(tensor: torch.Tensor) -> Any:
        given = lend(tensor)
        if isinstance(given, torch.Tensor):
            stored.append(given)
        return given

    parameters.fetch, passage.finish_forward, passage._lend = fetched, finished, lent
    steps_of(strategy, (3,), 0, 1)
    return found[0]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stage_3_gives_units_back_in_every_precision(precision: str, recompute: bool) -> None:
    model = model_of("deep gpt", seed=1)
    if recompute:
        model.checkpoint_blocks()
    shapes = {tuple(sorted(p.shape)) for p in model.transformer.h.parameters() if p.dim() == 2}
    strategy = build_strategy(context_of("fsdp", 0, 1, stage=3, precision=precision), model)
    stored: list[torch.Tensor] = []
    there, wanted = after_a_forward(strategy, stored)
    strategy.close()
    assert there == wanted
    assert len(wanted) < 5 < len(strategy.layout.buckets)
    assert not [tensor for tensor in stored if tuple(sorted(tensor.shape)) in shapes], "no short copy of a weight"


@pytest.fixture(scope="module")
def compiler() -> None:
    try:
        require_compiler(torch.device("cpu"), "here")
    except ConfigError as error:
        pytest.skip(f"needs a C++ compiler and Python's headers: {error}")


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_blocks_are_equal_in_every_stage_and_leave_no_process_behind() -> None:
    children = psutil.Process().children(recursive=True)
    expected = None
    for stage, compiles in [(0, False), (0, True), (1, True), (2, True), (3, True)]:
        model = model_of("gpt", seed=1)
        names = list(model.state_dict())
        if compiles:
            model.compile_blocks()
        strategy = build_strategy(context_of("fsdp", 0, 1, stage=stage), model)
        losses = [result.loss for result in steps_of(strategy, (6,), 0, 4, micro=3)]
        if stage == 3:
            there, wanted = after_a_forward(strategy, [])
            assert there == wanted
        strategy.close()
        expected = expected or losses
        assert losses == pytest.approx(expected, abs=1e-5)
        assert list(model.state_dict()) == names
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "blocks were compiled indeed"
    assert psutil.Process().children(recursive=True) == children


# -- the scale of the loss ----------------------------------------------------------------------------------------


def overflowing(rank: int, world_size: int, name: str, stage: int, culprit: int, what: str) -> dict[str, Any]:
    """Rank `culprit`'s gradient or loss is infinite in step 1."""
    model = model_of("gpt", seed=1)
    strategy = build_strategy(context_of(name, rank, world_size, stage=stage, precision="fp16"), model)
    plain = model.loss

    def spoiled(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = plain(x, y)
        if what == "loss":
            return loss * torch.inf
        loss.register_hook(lambda grad: grad * torch.inf)
        return loss

    results, kept = [], []
    for step in range(3):
        before = [piece.values.clone() for piece in strategy.params]
        model.loss = spoiled if step == 1 and rank == culprit else plain  # type: ignore[method-assign]
        results.append(strategy.train_step(shares_of(step, SHARES[:world_size], rank, 64), 1e-2))
        kept.append(all(torch.equal(p.values, old) for p, old in zip(strategy.params, before, strict=True)))
    steps = float(strategy.adamw.steps[0])
    state = {s.name: float(s.tensor) for s in strategy.named_slices() if s.name.startswith("optim.loss_scale")}
    strategy.close()
    return {"results": results, "kept": kept, "steps": steps, "state": state}


@pytest.mark.parametrize("what", ["gradient", "loss"])
@pytest.mark.parametrize(("name", "stage"), STRATEGIES)
def test_an_overflow_on_one_rank_leaves_the_step_out_on_all(pool: Pool, name: str, stage: int, what: str) -> None:
    for rank, told in enumerate(pool.run("smol", 2, overflowing, name, stage, 1, what)):
        assert told["kept"] == [False, True, False]
        assert [r.skipped for r in told["results"]] == [False, True, False]
        assert [r.loss_scale for r in told["results"]] == [FIRST, FIRST, FIRST / 2]
        assert all(0 < r.loss < 10 for r in told["results"]), "what is reported is a number"
        assert told["steps"] == 2
        assert told["state"] == ({"optim.loss_scale": FIRST / 2, "optim.loss_scale_good_steps": 1} if rank == 0 else {})


def test_one_process_leaves_a_step_out_too() -> None:
    assert [r.skipped for r in overflowing(0, 1, "single", 1, 0, "gradient")["results"]] == [False, True, False]


def test_the_first_step_after_a_resume_may_be_left_out_too() -> None:
    model = model_of("gpt", seed=1)
    plain = model.loss
    model.loss = lambda x, y: plain(x, y) * torch.inf  # type: ignore[method-assign]
    strategy = build_strategy(context_of("single", 0, 1, precision="fp16"), model)
    batch = shares_of(0, SHARES[:1], 0, 64)
    with pytest.raises(NotFiniteError, match="no loss has been finite yet"):
        strategy.train_step(batch, 1e-2)
    strategy.last_loss = 2.5  # what keeping.resume does
    result = strategy.train_step(batch, 1e-2)
    strategy.close()
    assert (result.skipped, result.loss) == (True, 2.5)


def endless(rank: int, world_size: int) -> tuple[int, str]:
    """Every gradient is infinite: how many steps are left out before it is an error."""
    model = model_of("gpt", seed=1)
    strategy = build_strategy(context_of("fsdp", rank, world_size, precision="fp16"), model)
    plain = model.loss

    def spoiled(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = plain(x, y)
        loss.register_hook(lambda grad: grad * torch.nan)
        return loss

    model.loss = spoiled  # type: ignore[method-assign]
    for step in range(40):
        try:
            strategy.train_step(shares_of(step, SHARES, rank, 64), 1e-2)
        except NotFiniteError as error:
            return step, str(error)
    return 40, ""


def test_what_never_becomes_finite_is_an_error_when_the_scale_is_at_its_smallest(pool: Pool) -> None:
    assert [step for step, _ in pool.run("smol", 2, endless)] == [16, 16]
    assert "the gradient is not finite" in pool.run("smol", 2, endless)[1][1]


def test_the_scale_halves_and_grows() -> None:
    assert next_scale(8.0, 5, skipped=True) == (4.0, 0)
    assert next_scale(SMALLEST, 5, skipped=True) == (SMALLEST, 0)
    assert next_scale(8.0, 5, skipped=False) == (8.0, 6)
    assert next_scale(8.0, GROWTH_EVERY - 1, skipped=False) == (16.0, 0)
    assert next_scale(LARGEST, GROWTH_EVERY - 1, skipped=False) == (LARGEST, 0)


def test_the_verdict_takes_the_scale_out() -> None:
    plain = judge([[6.0, 2, 0, 9.0], [2.0, 2, 0, 16.0]], 0.5)
    scaled = judge([[6.0, 2, 0, 9.0 * 64], [2.0, 2, 0, 16.0 * 64]], 0.5, loss_scale=8.0, skippable=True)
    assert (scaled.loss, scaled.grad_norm, scaled.scale) == (plain.loss, plain.grad_norm, plain.scale / 8)
    assert not plain.skip
    assert not scaled.skip
    assert judge([[6.0, 2, 1, float("inf")]], None, 8.0, skippable=True).skip
    with pytest.raises(NotFiniteError):
        judge([[6.0, 2, 1, float("inf")]], None, 1.0, skippable=False)


def resumed(rank: int, world_size: int, given: list[Any] | None, precision: str) -> tuple[list[Any], float]:
    from smolcluster.runtime.slices import Slice

    strategy = build_strategy(context_of("fsdp", rank, world_size, precision=precision), model_of("gpt", seed=1))
    if given is None:  # a step left out, and a good one
        strategy.loss_scale.take(skipped=True)
        strategy.loss_scale.take(skipped=False)
    else:
        strategy.load_slices(Slice(*fields) for fields in given)
    parts = [(s.name, s.shape, s.box, s.tensor.clone()) for s in strategy.named_slices()]
    scale = strategy.loss_scale.value
    strategy.close()
    return parts, scale


def test_a_checkpoint_carries_the_scale(pool: Pool) -> None:
    parts = [part for mine, _ in pool.run("smol", 2, resumed, None, "fp16") for part in mine]
    for mine, scale in pool.run("smol", 2, resumed, parts, "fp16"):
        assert scale == FIRST / 2
        counts = [float(tensor) for name, _, _, tensor in mine if name == "optim.loss_scale_good_steps"]
        assert counts in ([1.0], [])
    assert [scale for _, scale in pool.run("smol", 2, resumed, parts, "fp32")] == [1.0, 1.0]


def test_a_run_that_had_no_scale_goes_on_with_a_new_one(pool: Pool) -> None:
    parts = [part for mine, _ in pool.run("smol", 2, resumed, None, "fp32") for part in mine]
    assert [scale for _, scale in pool.run("smol", 2, resumed, parts, "fp16")] == [FIRST, FIRST]
