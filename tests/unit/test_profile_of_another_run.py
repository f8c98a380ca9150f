"""Speeds that were measured for something else, or not at all; and what a plan of measuring is."""

from __future__ import annotations

from typing import Any

import pytest

from smolcluster.errors import ConfigError
from smolcluster.plan.measure import make_profile_plan
from smolcluster.plan.profile import Profile, concerns, differences
from smolcluster.plan.types import ProfilePlan
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve
from tests.unit.balanced_plans import LOCAL, NODES, of_run, planned, resolved


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"batch_size": 3}, ["batch_size 3, here 8"]),
        ({"grad_accumulation": 12}, ["grad_accumulation 12, here 1"]),
        ({"cluster": "home", "precision": "bf16"}, ["cluster home, here local", "precision bf16, here fp32"]),
    ],
)
def test_a_profile_of_another_run_is_recognised(changes: dict[str, Any], said: list[str]) -> None:
    found = resolved(LOCAL, "fsdp")
    profile = of_run(found, dict.fromkeys(NODES, 1.0), **changes)
    assert differences(profile, found.cluster, found.run) == said
    assert concerns(profile, found.cluster, found.run) == (not said)


def test_a_profile_of_another_model_is_recognised() -> None:
    found, other = resolved(LOCAL, "fsdp"), resolved(LOCAL, "fsdp", "model.num_layers=2", "model.dropout=0.1")
    profile = of_run(found, dict.fromkeys(NODES, 1.0))
    assert differences(profile, other.cluster, other.run) == ["model.num_layers 4, here 2"]
    nn = resolve(Request(LOCAL, "fsdp", model="nn"))
    assert "model gpt, here nn" in differences(profile, nn.cluster, nn.run)


@pytest.mark.parametrize(
    ("overrides", "profile", "told"),
    [
        (("balance=auto",), None, "balance: auto needs measured speeds, and there is no profile.json"),
        (("balance=auto",), {"node1": 1.0}, "balance: auto needs the speed of node2, node3, which profile.json"),
        (("nodes=auto",), None, "nodes: auto needs measured speeds"),
        (("nodes=auto", "balance=auto"), None, "2 problems"),
    ],
)
def test_what_nobody_measured_is_asked_for(
    overrides: tuple[str, ...], profile: dict[str, float] | None, told: str
) -> None:
    found = resolved(LOCAL, "fsdp", *overrides)
    with pytest.raises(ConfigError) as error:
        planned(found, of_run(found, profile) if profile is not None else None)
    assert told in str(error.value)
    assert "measure: python -m smolcluster profile, or ansible-playbook train.yml -e profile=true" in str(error.value)


def test_a_server_that_trains_needs_a_speed_too() -> None:
    said = ("balance=auto", "server=node1", "workers=[node2, node3]")
    profile = Profile(speeds={"node2": 1.0, "node3": 1.0})
    found = resolved(LOCAL, "syncps", *said, "server_trains=true")
    with pytest.raises(ConfigError, match="balance: auto needs the speed of node1"):
        planned(found, profile)
    plan = planned(resolved(LOCAL, "syncps", *said), profile)
    assert [rank.samples for rank in plan.ranks] == [0, 8, 8]


def test_nodes_auto_takes_no_times_of_another_run() -> None:
    found = resolved(LOCAL, "fsdp", "nodes=auto")
    with pytest.raises(ConfigError, match=r"auto needs times of this run, .* has others \(batch_size 3, here 8\)"):
        planned(found, of_run(found, dict.fromkeys(NODES, 1.0), batch_size=3))
    with pytest.raises(ConfigError, match="its speeds were written by hand"):
        planned(found, Profile(speeds=dict.fromkeys(NODES, 1.0)))


def test_measuring_leaves_nothing_to_speeds() -> None:
    found = resolved(LOCAL, "fsdp", "balance=auto", "nodes=auto", "wire=auto", "transport=gloo", "fsdp_stage=3")
    plan = make_profile_plan(found.cluster, found.run, found.notes, found.inputs)
    assert (plan.kind, plan.world_size, plan.transport, plan.wire, plan.shape) == ("profile", 3, "smol", "fp32", "MESH")
    assert [rank.samples for rank in plan.ranks] == [8, 8, 8]
    assert plan.run.recovery.max_restarts == 0
    again = ProfilePlan.model_validate_json(plan.to_json())
    assert again == plan
    assert again.digest() == plan.digest()
