"""Layers of mp from the files to the plan: whose, by which speeds, and what is said where that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.data.prepare import smallest_step
from smolcluster.errors import ConfigError
from smolcluster.plan.elastic import plan_for
from smolcluster.plan.make import make_plan
from smolcluster.plan.pipeline import _weight_of, training_stages
from smolcluster.plan.profile import Profile, concerns
from smolcluster.plan.stages import Machine, need_mb
from smolcluster.plan.types import Plan
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve
from tests.unit.balanced_plans import LAN

# A head that weighs next to nothing, so that layers are what counts.
EVEN = ("model.vocab_size=64", "model.num_layers=12", "training.batch_size=32")


def planned(
    folder: Path,
    *overrides: str,
    nodes: tuple[str, ...] = (),
    profile: Profile | None = None,
    file: str = "",
    model: str = "gpt",
) -> Plan:
    inventory, cluster = folder / "lan.smol.yml", folder / "mp.yaml"
    inventory.write_text(LAN)
    cluster.write_text(file)
    request = Request(
        inventory, "mp", model=model, nodes=nodes, overrides=overrides, cluster_config=cluster if file else None
    )
    found = resolve(request)
    if profile is not None and not concerns(profile, found.cluster, found.run):
        profile = None
    return make_plan(found.cluster, found.run, found.notes, found.inputs, profile)


def refused(folder: Path, *overrides: str, **more: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        planned(folder, *overrides, **more)  # type: ignore[arg-type]
    return [str(problem).replace(str(folder), "").replace("\n", " ") for problem in caught.value.problems]


def by_hand(**speeds: float) -> Profile:
    return Profile(schema=1, speeds=speeds)


def sizes(plan: Plan) -> list[int]:
    return [stop - start for start, stop in plan.stages]


# -- speeds -----------------------------------------------------------------------------------------------------------


def test_speeds_written_by_hand_weigh_layers(tmp_path: Path) -> None:
    plan = planned(tmp_path, *EVEN, profile=by_hand(a=1, b=3), nodes=("a", "b"))
    assert sizes(plan) == [3, 9]
    assert "mp: by profile.json: a 1, b 3" in plan.notes


def test_a_machine_s_speed_is_that_of_all_its_ranks(tmp_path: Path) -> None:
    assert sizes(planned(tmp_path, *EVEN, profile=by_hand(a=2, b=2, c=2))) == [4, 4, 2, 2]
    # The weights of `balance` are of a rank, as everywhere.
    assert sizes(planned(tmp_path, *EVEN, "balance={a: 2, b: 2, c: 2}")) == [3, 3, 3, 3]


def test_speeds_of_some_machines_tell_nothing(tmp_path: Path) -> None:
    plan = planned(tmp_path, *EVEN, profile=by_hand(a=4000.0), nodes=("a", "b"))
    assert sizes(plan) == [6, 6]
    assert "profile.json has no speed of b: layers go by memory and number alone" in plan.notes


def test_auto_needs_measured_speeds(tmp_path: Path) -> None:
    [problem] = refused(tmp_path, *EVEN, "balance=auto")
    assert "balance: auto needs measured speeds, and there is no profile.json" in problem
    profile = by_hand(a=1, b=3)
    assert sizes(planned(tmp_path, *EVEN, "balance=auto", profile=profile, nodes=("a", "b"))) == [3, 9]


def test_given_stages_are_kept_whatever_the_speeds(tmp_path: Path) -> None:
    file = "stages: [{host: a, layers: '0:2'}, {host: b, layers: '2:12'}]\nbalance: {a: 2}\n"
    plan = planned(tmp_path, *EVEN, file=file, profile=by_hand(a=1, b=1))
    assert plan.stages == ((0, 2), (2, 12))
    assert "balance: stages say who has which layers, so this does nothing" in plan.notes


# -- micro-batches ----------------------------------------------------------------------------------------------------


def test_micro_batches_follow_the_ranks(tmp_path: Path) -> None:
    assert planned(tmp_path, *EVEN).run.training.grad_accumulation == 16  # four for each of four ranks


def test_no_more_micro_batches_wait_than_there_are_samples(tmp_path: Path) -> None:
    plan = planned(tmp_path, *EVEN, "training.grad_accumulation=100", "training.batch_size=3", nodes=("a", "b"))
    assert "mp: layers a 0:6, b 6:12; with 3 micro-batches a stage waits 25 % of a step" in plan.notes


# -- the first rank ---------------------------------------------------------------------------------------------------


def test_the_first_machine_has_all_its_ranks_and_computes_as_the_others_do(tmp_path: Path) -> None:
    """It is no server: a server recomputes nothing, compiles nothing, and has one rank."""
    plan = planned(tmp_path, *EVEN, nodes=("c", "a"))
    assert [(rank.node, rank.role) for rank in plan.ranks] == [("c", "worker"), ("c", "worker"), ("a", "worker")]
    assert len(planned(tmp_path, *EVEN, nodes=("c",)).stages) == 2
    [problem] = refused(tmp_path, *EVEN, nodes=("a",))
    assert "mp needs two ranks to split the layers over; only a takes part" in problem


def test_a_corpus_of_one_batch_is_enough(tmp_path: Path) -> None:
    assert smallest_step(planned(tmp_path, *EVEN).run) == 32


# -- what is wrong ----------------------------------------------------------------------------------------------------


def test_too_few_layers_for_the_ranks(tmp_path: Path) -> None:
    """Fewer machines is an advice that helps: with their ranks, not their number."""
    [problem] = refused(tmp_path, "model.num_layers=3", nodes=("a", "b", "c"))
    assert "3 layers cannot be trained on 4 ranks" in problem
    assert "name fewer machines: --nodes a,b" in problem
    assert len(planned(tmp_path, "model.num_layers=3", nodes=("a", "b")).stages) == 2
    with pytest.raises(ConfigError, match=r"machines\.c\.ranks"):
        training_stages(planned(tmp_path, "model.num_layers=2", nodes=("a", "b")).run, [Machine("c")] * 3)


def test_machines_that_nobody_named_are_left_out_with_all_their_ranks(tmp_path: Path) -> None:
    plan = planned(tmp_path, "model.num_layers=3")
    assert [rank.node for rank in plan.ranks] == ["a", "b"]
    assert "mp: the model has 3 layers, so c is left out" in plan.notes


def test_everything_that_is_wrong_with_stages_is_told_at_once(tmp_path: Path) -> None:
    file = (
        "stages:\n  - {host: a, layers: '0:2'}\n  - {host: a, layers: '2:4'}\n  - {host: d, layers: '3:7'}\n"
        "balance: {x: 1}\n"
    )
    problems = refused(tmp_path, file=file)
    assert [problem.partition(":")[2].split(" fix:")[0].strip() for problem in problems] == [
        "1: stages: the stages end at layer 7, the model has 6",
        "3: stages[1].host: a is named twice",
        '4: stages[2].host: there is no machine "d" in the inventory',
        "4: stages[2].layers: 3:7 does not go on at layer 4 (ranges are half-open)",
    ]


def test_a_range_that_is_none(tmp_path: Path) -> None:
    [problem] = refused(tmp_path, file="stages: [{host: a, layers: '2'}, {host: b, layers: '2:6'}]\n")
    assert 'stages[0].layers: must be a range of layers, not "2"' in problem
    assert 'write "0:4" for layers 0 to 3' in problem


def test_machines_named_later_replace_stages_and_that_is_said(tmp_path: Path) -> None:
    file = "stages: [{host: a, layers: '0:2'}, {host: b, layers: '2:12'}]\n"
    plan = planned(tmp_path, *EVEN, file=file, nodes=("b", "a"))
    assert plan.stages == ((0, 6), (6, 12))
    assert any("stages: said a, b, taken: b, a (the later layer wins)" in note for note in plan.notes)


def test_too_little_memory_for_given_stages(tmp_path: Path) -> None:
    file = "stages: [{host: a, layers: '0:3'}, {host: b, layers: '3:6'}]\n"
    big = ("model.model_dim=4096", "model.num_heads=4", "model.ff_dim=16384")
    [problem] = refused(tmp_path, *big, file=file)
    assert "machines.a.memory_mb: the model's state needs" in problem
    assert "give it fewer layers in `stages`" in problem


# -- without a rank ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [(0, 1, 3), (1, 2, 3), (0, 3), (2,)])
def test_who_is_left_has_all_layers_and_the_whole_batch(tmp_path: Path, members: tuple[int, ...]) -> None:
    plan = planned(tmp_path, *EVEN, "balance={a: 4}")
    fewer = plan_for(plan, members)
    assert fewer.world_size == len(members) == len(fewer.stages)
    assert fewer.stages[0][0] == 0
    assert fewer.stages[-1][1] == 12
    assert all(stop > start for start, stop in fewer.stages)
    assert all(one[1] == other[0] for one, other in zip(fewer.stages, fewer.stages[1:], strict=False))
    assert [rank.samples for rank in fewer.ranks] == [32, *(0 for _ in members[1:])]
    assert [memory.rank for memory in fewer.memory] == list(range(len(members)))


def with_memory(plan: Plan, *memory_mb: int | None) -> Plan:
    ranks = [rank.model_copy(update={"memory_mb": m}) for rank, m in zip(plan.ranks, memory_mb, strict=True)]
    return plan.model_copy(update={"ranks": tuple(ranks)})


def test_ranks_have_their_part_of_a_machine_s_memory(tmp_path: Path) -> None:
    assert [rank.memory_mb for rank in planned(tmp_path, *EVEN).ranks] == [8000, None, None, None]


def test_those_who_are_left_take_what_their_memory_holds(tmp_path: Path) -> None:
    plan = planned(tmp_path, *EVEN)
    assert sizes(plan) == [3, 3, 3, 3]
    assert sizes(plan_for(plan, (0, 1))) == [6, 6]
    assert sizes(plan_for(with_memory(plan, 8000, 8000, 0, 0), (0, 1))) == [6, 6]
    # Six layers and the embeddings do not fit there any more; what fits is taken, and no less.
    weight = _weight_of(plan.run, plan.run.model, 2)  # type: ignore[arg-type]
    five = need_mb(weight, 0, 5)
    assert five < need_mb(weight, 0, 6)
    assert sizes(plan_for(with_memory(plan, five, None, None, None), (0, 1))) == [5, 7]
    assert sizes(plan_for(with_memory(plan, None, need_mb(weight, 9, 12), None, None), (0, 1))) == [9, 3]


def test_a_run_that_fits_nobody_who_is_left_ends_and_says_so(tmp_path: Path) -> None:
    plan = planned(tmp_path, *EVEN)
    with pytest.raises(ConfigError) as caught:
        plan_for(with_memory(plan, 420, 420, None, None), (0, 1))
    [problem] = caught.value.problems
    assert "there is no split that fits: a 420, b 420" in problem.what
    assert "start the lost machine again" in problem.fix


def test_timeout_is_the_deadline_of_a_step(tmp_path: Path) -> None:
    assert planned(tmp_path, *EVEN).run.step_timeout_s == 300
    assert planned(tmp_path, *EVEN, file="timeout: 45\n").run.step_timeout_s == 45
