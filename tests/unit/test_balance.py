"""Shares, nodes and wire formats by measured speeds: pure decisions, and the notes that tell them."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolcluster.plan.predict import predict
from smolcluster.plan.profile import LinkSpeed, Profile
from smolcluster.plan.shares import Cost, quickest
from smolcluster.plan.speeds import cost_of
from smolcluster.plan.types import Plan
from smolcluster.spec.run import RunSpec
from tests.unit.balanced_plans import LAN, LOCAL, NODES, links_of, of_run, planned, resolved

costs = st.lists(st.builds(Cost, sample_s=st.floats(1e-4, 10.0), update_s=st.floats(0.0, 1.0)), min_size=1, max_size=6)


# -- shares -----------------------------------------------------------------------------------------------------------


@given(total=st.integers(1, 200), costs=costs)
def test_shares_are_all_there_and_nobody_is_left_out(total: int, costs: list[Cost]) -> None:
    parts = quickest(total, costs)
    assert sum(parts) == total
    assert len(parts) == len(costs)
    assert min(parts) >= (1 if total >= len(costs) else 0)


@given(total=st.integers(3, 9), costs=st.lists(st.builds(Cost, st.floats(0.01, 10.0)), min_size=3, max_size=3))
def test_no_other_shares_are_quicker(total: int, costs: list[Cost]) -> None:
    def slowest(parts: tuple[int, ...]) -> float:
        return max(cost.step_s(mine) for cost, mine in zip(costs, parts, strict=True))

    every = [p for p in itertools.product(range(1, total + 1), repeat=3) if sum(p) == total]
    assert slowest(quickest(total, costs)) == min(map(slowest, every))


@given(total=st.integers(2, 200), slow=st.floats(0.01, 10.0), times=st.floats(1.0, 20.0))
def test_who_is_faster_has_no_less(total: int, slow: float, times: float) -> None:
    few, many = quickest(total, [Cost(slow), Cost(slow / times)])
    assert many >= few - 1  # of equal ranks the lower has the odd one
    again, more = quickest(total, [Cost(slow), Cost(slow / times / 2)])
    assert more >= many
    assert again <= few


def test_equal_ranks_have_equal_shares_and_the_lower_one_more() -> None:
    assert quickest(24, [Cost(0.1)] * 3) == (8, 8, 8)
    assert quickest(25, [Cost(0.1, 0.01)] * 3) == (9, 8, 8)


def test_a_rank_twice_as_slow_has_half() -> None:
    assert quickest(25, [Cost(1), Cost(1), Cost(2)]) == (10, 10, 5)


# -- the prediction ---------------------------------------------------------------------------------------------------


@functools.cache
def run_of(strategy: str = "classicdp", stage: int = 0, bound: int = 0) -> RunSpec:
    return resolved(LOCAL, strategy).run.model_copy(update={"fsdp_stage": stage, "staleness_bound": bound})


def step(run: RunSpec, count: int, samples: int, sample_s: float, mbps: float, params: int = 1_000_000) -> Any:
    names = [f"n{i}" for i in range(count)]
    return predict(run, params, "fp32", names, [Cost(sample_s)] * count, [samples] * count, lambda a, b: (mbps, 0.0))


def test_one_rank_waits_for_no_wire() -> None:
    assert step(run_of(), 1, 4, 0.5, 1.0).step_s == 2.0


def test_what_backward_hides_is_not_waited_for() -> None:
    # 2 x 2/3 x 32 MB over 100 Mbit/s: 3.413 s. Of 60 s of computing 40 are backward: all hides but the last bucket.
    whole = 2 * 2 / 3 * 32 * 8 / 100
    assert step(run_of(), 3, 60, 1.0, 100.0, 8_000_000).wire_s == pytest.approx(whole / 8, rel=3e-3)
    # With 3 s of computing backward takes 2: the first of eight buckets leaves after an eighth of that.
    assert step(run_of(), 3, 3, 1.0, 100.0, 8_000_000).wire_s == pytest.approx(whole - 2 * 7 / 8, rel=3e-3)
    # Stage 1 scatters behind backward, and gathers what it has updated when that is over.
    assert step(run_of("fsdp", 1), 3, 60, 1.0, 100.0, 8_000_000).wire_s == pytest.approx(whole * 9 / 16, rel=3e-3)


def test_a_small_model_travels_in_few_buckets() -> None:
    # 0.4 MB is one bucket, which leaves when backward is over: nothing hides it.
    few = step(run_of(), 3, 60, 1.0, 100.0, 100_000)
    assert few.wire_s == pytest.approx(2 * 2 / 3 * 0.4 * 8 / 100, rel=1e-3)


@settings(max_examples=50)
@given(
    mbps=st.floats(1.0, 1e5), times=st.floats(1.0, 100.0), count=st.integers(2, 5), stage=st.integers(0, 3),
    bound=st.integers(0, 5),
)  # fmt: skip
def test_a_faster_wire_is_never_slower(mbps: float, times: float, count: int, stage: int, bound: int) -> None:
    run = run_of("fsdp", stage, bound if stage < 3 else 0)
    slow, fast = (step(run, count, 4, 0.05, speed) for speed in (mbps, mbps * times))
    assert fast.step_s <= slow.step_s
    assert fast.compute_s == slow.compute_s


def test_a_round_trip_is_paid_for_each_hop() -> None:
    run, names = run_of(), ["a", "b"]
    predicted = predict(run, 1, "fp32", names, [Cost(0.0)] * 2, [1, 1], lambda a, b: (1e9, 2.0))
    assert predicted.wire_s == pytest.approx(4 * 0.001)  # two of the one bucket; looked up rows, and numbers, after it


def bounded(bound: int, compute_s: float, wire_s: float, rtt_s: float) -> float:
    """A step of two ranks: each computes so long, sends its 4 MB (half a gradient, half the weights) and waits."""
    run, mbps = run_of("classicdp", bound=bound), 32 / wire_s
    costs, link = [Cost(compute_s)] * 2, (mbps, rtt_s * 1000)
    return predict(run, 1_000_000, "fp32", ["a", "b"], costs, [1, 1], lambda a, b: link).step_s


@pytest.mark.parametrize(
    ("bound", "compute_s", "wire_s", "rtt_s", "step_s"),
    [
        (1, 2.0, 1.0, 0.0, 2.0),  # sent while another step is computed
        (1, 1.0, 2.0, 0.0, 2.0),  # computed while another step is sent
        (1, 1.0, 0.5, 4.5, 3.0),  # a gradient there and weights back take six seconds, in which two steps are begun
        (5, 1.0, 0.5, 4.5, 1.0),  # or six
        (2, 1.0, 1.5, 6.5, 3.0),
        (8, 1.0, 1.5, 6.5, 1.5),
    ],
)
def test_under_a_bound_sending_and_computing_are_not_added(
    bound: int, compute_s: float, wire_s: float, rtt_s: float, step_s: float
) -> None:
    assert bounded(bound, compute_s, wire_s, rtt_s) == pytest.approx(step_s, rel=1e-12)


@settings(deadline=None)
@given(compute_s=st.floats(0.01, 10.0), wire_s=st.floats(0.01, 10.0), rtt_s=st.floats(0.0, 1.0))
def test_a_larger_bound_is_never_slower(compute_s: float, wire_s: float, rtt_s: float) -> None:
    took = [bounded(bound, compute_s, wire_s, rtt_s) for bound in range(1, 8)]
    assert took == sorted(took, reverse=True)
    assert took[-1] >= max(compute_s, wire_s) * (1 - 1e-9)


def test_under_a_bound_an_update_is_of_a_shard_and_everybody_sends_to_everybody() -> None:
    run, names = run_of("classicdp", bound=4), ["a", "b", "c", "d"]
    costs, slow = [Cost(0.5, 2.0)] * 4, {("a", "c"): (12.0, 0.0)}
    predicted = predict(run, 1_000_000, "fp32", names, costs, [2] * 4, lambda a, b: slow.get((a, b), (1e6, 0.0)))
    assert predicted.compute_s == 1.0 + 2.0 / 4
    # 2 x 3/4 x 4 MB at 12 Mbit/s, though a and c are no neighbours.
    assert predicted.step_s == pytest.approx(4.0)
    assert predicted.wire_s == pytest.approx(2.5)


# -- what the plan makes of a profile ---------------------------------------------------------------------------------


def test_shares_follow_speeds_and_the_sum_stays() -> None:
    found = resolved(LOCAL, "fsdp", "balance=auto")
    plan = planned(found, of_run(found, {"node1": 1000.0, "node2": 2000.0, "node3": 3000.0}))
    assert [rank.samples for rank in plan.ranks] == [4, 8, 12]
    assert plan.global_batch == 24
    assert plan.notes[0] == (
        "balance auto: node1 4, node2 8, node3 12 of 24 samples, by the tokens/s in profile.json of 2026-11-20:"
        " node1 1,000, node2 2,000, node3 3,000"
    )


def test_speeds_written_by_hand_are_weights_too() -> None:
    found = resolved(LOCAL, "classicdp", "balance=auto")
    plan = planned(found, Profile(speeds={"node1": 1.0, "node2": 1.0, "node3": 4.0}))
    assert [rank.samples for rank in plan.ranks] == [4, 4, 16]
    assert "by the speeds in profile.json: node1 1, node2 1, node3 4" in plan.notes[0]
    assert not any("predicted" in note for note in plan.notes)


def test_a_machine_s_speed_is_that_of_all_its_ranks(tmp_path: Path) -> None:
    (tmp_path / "lan.smol.yml").write_text(LAN)
    found = resolved(tmp_path / "lan.smol.yml", "classicdp", "balance=auto", "training.batch_size=6")
    plan = planned(found, of_run(found, {"a": 100.0, "b": 100.0, "c": 200.0}))
    assert [(rank.node, rank.samples) for rank in plan.ranks] == [("a", 6), ("b", 6), ("c", 6), ("c", 6)]


def test_the_optimizer_s_time_does_not_grow_with_a_share() -> None:
    found = resolved(LOCAL, "classicdp", "balance=auto")
    profile = of_run(found, dict.fromkeys(NODES, 1024.0))  # a second for 8 samples of 128 tokens
    assert profile.measured is not None
    late = profile.measured.nodes["node1"].model_copy(update={"update_s": 0.5})
    nodes = {**profile.measured.nodes, "node1": late}
    changed = profile.model_copy(update={"measured": profile.measured.model_copy(update={"nodes": nodes})})
    # node1: half a second, and a sixteenth for each sample; the others an eighth for each.
    assert [rank.samples for rank in planned(found, changed).ranks] == [8, 8, 8]
    bigger = resolved(LOCAL, "classicdp", "balance=auto", "training.batch_size=16")
    again = planned(bigger, changed)
    assert [rank.samples for rank in again.ranks] == [20, 14, 14]
    assert again.notes[1].startswith("profile.json of 2026-11-20 was measured with batch_size 8, here 16: measure: ")


def test_what_a_micro_batch_costs_however_thin_it_is_is_no_sample_s() -> None:
    found = resolved(LOCAL, "classicdp", "training.grad_accumulation=4")
    profile = of_run(found, dict.fromkeys(NODES, 1024.0))  # a second for 8 samples of 128 tokens
    assert profile.measured is not None
    node = profile.measured.nodes["node1"].model_copy(update={"update_s": 0.2, "pass_s": 0.1})
    nodes = {**profile.measured.nodes, "node1": node}
    changed = profile.model_copy(
        update={"measured": profile.measured.model_copy(update={"nodes": nodes, "grad_accumulation": 4})}
    )
    assert cost_of(found.run.model, changed, "node1", micros=4) == Cost(pytest.approx(0.05), 0.2, 0.1, 4)  # type: ignore[arg-type]
    # Whatever micro-batches are asked for now: the samples cost the same, and each micro-batch once more.
    assert cost_of(found.run.model, changed, "node1", micros=8).step_s(8) == pytest.approx(0.2 + 8 * 0.1 + 8 * 0.05)
    assert cost_of(found.run.model, changed, "node2", micros=4).step_s(8) == pytest.approx(1.0)
    broken = node.model_copy(update={"pass_s": 9.0})
    odd = changed.measured.model_copy(update={"nodes": {**nodes, "node1": broken}})  # type: ignore[union-attr]
    assert cost_of(found.run.model, changed.model_copy(update={"measured": odd}), "node1").sample_s > 0


def test_a_profile_makes_a_plan_predict() -> None:
    found = resolved(LOCAL, "classicdp", "staleness_bound=0")
    plan = planned(found, of_run(found, dict.fromkeys(NODES, 1024.0), links_of(1e6)))
    assert plan.notes == ("predicted: 1 s a step, 1 computing and 0 waiting for the wire; 3,072 tokens/s",)
    assert plan.predicted is not None
    assert plan.predicted.compute_s == pytest.approx(1.0)
    assert 0 < plan.predicted.wire_s < 0.001
    read = Plan.model_validate_json(plan.to_json())
    assert (read, read.digest()) == (plan, plan.digest())
    bare = planned(found, None)
    assert bare.predicted is None
    assert '"predicted"' not in bare.to_json(), "plans of before are what their digest says"
    assert [rank.samples for rank in plan.ranks] == [8, 8, 8]


def test_a_prediction_says_that_a_bound_hides_the_wire() -> None:
    """Of a round trip of nine seconds: with five steps of one second in between there is 1.6 s for each."""
    found = {bound: resolved(LOCAL, "classicdp", f"staleness_bound={bound}") for bound in (1, 5)}
    speeds, links = dict.fromkeys(NODES, 1024.0), links_of(1e9, 8600.0)
    told = {bound: planned(each, of_run(each, speeds, links)).notes[0] for bound, each in found.items()}
    assert told[1] == (
        "predicted: 4.8 s a step, 1 computing and 3.8 waiting for the wire, which has the time of 1 more step"
        " (staleness_bound); 640 tokens/s"
    )
    assert told[5] == (
        "predicted: 1.6 s a step, 1 computing and 0.6 waiting for the wire, which has the time of 5 more steps"
        " (staleness_bound); 1,920 tokens/s"
    )


def test_what_would_be_quicker_is_told_and_not_done() -> None:
    found = resolved(LOCAL, "classicdp")
    speeds = {"node1": 2048.0, "node2": 2048.0, "node3": 256.0}
    plan = planned(found, of_run(found, speeds, links_of(1e6)))
    assert [rank.samples for rank in plan.ranks] == [8, 8, 8]
    predicted, balance, alone, fewer = plan.notes
    assert predicted.startswith("predicted: 4 s a step")
    assert balance == "balance: auto is predicted to be quicker: 0.75 s a step instead of 4"
    assert alone == (
        "node1 alone is predicted to be quicker: 1.5 s for the same 24 samples instead of 4"
        " (--strategy single --nodes node1 --override training.batch_size=24)"
    )
    assert fewer == (
        "without node3 a step is predicted to take 0.75 s instead of 4 (--nodes auto leaves out what does not pay)"
    )


def test_nodes_auto_leaves_out_what_does_not_pay() -> None:
    found = resolved(LOCAL, "classicdp", "nodes=auto")
    speeds = {"node1": 2048.0, "node2": 2048.0, "node3": 256.0}
    plan = planned(found, of_run(found, speeds, links_of(1e6)))
    assert [(rank.node, rank.samples) for rank in plan.ranks] == [("node1", 12), ("node2", 12)]
    assert plan.global_batch == 24, "it is the same training"
    assert plan.notes[0] == "nodes auto: node1, node2 without node3, a step is predicted to take 0.75 s instead of 4"
    balanced = resolved(LOCAL, "classicdp", "nodes=auto", "balance=auto")
    with_balance = planned(balanced, of_run(balanced, {**speeds, "node3": 512.0}, links_of(1e6)))
    assert [rank.node for rank in with_balance.ranks] == ["node1", "node2", "node3"], "balanced, the third one helps"


def test_nodes_auto_takes_the_fastest_alone_where_the_wire_is_slow() -> None:
    found = resolved(LOCAL, "fsdp", "nodes=auto")
    plan = planned(found, of_run(found, {"node1": 900.0, "node2": 1000.0, "node3": 900.0}, links_of(1.0)))
    assert [(rank.node, rank.samples) for rank in plan.ranks] == [("node2", 24)]
    single = resolved(LOCAL, "single", "nodes=auto")
    alone = planned(single, of_run(single, {"node1": 900.0, "node2": 1000.0, "node3": 900.0}))
    assert [(rank.node, rank.samples) for rank in alone.ranks] == [("node2", 8)]


def test_a_machine_without_the_memory_is_not_chosen(tmp_path: Path) -> None:
    (tmp_path / "lan.smol.yml").write_text(LAN.replace("8000", "1"))
    found = resolved(tmp_path / "lan.smol.yml", "classicdp", "nodes=auto")
    plan = planned(found, of_run(found, {"a": 9e9, "b": 1.0, "c": 1.0}))
    assert "a" not in [rank.node for rank in plan.ranks]


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.floats(1.0, 1e5)] * 3), st.floats(1.0, 1e5), st.sampled_from(["even", "auto"]))
def test_the_chosen_machines_are_no_slower_than_all(speeds: tuple[float, ...], mbps: float, balance: str) -> None:
    every = resolved(LOCAL, "classicdp", f"balance={balance}")
    chosen = resolved(LOCAL, "classicdp", "nodes=auto", f"balance={balance}")
    profile = of_run(every, dict(zip(NODES, speeds, strict=True)), links_of(mbps))
    plan = planned(chosen, profile)
    assert plan.global_batch == 24
    assert all(rank.samples >= 1 for rank in plan.ranks)
    text = next(note for note in plan.notes if note.startswith("nodes auto"))
    if "without" in text:
        taken, instead = (float(part.split(" ")[-1]) for part in text.removesuffix(" s").replace(" s instead of", ";"
                          ).split(";"))  # fmt: skip
        assert taken <= instead


def test_the_wire_follows_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "lan.smol.yml").write_text(LAN)
    found = resolved(tmp_path / "lan.smol.yml", "classicdp", "wire=auto")
    assert planned(found, None).wire == "fp32", "as the inventory claims"
    speeds = {"a": 1.0, "b": 1.0, "c": 1.0}
    slow = (LinkSpeed(src="c", dst="a", mbps=94.2, rtt_ms=1.0),)
    plan = planned(found, of_run(found, speeds, slow))
    assert plan.wire == "int8"
    assert (
        "wire auto: int8, since the slowest way of this run, c to a over lan, has 94 Mbit/s, as measured, below the"
        " 2500 under which int8 pays"
    ) in plan.notes


def test_within_a_machine_the_inventory_s_word_decides_the_wire() -> None:
    found = resolved(LOCAL, "classicdp", "wire=auto")
    assert planned(found, of_run(found, dict.fromkeys(NODES, 1.0), links_of(900.0))).wire == "fp32"


def test_of_two_measurements_of_a_link_the_first_counts() -> None:
    links = tuple(LinkSpeed(src="a", dst="b", mbps=mbps, rtt_ms=1.0) for mbps in (100.0, 200.0))
    profile = Profile(speeds={"a": 1.0, "b": 1.0}, links=links)
    assert profile.link("a", "b") == links[0]
    assert profile.link("b", "a") is None
