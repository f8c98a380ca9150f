"""The plan: pure, deterministic, and everything a rank needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolcluster.errors import ConfigError
from smolcluster.plan.elastic import plan_for
from smolcluster.plan.make import make_plan
from smolcluster.plan.shares import shares
from smolcluster.plan.types import Plan
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventory" / "local.smol.yml"
HOME = ROOT / "inventory" / "home.smol.yml"
TWO_HERE = """\
schema: 1
name: here
machines:
  a: {connection: local, ranks: 2}
  b: {connection: local}
networks:
  loopback: {medium: loopback, members: {a: 127.0.0.1, b: 127.0.0.1}}
"""


def plan_of(inventory: Path, strategy: str = "fsdp", *overrides: str, nodes: tuple[str, ...] = ()) -> Plan:
    resolved = resolve(Request(inventory, strategy, nodes=nodes, overrides=overrides))
    return make_plan(resolved.cluster, resolved.run, resolved.notes, resolved.inputs)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.smol.yml"
    path.write_text(text)
    return path


def test_the_same_inputs_give_the_same_bytes() -> None:
    one, two = plan_of(HOME), plan_of(HOME)
    assert one.to_json() == two.to_json()
    assert one.digest() == two.digest()
    assert plan_of(HOME, "fsdp", "seed=1").digest() != one.digest()


def test_a_plan_comes_back_from_its_json() -> None:
    plan = plan_of(HOME)
    again = Plan.model_validate_json(plan.to_json())
    assert again == plan
    assert again.digest() == plan.digest()
    assert json.loads(plan.to_json())["schema"] == 1


def test_the_local_default() -> None:
    plan = plan_of(LOCAL)
    assert (plan.world_size, plan.shape, plan.transport, plan.global_batch) == (3, "MESH", "smol", 24)
    for rank in plan.ranks:
        assert (rank.node, rank.port, rank.listen) == (f"node{rank.rank + 1}", 0, ("127.0.0.1",))
        assert (rank.samples, rank.threads, rank.local_rank) == (8, 1, 0)
        assert rank.peers == {other: "127.0.0.1" for other in range(3) if other != rank.rank}
        assert rank.encrypt == dict.fromkeys(rank.peers, False)
    assert plan.notes == ()


def test_single_is_one_rank_on_the_first_machine() -> None:
    plan = plan_of(LOCAL, "single", nodes=("node2", "node3"))
    assert [(r.node, r.peers, r.listen) for r in plan.ranks] == [("node2", {}, ("127.0.0.1",))]
    assert plan.global_batch == 8


def test_single_has_one_rank_where_a_machine_holds_more(tmp_path: Path) -> None:
    assert plan_of(written(tmp_path, TWO_HERE), "single").world_size == 1


def test_ports_of_ranks_that_share_a_machine_or_an_address(tmp_path: Path) -> None:
    plan = plan_of(written(tmp_path, TWO_HERE))
    assert [(r.node, r.local_rank, r.port) for r in plan.ranks] == [("a", 0, 65432), ("a", 1, 65433), ("b", 0, 65434)]
    assert [r.threads for r in plan.ranks] == [2, 2, 4]


def test_ports_of_machines_of_their_own() -> None:
    assert {rank.port for rank in plan_of(HOME).ranks} == {65432}
    plan = plan_of(HOME, "fsdp", "port={default: 7000, pi5: 7100}")
    assert {rank.node: rank.port for rank in plan.ranks if rank.node.startswith("pi")} == {"pi5": 7100, "pi4": 7000}


def test_a_port_beyond_the_last_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the port of rank 1 \(a\) and its rank's number lead beyond 65535"):
        plan_of(written(tmp_path, TWO_HERE), "fsdp", "port=65535")


def test_two_ranks_on_one_address_and_port_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rank 1 \(a\) and rank 2 \(b\) share 7001 on 127\.0\.0\.1"):
        plan_of(written(tmp_path, TWO_HERE), "fsdp", "port={a: 7000, b: 7001}")


def test_a_rank_listens_where_others_dial() -> None:
    plan = plan_of(HOME)
    for rank in plan.ranks:
        dialled = {other.peers[rank.rank] for other in plan.ranks if other.rank != rank.rank}
        assert set(rank.listen) == dialled
    pi5 = next(rank for rank in plan.ranks if rank.node == "pi5")
    assert pi5.listen == ("192.168.50.2",)


def test_buffers_by_kind_and_by_name() -> None:
    plan = plan_of(HOME, "fsdp", "buffer_size.mini2=3")
    buffers = {rank.node: rank.buffer_mb for rank in plan.ranks}
    assert buffers == {"mini1": 8, "mini2": 3, "mini3": 8, "macbook": 8, "pi5": 2, "pi4": 2, "win": 1}


def test_open_wires_are_told_and_private_ones_are_not() -> None:
    assert plan_of(HOME, nodes=("mini1", "mini2", "pi5")).notes == ()
    assert plan_of(HOME, nodes=("mini1", "macbook")).notes == (
        "network wifi: this wire is not private: traffic is authenticated but not encrypted until certificates are set"
        " up (ansible-playbook certificates.yml)",
    )
    assert plan_of(HOME, "fsdp", "encrypt=never", nodes=("mini1", "macbook")).notes == (
        "network wifi: encrypt: never: traffic is authenticated but not encrypted",
    )


def test_transport_auto() -> None:
    strict = ("transport=auto", "staleness_bound=0")
    assert plan_of(HOME, "fsdp", *strict, nodes=("mini1", "mini2")).transport == "gloo"
    assert plan_of(HOME, "fsdp", *strict, nodes=("mini1", "pi5")).transport == "smol"  # two systems
    assert plan_of(HOME, "fsdp", *strict, nodes=("mini1", "macbook")).transport == "smol"  # the Wi-Fi
    assert plan_of(LOCAL, "fsdp", *strict).transport == "gloo"
    assert (
        plan_of(LOCAL, "fsdp", "transport=auto", "staleness_bound=5").transport == "smol"
    )  # what is due at no known time


def test_gloo_over_an_open_wire_is_refused() -> None:
    with pytest.raises(ConfigError, match="gloo neither authenticates nor encrypts"):
        plan_of(HOME, "fsdp", "transport=gloo", nodes=("mini1", "macbook"))


def test_balance_moves_shares_without_changing_the_sum() -> None:
    plan = plan_of(LOCAL, "fsdp", "balance={node1: 2, node3: 0.5}")
    assert [rank.samples for rank in plan.ranks] == [14, 7, 3]
    assert plan.global_batch == 24
    assert [rank.samples for rank in plan_of(LOCAL, "fsdp", "balance=even").ranks] == [8, 8, 8]


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (24, [1, 1, 1], (8, 8, 8)),
        (10, [1, 1, 1], (4, 3, 3)),
        (24, [2, 1, 0.5], (14, 7, 3)),
        (3, [100, 1, 1], (1, 1, 1)),
        (2, [1, 1, 1], (1, 1, 0)),
        (1, [1], (1,)),
    ],
)
def test_shares(total: int, weights: list[float], expected: tuple[int, ...]) -> None:
    assert shares(total, weights) == expected


def test_accumulation_does_not_change_the_global_batch() -> None:
    assert plan_of(LOCAL, "fsdp", "training.grad_accumulation=4").global_batch == 24


def test_what_a_cpu_makes_of_an_option_is_noted() -> None:
    notes = plan_of(HOME, "fsdp", "training.precision=bf16", "training.compile=true", nodes=("mini1", "pi5")).notes
    said = [note for note in notes if note.startswith("training.")]
    assert any("pi5 compute on the CPU" in note and "mini1" not in note for note in said), notes
    assert any("needs a C++ compiler" in note for note in said)
    assert not [note for note in plan_of(HOME, "fsdp", nodes=("mini1", "pi5")).notes if note.startswith("training.")]


@pytest.mark.parametrize(
    ("strategy", "overrides", "said"),
    [
        ("fsdp", ("recovery.elastic=true",), True),
        ("fsdp", ("recovery.elastic=true", "checkpoint.replicas=2"), False),
        ("fsdp", (), False),
        ("single", ("recovery.elastic=true",), False),
    ],
)
def test_elastic_without_a_second_copy_is_noted(strategy: str, overrides: tuple[str, ...], said: bool) -> None:
    notes = [note for note in plan_of(LOCAL, strategy, *overrides).notes if "-e replicate_checkpoints=2" in note]
    assert len(notes) == said


def test_a_node_that_lost_its_first_rank_has_a_local_rank_0_again(tmp_path: Path) -> None:
    """It writes the node's copy of a checkpoint's manifest."""
    plan = plan_of(written(tmp_path, TWO_HERE))
    left = [plan_for(plan, members) for members in ((1, 2), (0, 2), (0, 1), (0, 1, 2))]
    assert [[(rank.rank, rank.node, rank.local_rank) for rank in each.ranks] for each in left] == [
        [(0, "a", 0), (1, "b", 0)],
        [(0, "a", 0), (1, "b", 0)],
        [(0, "a", 0), (1, "a", 1)],
        [(0, "a", 0), (1, "a", 1), (2, "b", 0)],
    ]


def slow(tmp_path: Path, mbps: int) -> Path:
    text = TWO_HERE.replace("loopback: {medium: loopback,", f"lan: {{medium: ethernet, speed_mbps: {mbps},")
    return written(tmp_path, text.replace("127.0.0.1, b: 127.0.0.1", "127.0.0.2, b: 127.0.0.3"))


def test_the_wire_format_is_float32_unless_it_is_asked_for() -> None:
    assert plan_of(LOCAL).wire == "fp32"
    plan = plan_of(LOCAL, "fsdp", "wire=bf16")
    assert plan.wire == "bf16"
    assert not any("wire" in note for note in plan.notes)


def test_edp_quantises_where_it_is_asked_to_and_takes_our_own_links() -> None:
    assert plan_of(LOCAL, "edp").wire == "fp32"
    plan = plan_of(LOCAL, "edp", "use_quantization=true", "transport=gloo", "recovery.elastic=true")
    assert (plan.wire, plan.transport, plan.shape) == ("int8", "smol", "STAR")
    assert [note.split(":")[0] for note in plan.notes] == ["transport gloo", "recovery.elastic"]
    assert plan_of(LOCAL, "edp", "wire=bf16").wire == "bf16"
    plan = plan_of(LOCAL, "edp", "use_quantization=true", "wire=bf16")
    assert plan.wire == "int8"
    assert "wire bf16: use_quantization says int8, and that was taken" in plan.notes


@pytest.mark.parametrize(("mbps", "wire", "side"), [(2499, "int8", "below"), (2500, "fp32", "not below")])
def test_auto_takes_int8_where_the_slowest_way_is_slow(tmp_path: Path, mbps: int, wire: str, side: str) -> None:
    inventory = slow(tmp_path, mbps)
    plan = plan_of(inventory, "classicdp", "wire=auto")
    assert plan.wire == wire
    told = [note for note in plan.notes if note.startswith("wire auto")]
    what = f"the slowest way of this run, a to b over lan, has {mbps} Mbit/s"
    assert told == [f"wire auto: {wire}, since {what}, {side} the 2500 under which int8 pays"]
    assert plan.to_json() == plan_of(inventory, "classicdp", "wire=auto").to_json()


def test_auto_on_one_machine_s_loopback_is_float32() -> None:
    plan = plan_of(LOCAL, "fsdp", "wire=auto")
    assert plan.wire == "fp32"
    assert any("wire auto: fp32" in note for note in plan.notes)


def test_a_wire_format_without_gradients_that_are_summed_is_noted() -> None:
    plan = plan_of(LOCAL, "single", "wire=int8")
    assert plan.wire == "fp32"
    assert "wire int8: single has no gradients that ranks sum, so this does nothing" in plan.notes
    assert not any("wire" in note for note in plan_of(LOCAL, "single", "wire=auto").notes)


def test_memory_that_a_wire_format_takes() -> None:
    """int8 keeps what it has not sent; an owner in stages 1 and 2 its shard apart from the replica."""
    for stage, shares_kept in ((0, 0), (1, 1), (2, 1), (3, 0)):
        plain, narrow, int8 = (
            plan_of(LOCAL, "fsdp", f"fsdp_stage={stage}", f"wire={wire}", "staleness_bound=0")
            for wire in ("fp32", "bf16", "int8")
        )
        shard = 4 * -(-plain.params // 3)
        assert {each.wire_bytes for each in plain.memory} == {0}
        assert {each.wire_bytes for each in narrow.memory} == {shares_kept * shard}
        assert {each.wire_bytes for each in int8.memory} == {4 * plain.params + shares_kept * shard}


def test_a_wire_format_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wire"):
        plan_of(LOCAL, "fsdp", "wire=int4")


def test_nothing_is_broken_unless_it_is_asked_for() -> None:
    for inventory in (LOCAL, HOME):
        plan = plan_of(inventory)
        assert plan.run.faults == ()
        assert not any("broken on purpose" in note for note in plan.notes)


def test_faults_that_are_asked_for_stand_in_the_plan_and_its_notes() -> None:
    asked = "faults=[{kind: crash, rank: 1, step: 3}, {kind: delay, rank: 0, peer: 2, step: 5, until: 9, ms: 20}]"
    plan = plan_of(LOCAL, "fsdp", asked)
    assert [fault.kind for fault in plan.run.faults] == ["crash", "delay"]
    assert [note for note in plan.notes if note.startswith("faults")] == [
        "faults: this run is broken on purpose: crash of rank 1 at step 3",
        "faults: this run is broken on purpose: delay of rank 0 towards rank 2 20 ms at step 5 until step 9",
    ]
    assert Plan.model_validate_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("{kind: crash, rank: 3, step: 1}", "there is no rank 3: this run has ranks 0 to 2"),
        ("{kind: partition, ranks: [0, 7], step: 1, seconds: 2}", "there is no rank 7"),
        ("{kind: crash, rank: 1}", "step"),
        ("{kind: crsh, rank: 1, step: 1}", "did you mean crash?"),
        ("{kind: freeze, rank: 1, step: 1}", "a freeze needs seconds"),
        ("{kind: slow, rank: 1, step: 1}", "a slow needs factor"),
        ("{kind: slow, rank: 1, step: 1, factor: 1}", "faults[0].factor: must be more than 1, not 1"),
        ("{kind: slow, rank: 1, step: 1, factor: 2, peer: 0}", "a slow has no peer"),
        ("{kind: crash, rank: 1, step: 1, sekonds: 1}", "did you mean seconds?"),
    ],
)
def test_faults_that_make_no_sense(asked: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(LOCAL, "fsdp", f"faults=[{asked}]")
    assert told in str(caught.value)
    assert "faults" in str(caught.value)


def test_link_faults_are_of_our_own_links() -> None:
    with pytest.raises(ConfigError, match="use transport: smol"):
        plan_of(LOCAL, "fsdp", "transport=gloo", "faults=[{kind: drop, rank: 1, step: 2}]")
    assert plan_of(LOCAL, "fsdp", "transport=gloo", "faults=[{kind: crash, rank: 1, step: 2}]").run.faults
    with pytest.raises(ConfigError, match="one rank"):
        plan_of(LOCAL, "single", "faults=[{kind: crash, rank: 0, step: 2}]")


def test_diloco_says_where_overlap_overshoots_and_needs_no_copies_to_be_elastic() -> None:
    said = ("outer_overlap=true", "recovery.elastic=true")
    late = "outer_overlap with rounds of 5 steps: what comes a round late overshoots with outer_momentum 0.9"
    assert plan_of(LOCAL, "diloco", *said).notes == ()
    assert any(note.startswith(late) for note in plan_of(LOCAL, "diloco", *said, "outer_every=5").notes)
    assert plan_of(LOCAL, "diloco", *said, "outer_every=5", "outer_momentum=0.5").notes == ()
    assert any("elastic" in note for note in plan_of(LOCAL, "fsdp", "recovery.elastic=true").notes)
