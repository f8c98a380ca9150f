"""Layers by memory and speed: every split covers the model, fits, and no other one has a faster slowest stage."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolcluster.errors import ConfigError
from smolcluster.plan.stages import STAGE_BASE_MB, Machine, ModelWeight, split

MB = 1024 * 1024


def weight(layers=12, head_layers=0.0, layer_mb=10, table_mb=0, head_mb=0):
    return ModelWeight(layers, layer_mb * MB, table_mb * MB, head_mb * MB, 0, head_layers)


def slowest(model, machines, ranges):
    return max(
        (stop - start + (model.head_layers if stop == model.layers else 0)) / machine.speed
        for machine, (start, stop) in zip(machines, ranges, strict=True)
    )


def all_splits(layers, count):
    for inner in itertools.combinations(range(1, layers), count - 1):
        yield tuple(itertools.pairwise((0, *inner, layers)))


machine_lists = st.lists(
    st.builds(
        Machine,
        name=st.just("m"),
        memory_mb=st.none() | st.integers(STAGE_BASE_MB, STAGE_BASE_MB + 100),
        speed=st.sampled_from((0.5, 1.0, 2.0, 3.5)),
    ),
    min_size=1,
    max_size=4,
)


@given(st.integers(1, 9), machine_lists, st.sampled_from((0.0, 2.0, 5.4)))
@settings(max_examples=150, deadline=None)
def test_the_split_is_the_best_of_all_that_fit(layers, machines, head_layers):
    model = weight(layers, head_layers, table_mb=7, head_mb=9)

    def fits(ranges):
        needs = [
            10 * (stop - start) + (7 if start == 0 else 0) + (9 if stop == layers else 0) for start, stop in ranges
        ]
        return all(
            machine.memory_mb is None or need + STAGE_BASE_MB <= machine.memory_mb
            for machine, need in zip(machines, needs, strict=True)
        )

    possible = [ranges for ranges in all_splits(layers, len(machines)) if fits(ranges)]
    if not possible:
        with pytest.raises(ConfigError, match=r"no split that fits|cannot be split"):
            split(model, machines)
        return
    chosen = split(model, machines)
    assert chosen in possible
    assert slowest(model, machines, chosen) == min(slowest(model, machines, ranges) for ranges in possible)


def test_equal_machines_share_evenly_and_the_head_counts():
    three = [Machine(name) for name in "abc"]
    assert split(weight(12), three) == ((0, 4), (4, 8), (8, 12))
    assert split(weight(12, head_layers=5.4), three) == ((0, 6), (6, 11), (11, 12))


def test_a_machine_twice_as_fast_takes_twice_the_layers():
    assert split(weight(12), [Machine("a", speed=2.0), Machine("b")]) == ((0, 8), (8, 12))


def test_little_memory_moves_layers_to_the_others():
    machines = [Machine("pi", STAGE_BASE_MB + 20), Machine("mini")]
    assert split(weight(12), machines) == ((0, 2), (2, 12))


def given_stages(stages):
    from smolcluster.plan.stages import stage_ranges
    from smolcluster.spec.modelfile import ServedModel
    from smolcluster.spec.serving import ServeSpec
    from smolcluster.spec.stages import ServingStage

    serve = ServeSpec(
        model_name="m",
        model=ServedModel(hf_model_name="m", weights_model_name="m", num_layers=4),
        stages=tuple(ServingStage(node=n, start=s, stop=e, port=0) for n, s, e in stages),
        api_port=0,
        frontend_port=0,
        request_timeout_s=1.0,
        seed=0,
        given=True,
    )
    machines = [Machine(name, STAGE_BASE_MB + 50) for name in ("a", "b")]
    return stage_ranges(serve, weight(4, layer_mb=20), machines)


def test_given_stages_are_kept_and_checked_against_memory():
    assert given_stages([("a", 0, 2), ("b", 2, 4)]) == ((0, 2), (2, 4))
    with pytest.raises(ConfigError, match=r"layers 1:4 need 460 MB there, and it has 450"):
        given_stages([("a", 0, 1), ("b", 1, 4)])
