"""Which links a plan encrypts, by the inventory's word and by whether the cluster has certificates."""

from __future__ import annotations

import pytest

from smolcluster.errors import ConfigError
from smolcluster.plan.encryption import Encryption
from smolcluster.plan.make import make_plan
from smolcluster.plan.measure import make_profile_plan
from smolcluster.plan.types import Plan
from smolcluster.plan.wires import serving_wires
from smolcluster.spec.inventory import load_inventory
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve_any
from smolcluster.topology import Topology
from tests.unit.test_plan import HOME, LOCAL

CA = "ab" * 32


def plan_of(*overrides: str, nodes: tuple[str, ...], ca: str = CA) -> Plan:
    resolved = resolve_any(
        Request(HOME if nodes[0] != "node1" else LOCAL, "classicdp", nodes=nodes, overrides=overrides, ca=ca)
    )
    return make_plan(resolved.cluster, resolved.run, ca=ca)


def test_auto_encrypts_what_leaves_private_wires() -> None:
    plan = plan_of(nodes=("mini1", "mini2", "macbook"))
    assert [rank.encrypt for rank in plan.ranks] == [{1: False, 2: True}, {0: False, 2: True}, {0: True, 1: True}]
    assert plan.ca == CA
    assert plan.notes == ("network thunderbolt: declared private: in the clear (encrypt: always encrypts it too)",)


def test_a_plan_that_encrypts_nothing_names_no_authority() -> None:
    """Else its nodes would have to have certificates."""
    private = plan_of(nodes=("mini1", "mini2", "pi5"))
    assert (private.ca, any(any(rank.encrypt.values()) for rank in private.ranks)) == ("", False)
    assert private.notes == tuple(
        f"network {name}: declared private: in the clear (encrypt: always encrypts it too)"
        for name in ("ethernet_pi5", "thunderbolt")
    )
    here = plan_of(nodes=("node1", "node2"))
    assert (here.ca, here.notes) == ("", ())


@pytest.mark.parametrize("nodes", [("node1", "node2", "node3"), ("mini1", "mini2", "pi5")])
def test_always_encrypts_every_link(nodes: tuple[str, ...]) -> None:
    plan = plan_of("encrypt=always", nodes=nodes)
    assert all(rank.encrypt == dict.fromkeys(rank.encrypt, True) and len(rank.encrypt) == 2 for rank in plan.ranks)
    assert (plan.ca, plan.notes) == (CA, ())


def test_never_and_no_authority_leave_all_in_the_clear() -> None:
    never, none = (
        plan_of(*said, nodes=("mini1", "macbook"), ca=ca) for said, ca in ((("encrypt=never",), CA), ((), ""))
    )
    for plan in (never, none):
        assert plan.ca == ""
        assert not any(any(rank.encrypt.values()) for rank in plan.ranks)
    assert never.notes == ("network wifi: encrypt: never: traffic is authenticated but not encrypted",)
    assert "until certificates are set up (ansible-playbook certificates.yml)" in none.notes[0]


def test_both_ends_agree_on_every_link() -> None:
    for nodes in (("mini1", "mini2", "mini3", "macbook", "pi5", "pi4"), ("pi4", "macbook", "mini2")):
        ranks = plan_of(nodes=nodes).ranks
        assert all(ranks[peer].encrypt[rank.rank] == said for rank in ranks for peer, said in rank.encrypt.items())


def test_gloo_does_not_encrypt() -> None:
    strict = ("encrypt=always", "staleness_bound=0")
    assert plan_of(*strict, "transport=auto", nodes=("mini1", "mini2")).transport == "smol"
    with pytest.raises(ConfigError, match="gloo does not encrypt, and encrypt: always asks for it"):
        plan_of(*strict, "transport=gloo", nodes=("mini1", "mini2"))


def test_measuring_encrypts_as_training_does() -> None:
    resolved = resolve_any(Request(HOME, "classicdp", nodes=("mini1", "macbook"), ca=CA))
    plan = make_profile_plan(resolved.cluster, resolved.run, ca=CA)
    assert (plan.ca, plan.ranks[0].encrypt) == (CA, {1: True})


def test_a_served_model_and_its_api() -> None:
    topology = Topology(load_inventory(HOME))
    wires = serving_wires(topology, ["mini1", "mini2", "macbook"], Encryption("auto", CA))
    assert wires.encrypt == [{1: False, 2: True}, {0: False}, {0: True}]
    for wanted, ca, listen, https in (
        ("auto", CA, ("192.168.1.20",), True),
        ("always", CA, ("127.0.0.1", "192.168.1.20"), True),
        ("always", CA, ("127.0.0.1", "::1"), False),
        ("never", CA, ("192.168.1.20",), False),
        ("auto", "", ("192.168.1.20",), False),
    ):
        assert Encryption(wanted, ca).of_api(listen) is https  # type: ignore[arg-type]
