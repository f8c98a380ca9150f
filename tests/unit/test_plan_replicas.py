"""Pipelines side by side, from the files to the plan: who stands where, who takes how much, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from smolcluster.errors import ConfigError
from smolcluster.plan.elastic import plan_for
from smolcluster.plan.grid import Grid
from smolcluster.plan.make import make_plan
from smolcluster.plan.profile import Profile
from smolcluster.plan.types import Plan
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve
from smolcluster.spec.serving import resolve_any_serving

# A head that weighs next to nothing, so that layers are what counts.
EVEN = ("model.vocab_size=64", "model.num_layers=12", "training.batch_size=32")
TWO = "replicas=2"


def inventory(machines: dict[str, str], networks: dict[str, tuple[int, str]]) -> str:
    """`networks`: speed and members of each."""
    lines = ["schema: 1", "name: lan", "machines:", *(f"  {name}: {{{more}}}" for name, more in machines.items())]
    lines.append("networks:")
    for number, (name, (mbps, members)) in enumerate(networks.items()):
        addresses = ", ".join(f"{member}: 127.0.{number + 1}.{ord(member[0])}" for member in members.split())
        lines.append(f"  {name}: {{medium: ethernet, speed_mbps: {mbps}, private: true, members: {{{addresses}}}}}")
    return "\n".join(lines) + "\n"


def lan(names: str, **more: str) -> str:
    """Machines on one wire; `more` says what else of some of them."""
    machines = {name: ", ".join(["connection: local", *filter(None, [more.get(name)])]) for name in names.split()}
    return inventory(machines, {"lan": (1000, names)})


def planned(
    folder: Path, cluster: str, *overrides: str, nodes: tuple[str, ...] = (), profile: Profile | None = None,
    file: str = "", model: str = "gpt",
) -> Plan:  # fmt: skip
    path, config = folder / "lan.smol.yml", folder / "mp.yaml"
    path.write_text(cluster)
    config.write_text(file)
    given: Any = {"cluster_config": config} if file else {}
    found = resolve(Request(path, "mp", model=model, nodes=nodes, overrides=overrides, **given))
    return make_plan(found.cluster, found.run, found.notes, found.inputs, profile)


def refused(folder: Path, *arguments: Any, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        planned(folder, *arguments, **more)
    return [str(problem).replace(str(folder), "").replace("\n", " ") for problem in caught.value.problems]


def names(plan: Plan) -> list[str]:
    return [rank.node for rank in plan.ranks]


def samples(plan: Plan) -> list[int]:
    return [rank.samples for rank in plan.ranks]


# -- the grid ----------------------------------------------------------------------------------------------------------


def test_a_rank_stands_in_one_pipeline_at_one_stage() -> None:
    grid = Grid(3, 2)
    for rank in range(6):
        number, stage = grid.pipeline_of(rank), grid.stage_of(rank)
        assert grid.pipeline(number)[stage] == grid.stage(stage)[number] == rank
        assert grid.pipeline(number)[0] == grid.feeder_of(rank)


def test_four_machines_make_two_pipelines(tmp_path: Path) -> None:
    plan = planned(tmp_path, lan("a b c d"), *EVEN, TWO)
    assert (plan.world_size, plan.replicas, plan.shape) == (4, 2, "CHAIN")
    assert plan.stages == ((0, 6), (6, 12))
    assert plan.global_batch == 32
    assert samples(plan) == [16, 0, 16, 0]
    assert plan.run.training.grad_accumulation == 8  # four for each of a pipeline's two stages
    state = [memory.params_bytes for memory in plan.memory]
    assert state[:2] == state[2:]
    assert [(rank.local_rank, len(rank.peers)) for rank in plan.ranks] == [(0, 3)] * 4
    [said, moved] = [note for note in plan.notes if note.startswith("mp:")]
    assert said == (
        "mp: layers 0:6 on a and c, 6:12 on b and d; a, b take 16 samples; c, d take 16 samples of a step; with 8"
        " micro-batches a stage waits 11 % of a step"
    )
    hidden = 16 * plan.run.model.max_seq_len * plan.run.model.model_dim * 4 / 1e6  # type: ignore[union-attr]
    largest = max(state) / 1e6
    assert f"{hidden:.3g} MB from stage to stage and back, and {largest:.3g} MB of gradients" in moved


def test_without_replicas_a_plan_is_what_it_was(tmp_path: Path) -> None:
    text = planned(tmp_path, lan("a b c d"), *EVEN).to_json()
    assert text.count('"replicas"') == 1  # of checkpoints
    assert planned(tmp_path, lan("a b c d"), *EVEN, "replicas=1") == planned(tmp_path, lan("a b c d"), *EVEN)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    cluster = lan("a b c d e f")
    one, other = (planned(tmp_path, cluster, *EVEN, TWO).to_json() for _ in range(2))
    assert one == other
    assert Plan.model_validate_json(one).to_json() == one


def test_pictures_too(tmp_path: Path) -> None:
    plan = planned(tmp_path, lan("a b c d"), TWO, model="nn")
    assert (plan.stages, plan.replicas) == (((0, 1), (1, 2)), 2)


# -- wires -------------------------------------------------------------------------------------------------------------

# a and b on a fast wire, c and d on another; between the pairs a slow one.
PAIRS = inventory(
    dict.fromkeys("abcd", "connection: local"),
    {"slow": (100, "a b c d"), "left": (40000, "a b"), "right": (40000, "c d")},
)


def test_fast_wires_go_to_whatever_moves_more_bytes(tmp_path: Path) -> None:
    """Many samples of a small model: within pipelines. Few samples of a large one: between replicas."""
    small = ("model.model_dim=64", "model.num_heads=2", "model.ff_dim=128", "training.batch_size=512")
    plan = planned(tmp_path, PAIRS, *EVEN, TWO, *small)
    assert names(plan) == ["a", "b", "c", "d"]
    large = ("model.model_dim=1024", "model.num_heads=2", "model.ff_dim=4096", "training.batch_size=2")
    plan = planned(tmp_path, PAIRS, *EVEN, TWO, *large)
    assert [plan.ranks[rank].node for rank in plan.grid.stage(0)] == ["a", "b"]
    assert [plan.ranks[rank].node for rank in plan.grid.stage(1)] == ["c", "d"]
    assert "mp: layers 0:6 on a and b, 6:12 on c and d" in "\n".join(plan.notes)


def test_wires_decide_whatever_order_machines_are_named_in(tmp_path: Path) -> None:
    small = ("model.model_dim=64", "model.num_heads=2", "model.ff_dim=128", "training.batch_size=512")
    plan = planned(tmp_path, PAIRS, *EVEN, TWO, *small, nodes=("c", "a", "b", "d"))
    assert plan.ranks[0].node == "c"
    assert {frozenset(names(plan)[:2]), frozenset(names(plan)[2:])} == {frozenset("ab"), frozenset("cd")}


def test_more_machines_than_all_ways_can_be_looked_at_for(tmp_path: Path) -> None:
    """Five pairs on fast wires of their own, named in an order in which neither simple way has them together."""
    pairs = ["ab", "cd", "ef", "gh", "ij"]
    wires = {f"fast{pair}": (40000, " ".join(pair)) for pair in pairs}
    cluster = inventory(
        dict.fromkeys("adfbhjceig", "connection: local"), {"slow": (100, "a b c d e f g h i j"), **wires}
    )
    large = ("model.model_dim=1024", "model.num_heads=2", "model.ff_dim=4096", "training.batch_size=2")
    plan = planned(tmp_path, cluster, *EVEN, TWO, *large)
    assert len(plan.stages) == 5
    assert sorted("".join(sorted(names(plan)[rank] for rank in plan.grid.stage(s))) for s in range(5)) == pairs


# -- unlike machines ---------------------------------------------------------------------------------------------------


def test_unlike_machines_lose_no_time_to_each_other(tmp_path: Path) -> None:
    """Two fast, two slow: alike ones are replicas, or each pipeline is of one kind and takes its share."""
    plan = planned(
        tmp_path, lan("a b c d"), *EVEN, TWO, profile=Profile(schema=1, speeds={"a": 3, "b": 1, "c": 3, "d": 1})
    )
    speed = {"a": 3, "b": 1, "c": 3, "d": 1}
    sizes = [stop - start for start, stop in plan.stages]
    paces = [
        min(speed[plan.ranks[rank].node] / size for rank, size in zip(plan.grid.pipeline(number), sizes, strict=True))
        for number in range(2)
    ]
    # Eight of twelve layers' speed is the most there is.
    assert math.fsum(paces) == pytest.approx(8 / 12, rel=0.06)
    shares = [count for count in samples(plan) if count]
    assert shares[0] / sum(shares) == pytest.approx(paces[0] / sum(paces), abs=0.05)


def test_balance_weighs_pipelines_where_stages_are_given(tmp_path: Path) -> None:
    file = "stages: [{host: [a, c], layers: '0:6'}, {host: [b, d], layers: '6:12'}]\nbalance: {a: 3, b: 3}\n"
    plan = planned(tmp_path, lan("a b c d"), *EVEN, file=file)
    assert names(plan) == ["a", "b", "c", "d"]
    assert samples(plan) == [24, 0, 8, 0]


def test_the_smallest_replica_s_memory_is_what_a_stage_has(tmp_path: Path) -> None:
    large = ("model.model_dim=2048", "model.num_heads=4", "model.ff_dim=8192")
    plan = planned(tmp_path, lan("a b c d", a="memory_mb: 16000", b="memory_mb: 4500"), *EVEN, TWO, *large)
    for stage, (start, stop) in enumerate(plan.stages):
        if "b" in {plan.ranks[rank].node for rank in plan.grid.stage(stage)}:
            assert stop - start < 6
    [problem] = refused(tmp_path, lan("a b c d", **dict.fromkeys("abcd", "memory_mb: 3000")), *EVEN, TWO, *large)
    assert "there is no split that fits" in problem
    assert "a and c 3000" in problem


# -- stages by hand ----------------------------------------------------------------------------------------------------

BY_HAND = "stages:\n  - {host: [a, b], layers: '0:2'}\n  - {host: [c, d], layers: '2:12'}\n"


def test_hosts_of_stages_are_pipelines(tmp_path: Path) -> None:
    plan = planned(tmp_path, lan("a b c d"), *EVEN, file=BY_HAND)
    assert (plan.stages, plan.replicas) == (((0, 2), (2, 12)), 2)
    assert names(plan) == ["a", "c", "b", "d"]
    assert "as `stages` says" in "\n".join(plan.notes)
    assert planned(tmp_path, lan("a b c d"), *EVEN, "replicas=2", file=BY_HAND).stages == plan.stages


def test_what_is_wrong_with_hosts_is_told_at_once(tmp_path: Path) -> None:
    file = "stages:\n  - {host: [a, b], layers: '0:2'}\n  - {host: c, layers: '2:12'}\n"
    [problem] = refused(tmp_path, lan("a b c d"), *EVEN, file=file)
    assert "3: stages[1].host: c: 1 machine, and 0:2 has 2 machines" in problem
    assert "name as many for all layers" in problem
    [problem] = refused(tmp_path, lan("a b c d"), *EVEN, "replicas=4", file=BY_HAND)
    assert "replicas: says 4, but `stages` names 2 machines for the same layers" in problem
    file = "stages:\n  - {host: [a, b], layers: '0:2'}\n  - {host: [c, b], layers: '2:12'}\n"
    assert "stages[1].host: b is named twice" in refused(tmp_path, lan("a b c d"), *EVEN, file=file)[0]


def test_machines_named_later_replace_stages(tmp_path: Path) -> None:
    plan = planned(tmp_path, lan("a b c d"), *EVEN, file=BY_HAND, nodes=("d", "a"))
    assert (names(plan), plan.replicas) == (["d", "a"], 1)


def test_stages_of_an_inventory_give_way_to_replicas(tmp_path: Path) -> None:
    """They are for serving too, and name one machine for each range."""
    stages = "[{host: a, layers: '0:3'}, {host: b, layers: '3:6'}, {host: c, layers: '6:9'}, {host: d, layers: '9:12'}]"
    cluster = lan("a b c d") + f"defaults:\n  stages: {stages}\n"
    assert planned(tmp_path, cluster, *EVEN).replicas == 1
    plan = planned(tmp_path, cluster, *EVEN, TWO)
    assert (plan.replicas, plan.stages) == (2, ((0, 6), (6, 12)))
    assert any("layers shared out anew" in note and "as there are pipelines" in note for note in plan.notes)


def test_one_pipeline_serves_a_model(tmp_path: Path) -> None:
    """The same file goes for both: what is for training alone is said to be."""
    path, file = tmp_path / "lan.smol.yml", tmp_path / "mp.yaml"
    path.write_text(lan("a b c d"))
    file.write_text(BY_HAND + "replicas: 2\n")
    served = resolve_any_serving(Request(path, "inference", cluster_config=file, model=""))
    assert [(stage.node, stage.start, stage.stop) for stage in served.serve.stages] == [("a", 0, 2), ("c", 2, 12)]
    told = [note.rpartition("mp.yaml:")[2] for note in served.notes if "one pipeline serves a model" in note]
    assert len(told) == 3


# -- what does not go --------------------------------------------------------------------------------------------------


def test_machines_that_nobody_named_are_left_out_of_an_odd_number(tmp_path: Path) -> None:
    plan = planned(tmp_path, lan("a b c d e"), *EVEN, TWO)
    assert sorted(names(plan)) == ["a", "b", "c", "d"]
    assert "mp: 5 ranks cannot form 2 pipelines of as many stages, so e is left out" in plan.notes


def test_a_machine_s_ranks_are_not_parted(tmp_path: Path) -> None:
    plan = planned(tmp_path, lan("a b c", c="ranks: 2"), *EVEN, TWO)
    assert sorted(names(plan)) == ["a", "b", "c", "c"]
    assert sorted(rank.local_rank for rank in plan.ranks if rank.node == "c") == [0, 1]


@pytest.mark.parametrize(
    ("nodes", "override", "what", "fix"),
    [
        ("abcde", TWO, "5 ranks (a, b, c, d, e) cannot form 2 pipelines", "--nodes a,b,c,d, or write replicas: 1"),
        ("abc", TWO, "take 4 ranks, and there are 3 (a, b, c)", "write replicas: 1, or take --strategy classicdp"),
        ("abcd", "replicas=4", "take 8 ranks, and there are 4", "write replicas: 1 or 2, or take --strategy"),
    ],
)  # fmt: skip
def test_named_machines_that_form_no_pipelines(tmp_path: Path, nodes: str, override: str, what: str, fix: str) -> None:
    [problem] = refused(tmp_path, lan("a b c d e"), *EVEN, override, nodes=tuple(nodes))
    assert what in problem
    assert fix in problem


def test_too_few_layers_or_samples(tmp_path: Path) -> None:
    [problem] = refused(tmp_path, lan("a b c d e f"), TWO, "model.num_layers=2", nodes=tuple("abcdef"))
    assert "6 ranks in 2 pipelines are 3 stages each, and there are 2 layers" in problem
    assert "write replicas: 3" in problem
    [problem] = refused(tmp_path, lan("a b c d"), TWO, "training.batch_size=1")
    assert "2 pipelines cannot share a batch of 1 (training.batch_size)" in problem
    # Nobody named them: those beyond the layers of all pipelines are left out.
    assert planned(tmp_path, lan("a b c d e f"), TWO, "model.num_layers=2").world_size == 4


def test_replicas_are_no_word_of_other_strategies(tmp_path: Path) -> None:
    path = tmp_path / "lan.smol.yml"
    path.write_text(lan("a b"))
    with pytest.raises(ConfigError, match="is a key of mp"):
        resolve(Request(path, "fsdp", overrides=(TWO,)))


# -- the wire's format -------------------------------------------------------------------------------------------------


def test_replicas_sum_in_the_wire_s_format(tmp_path: Path) -> None:
    assert planned(tmp_path, lan("a b c d"), *EVEN, TWO, "wire=int8").wire == "int8"
    plan = planned(tmp_path, lan("a b c d"), *EVEN, "wire=int8")
    assert plan.wire == "fp32"
    assert "wire int8: mp has no gradients that ranks sum, so this does nothing" in plan.notes


# -- without a rank ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "replicas", "stages"),
    [((0, 1, 2, 3, 4), 1, 5), ((0, 1, 3, 4), 2, 2), ((1, 2, 4), 1, 3), ((0, 5), 1, 2), ((3,), 1, 1)],
)
def test_those_who_are_left_form_whole_pipelines(
    tmp_path: Path, members: tuple[int, ...], replicas: int, stages: int
) -> None:
    plan = planned(tmp_path, lan("a b c d e f"), *EVEN, TWO)
    assert plan.grid == Grid(3, 2)
    fewer = plan_for(plan, members)
    assert fewer.grid == Grid(stages, replicas)
    assert len(fewer.stages) == stages
    assert fewer.stages[-1][1] == 12
    assert sum(samples(fewer)) == 32
    assert [bool(count) for count in samples(fewer)] == [rank % stages == 0 for rank in range(len(members))]
    assert [names(fewer)[rank] for rank in range(len(members))] == [names(plan)[old] for old in members]
    assert Plan.model_validate_json(fewer.to_json()) == fewer


def test_as_many_as_whole_layers_allow(tmp_path: Path) -> None:
    """Two layers on three ranks: three replicas of all of it."""
    fewer = plan_for(planned(tmp_path, lan("a b c d"), TWO, model="nn"), (0, 1, 3))
    assert (fewer.grid, fewer.stages) == (Grid(1, 3), ((0, 2),))


def test_those_who_are_left_go_by_the_smaller_memory(tmp_path: Path) -> None:
    plan = planned(tmp_path, lan("a b c d e f"), *EVEN, TWO)
    ranks = [rank.model_copy(update={"memory_mb": 460 if rank.rank == 4 else None}) for rank in plan.ranks]
    small = plan.model_copy(update={"ranks": tuple(ranks)})
    sizes = [stop - start for start, stop in plan_for(small, (0, 1, 3, 4)).stages]
    assert sizes[1] < 6
    [even] = {stop - start for start, stop in plan_for(plan, (0, 1, 3, 4)).stages}
    assert even == 6
