"""Every block of the guide resolves as READING says: against the home inventory, and alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.errors import ConfigError
from smolcluster.plan.make import make_plan
from smolcluster.plan.types import Plan
from smolcluster.spec.document import read_document
from smolcluster.spec.groups import strategies_of
from smolcluster.spec.inventory import load_inventory
from smolcluster.spec.recognise import recognise
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve, resolve_any
from smolcluster.spec.serving import resolve_any_serving
from smolcluster.spec.shipped import FILE_MODELS

from .conftest import FIXTURES, HOME, report

MESH_ADDRESSES = {"mini1": "10.10.0.1", "mini2": "10.10.0.2", "mini3": "10.10.0.3"}
NOT_PRIVATE = (
    "this wire is not private: traffic is authenticated but not encrypted until certificates are set up"
    " (ansible-playbook certificates.yml)"
)


def block(strategy: str) -> Path:
    return FIXTURES / f"cluster_config_{strategy}.yaml"


def planned(strategy: str, alone: bool, *overrides: str) -> tuple[Plan, list[str]]:
    """The plan, and its notes with file names cut to the last part."""
    path = block(strategy)
    request = Request(path if alone else HOME, strategy, cluster_config=None if alone else path, overrides=overrides)
    resolved = resolve_any(request)
    plan = make_plan(resolved.cluster, resolved.run, resolved.notes, resolved.inputs)
    return plan, [note.replace(str(FIXTURES.as_posix()) + "/", "").rpartition("fixtures/")[2] for note in plan.notes]


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_block_loads_verbatim(path: Path) -> None:
    FILE_MODELS[path.name].model_validate(read_document(path).data)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((f"cluster_config_{s}", s) for s in ("fsdp", "classicdp", "edp", "syncps", "mp", "inference")),
        ("gpt_config", "gpt"),
        ("nn_config", "nn"),
        ("model_config_inference", "served"),
    ],
)
def test_every_block_is_recognised(name: str, kind: str) -> None:
    assert recognise(read_document(FIXTURES / f"{name}.yaml").data) == kind


@pytest.mark.parametrize("strategy", ["fsdp", "classicdp"])
@pytest.mark.parametrize("alone", [False, True])
def test_mesh(strategy: str, alone: bool) -> None:
    plan, notes = planned(strategy, alone)
    assert plan.shape == "MESH"
    assert [(r.node, r.port, r.listen, r.buffer_mb) for r in plan.ranks] == [
        ("mini1", 65432, ("10.10.0.1",), 8.0),
        ("mini2", 65433, ("10.10.0.2",), 8.0),
        ("mini3", 65434, ("10.10.0.3",), 8.0),
    ]
    for rank in plan.ranks:
        others = [r for r in plan.ranks if r.rank != rank.rank]
        assert rank.peers == {other.rank: MESH_ADDRESSES[other.node] for other in others}
        assert not any(rank.encrypt.values())
    assert plan.run.staleness_bound == 5
    assert plan.run.seed == 42
    lines = {"fsdp": (30, 34, 38), "classicdp": (21, 25, 29)}[strategy]
    cleaned = [
        f"cluster_config_{strategy}.yaml:{line}: allToAllTopology.workers.regular[{rank}].ip: "
        f'said \\"10.10.0.{rank + 1}\\", taken: 10.10.0.{rank + 1} (quotes and backslashes come off)'
        for rank, line in enumerate(lines)
    ]
    assert notes[:3] == cleaned
    elsewhere = [
        f"cluster_config_fsdp.yaml:{line}: buffer_size.{name}: said {size}, taken: nothing"
        f' (there is no machine "{name}" in the inventory)'
        for line, name, size in ((12, "macbook", 8), (13, "pi4", 2), (14, "pi5", 2))
    ]
    # Alone, the file's wires are nobody's declared cable, and machines only buffer_size names are not there.
    expected = [*(elsewhere if strategy == "fsdp" else []), f"network cluster: {NOT_PRIVATE}"] if alone else []
    assert notes[3:] == expected


def test_the_model_wins_over_num_layers_of_the_cluster_yaml() -> None:
    _, notes = planned("fsdp", False, "model.num_layers=4")
    assert "cluster_config_fsdp.yaml:42: num_layers: said 6, taken: 4 (the model's config wins)" in notes


@pytest.mark.parametrize("strategy", ["edp", "syncps"])
def test_star_against_the_home_inventory(strategy: str) -> None:
    plan, notes = planned(strategy, alone=False)
    assert plan.shape == "STAR"
    assert [(r.node, r.role, r.samples, r.buffer_mb) for r in plan.ranks] == [
        ("mini1", "server", 0, 8.0),
        ("pi5", "worker", 32, 2.0),
        ("win", "worker", 32, 1.0),
        ("macbook", "worker", 32, 8.0),
    ]
    # pi5 dials mini1's Ethernet, as the guide says; win and the MacBook are on the Wi-Fi, not on the cable.
    assert [r.peers[0] for r in plan.ranks[1:]] == ["192.168.50.1", "mini1.local", "mini1.local"]
    assert plan.ranks[0].listen == ("192.168.50.1", "mini1.local")
    assert notes == [
        "host_ip.win: said 10.10.0.1, taken: mini1.local (the inventory's way from win to mini1 is wifi)",
        "host_ip.macbook: said 10.10.0.1, taken: mini1.local (the inventory's way from macbook to mini1 is wifi)",
        f"network wifi: {NOT_PRIVATE}",
    ]


@pytest.mark.parametrize("strategy", ["edp", "syncps"])
def test_star_alone_dials_what_host_ip_says(strategy: str) -> None:
    plan, notes = planned(strategy, alone=True)
    assert {r.node: r.peers[0] for r in plan.ranks[1:]} == {
        "pi5": "192.168.50.1",
        "win": "10.10.0.1",
        "macbook": "10.10.0.1",
    }
    assert set(plan.ranks[0].listen) == {"10.10.0.1", "192.168.50.1"}
    assert notes == [f"network wire1: {NOT_PRIVATE}", f"network wire2: {NOT_PRIVATE}"]


def test_star_settings() -> None:
    edp, _ = planned("edp", alone=False)
    syncps, _ = planned("syncps", alone=False)
    assert (edp.run.worker_update_interval, edp.run.use_quantization) == (10, False)
    assert (syncps.run.worker_update_interval, syncps.run.syncps_timeout_s) == (4, 0.1)


def test_a_syncps_server_trains_where_it_is_asked_to() -> None:
    plan, _ = planned("syncps", False, "server_trains=true")
    assert plan.run.server_trains
    assert [rank.samples for rank in plan.ranks] == [32, 32, 32, 32]
    assert plan.global_batch == 128


def test_syncps_inherits_use_quantization() -> None:
    plan, _ = planned("syncps", False, "use_quantization=true")
    assert plan.run.use_quantization


@pytest.mark.parametrize("alone", [False, True])
def test_mp(alone: bool) -> None:
    plan, notes = planned("mp", alone)
    assert plan.shape == "CHAIN"
    assert [(r.node, r.role, dict(r.peers)) for r in plan.ranks] == [
        ("mini1", "worker", {1: "10.10.0.2", 2: "10.10.0.3"}),
        ("mini2", "worker", {0: "10.10.0.1", 2: "10.10.0.3"}),
        ("mini3", "worker", {0: "10.10.0.1", 1: "10.10.0.2"}),
    ]
    split = "mp: layers mini1 0:3, mini2 3:5, mini3 5:6; with 12 micro-batches a stage waits 14 % of a step"
    assert notes == [split, *([f"network cluster: {NOT_PRIVATE}"] if alone else [])]


def test_inference_against_the_home_inventory() -> None:
    path = block("inference")
    served = resolve_any_serving(Request(HOME, "inference", model="causal_gpt2", cluster_config=path))
    assert [(s.node, s.start, s.stop, s.port) for s in served.serve.stages] == [
        ("mini1", 0, 4, 65432),
        ("ipad", 4, 8, 8000),
        ("mini2", 8, 12, 65432),
    ]
    assert (served.serve.api_port, served.serve.frontend_port) == (8080, 5050)
    assert served.serve.request_timeout_s == 300
    told = [note.rpartition("cluster_config_inference.yaml:")[2] for note in served.notes]
    assert told == [
        "41: server: said mini2, taken: mini1 (rank 0 is the first of the stages)",
        "4: host_ip.mini3: said 10.10.0.2, taken: the inventory's 10.10.0.3, 192.168.51.2, mini3.local "
        "(in the inventory that is mini2's)",
        "5: host_ip.pi4: said 10.10.0.1, taken: the inventory's 192.168.51.4 (in the inventory that is mini1's)",
        "6: host_ip.macbook: said 10.10.0.1, taken: the inventory's macbook.local (in the inventory that is mini1's)",
        "7: host_ip.pi5: said 192.168.50.1, taken: the inventory's 192.168.50.2 (in the inventory that is mini1's)",
        "8: host_ip.win: said 10.10.0.1, taken: the inventory's win.local (in the inventory that is mini1's)",
        "42: timeout: said 0.1, taken: request_timeout 300 (inference collects no gradients)",
    ]


def test_inference_alone_takes_server_and_the_first_workers() -> None:
    served = resolve_any_serving(Request(block("inference"), "inference", model="causal_gpt2"))
    assert [(s.node, s.start, s.stop) for s in served.serve.stages] == [
        ("mini2", 0, 4),
        ("mini1", 4, 8),
        ("mini3", 8, 12),
    ]
    assert any("host_ip.mini3: said 10.10.0.2, taken: the host name mini3" in note for note in served.notes)


def test_the_mp_file_serves_too() -> None:
    served = resolve_any_serving(Request(HOME, "inference", model="causal_gpt2", cluster_config=block("mp")))
    assert [s.node for s in served.serve.stages] == ["mini1", "mini2", "mini3"]
    assert served.serve.request_timeout_s == 300
    assert [note.partition(": ")[2] for note in served.notes] == [
        "defaults.stages: said mini1, ipad, mini2, taken: workers: mini2, mini3 (the later layer wins)"
    ]


def test_the_mp_files_timeout_is_the_requests_deadline(tmp_path: Path) -> None:
    path = tmp_path / "mp.yaml"
    path.write_text(block("mp").read_text().replace("timeout: 300", "timeout: 12"))
    served = resolve_any_serving(Request(HOME, "inference", model="causal_gpt2", cluster_config=path))
    assert served.serve.request_timeout_s == 12


def test_gpt_block() -> None:
    run = resolve(Request(HOME, "single", config=FIXTURES / "gpt_config.yaml")).run
    assert run.training.learning_rate == 6e-4
    assert (run.training.batch_size, run.training.epochs, run.training.grad_clip_norm) == (32, 30, 1.0)
    assert (run.schedule.warmup_iters, run.schedule.min_lr) == (100, 6e-5)
    assert (run.data.dataset, run.data.tokenizer) == ("wikitext2", "openai-community/gpt2")
    assert run.project_name == "smolcluster-gpt-wikitext2"


def test_nn_block() -> None:
    run = resolve_any(Request(HOME, "single", model="nn", config=FIXTURES / "nn_config.yaml")).run
    assert (run.training.batch_size, run.training.epochs, run.training.learning_rate) == (32, 2, 0.001)
    assert (run.training.grad_clip_norm, run.training.polyak_alpha) == (1.0, 0.5)
    assert run.training.track_gradients
    assert (run.data.dataset, run.project_name) == ("mnist", "smolcluster-nn-mnist")


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_blocks_staleness_is_taken(stage: int) -> None:
    run = resolve(Request(HOME, "fsdp", cluster_config=block("fsdp"), overrides=(f"fsdp_stage={stage}",))).run
    assert (run.fsdp_stage, run.staleness_bound) == (stage, 5)


def test_the_blocks_staleness_is_refused_in_stage_3_and_its_fix_works() -> None:
    text = report(Request(HOME, "fsdp", cluster_config=block("fsdp"), overrides=("fsdp_stage=3",)))
    assert (
        "cluster_config_fsdp.yaml:5: staleness_bound: 5 cannot be had: stage 3 gathers parameters in forward and again "
        "in backward, and under a bound they could be of two versions" in text
    )
    strict = ("staleness_bound=0", "fsdp_stage=3")
    assert resolve(Request(HOME, "fsdp", cluster_config=block("fsdp"), overrides=strict)).run.staleness_bound == 0


@pytest.mark.parametrize("strategy", ["fsdp", "classicdp", "edp", "syncps", "mp", "inference"])
def test_groups_of_a_block_alone(strategy: str) -> None:
    path = block(strategy)
    groups = strategies_of(load_inventory(path), path)
    minis = ("mini1", "mini2", "mini3")
    workers = ("pi5", "win", "macbook")
    expected = {
        "fsdp": {"fsdp": minis},
        "classicdp": {"classicdp": minis},
        "edp": {"edp_server": ("mini1",), "edp_workers": workers},
        "syncps": {"syncps_server": ("mini1",), "syncps_workers": workers},
        "mp": {"mp": minis},
        "inference": {"inference_server": ("mini2",), "inference_stages": ("mini2", "mini1", "mini3")},
    }
    assert groups == expected[strategy]


@pytest.mark.parametrize("name", ["gpt_config", "nn_config", "model_config_inference"])
def test_a_block_that_names_no_machines_is_no_inventory(name: str) -> None:
    with pytest.raises(ConfigError, match="an inventory is wanted here, but this is"):
        load_inventory(FIXTURES / f"{name}.yaml")
