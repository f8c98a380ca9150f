"""The plan of a served model, exact for the shipped inventories; what an entry, a flag or a folder changes in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from smolcluster.plan.profile import Profile
from smolcluster.plan.render import node_config
from smolcluster.plan.stages import STAGE_BASE_MB, weight_of
from smolcluster.plan.types import NodeConfig, ServePlan
from smolcluster.spec.request import Request
from smolcluster.spec.serving import resolve_any_serving
from smolcluster.spec.shape import read_shape

from .conftest import FIXTURES, HOME, LOCAL
from .model_folders import GPT2, SMOLLM2, model_folder
from .serving_plans import NOT_PRIVATE, Write, asked, planned, refused, stage


def test_the_local_default(smollm2: Path) -> None:
    plan = planned(smollm2, asked(LOCAL))
    here = "127.0.0.1"
    got = plan.model_dump(by_alias=True, mode="json")
    assert got["ranks"] == [
        {
            **stage(0, "node1", [here], 0, {"1": here, "2": here}, 1),
            "encrypt": {"1": False, "2": False, "3": False},
        },
        stage(1, "node2", [here], 0, {"0": here, "2": here}, 1),
        stage(2, "node3", [here], 0, {"0": here, "1": here}, 1),
        {**stage(3, "node1", [], 0, {"0": here}, 1), "local_rank": 1, "role": "api", "device": "cpu"},
    ]
    # The head of the model is as much work as eight layers.
    unknown = {"memory_mb": None, "speed": 1.0}
    assert got["stages"] == [
        {"rank": 0, "start": 0, "stop": 13, "need_mb": 400 + 440, **unknown},
        {"rank": 1, "start": 13, "stop": 26, "need_mb": 400 + 332, **unknown},
        {"rank": 2, "start": 26, "stop": 30, "need_mb": 400 + 210, **unknown},
    ]
    assert got["api"] == {"rank": 3, "listen": [here], "api_port": 8080, "frontend_port": 5050, "tls": False}
    assert (plan.layers, plan.world_size, plan.params, plan.notes) == (30, 4, 134_515_008, ())
    assert (plan.serve.model_name, plan.serve.source, plan.serve.licence) == ("smollm2", "test smollm2", "MIT")
    assert plan.serve.cache_tokens == 4 * 2048


def test_needs_are_weights_caches_and_a_process(smollm2: Path) -> None:
    """The figures of the local default by hand: fp32, 4 contexts of 2048 tokens, 384 values a token and layer."""
    layer = 4 * (576 * 64 * 2 * 12 + 576 * 1536 * 3)
    cache = 4 * 384 * 8192
    table = 4 * 49152 * 576
    weight = weight_of(read_shape(smollm2), "fp32", 8192)
    assert (weight.layer_bytes, weight.cache_bytes, weight.table_bytes, weight.head_bytes) == (
        layer, cache, table, table,
    )  # fmt: skip
    first = planned(smollm2, asked(LOCAL)).stages[0]
    assert first.need_mb == STAGE_BASE_MB + -(-(13 * (layer + cache) + table) // 2**20)


@pytest.mark.parametrize(
    ("precision", "layer", "table", "head", "cache"),
    [("fp32", 4, 4, 4, 4), ("bf16", 2, 2, 2, 2), ("int8", 1, 4, 1, 4)],
)
def test_bytes_by_precision(gpt2: Path, precision: str, layer: int, table: int, head: int, cache: int) -> None:
    shape = read_shape(gpt2)
    weight = weight_of(shape, precision, 100)
    assert weight.layer_bytes == layer * 12 * 768 * 768
    assert weight.table_bytes == table * (50257 + 1024) * 768
    assert weight.head_bytes == head * 50257 * 768
    assert weight.cache_bytes == cache * 2 * 768 * 100
    assert round(weight.head_layers, 2) == 5.45


def test_the_home_inventory_without_its_tablet(gpt2: Path) -> None:
    nodes = ("mini1", "pi5", "mini2", "macbook")
    plan = planned(gpt2, asked(HOME, "", f"nodes=[{','.join(nodes)}]", "num_workers=2"))
    assert [(r.node, r.role, r.listen, r.port, r.peers) for r in plan.ranks] == [
        ("mini1", "stage", ("192.168.50.1", "10.10.0.1", "mini1.local"), 65432,
         {1: "192.168.50.2", 2: "10.10.0.2", 3: "macbook.local"}),
        ("pi5", "stage", ("192.168.50.2",), 65432, {0: "192.168.50.1", 2: "10.10.0.2", 3: "macbook.local"}),
        ("mini2", "stage", ("10.10.0.2", "mini2.local"), 65432,
         {0: "10.10.0.1", 1: "192.168.50.2", 3: "macbook.local"}),
        ("macbook", "stage", ("macbook.local",), 65432, {0: "mini1.local", 1: "192.168.50.2", 2: "mini2.local"}),
        ("macbook", "api", (), 0, {0: "mini1.local"}),
    ]  # fmt: skip
    assert [(s.start, s.stop) for s in plan.stages] == [(0, 4), (4, 8), (8, 11), (11, 12)]
    assert plan.serve.model_name == "causal_gpt2"
    assert plan.notes[-2:] == (
        f"network wifi: {NOT_PRIVATE}",
        "mini1 has room for the whole model (1310 of 16384 MB): alone it answers one person at a time sooner"
        " (--nodes mini1); several machines pay when several ask at once",
    )
    fast = planned(gpt2, asked(HOME, nodes=("mini1", "pi5", "mini2")), Profile(schema=1, speeds={"mini2": 2.0}))
    assert fast.notes[-1].startswith("mini2 has room for the whole model")
    for nodes in (("mini1",), ("pi5", "pi4")):
        assert "room" not in "".join(planned(gpt2, asked(HOME, nodes=nodes)).notes)


def test_the_same_inputs_give_the_same_bytes(gpt2: Path) -> None:
    request = asked(LOCAL, str(gpt2))
    one, two = planned(gpt2, request), planned(gpt2, request)
    assert one.to_json() == two.to_json()
    assert ServePlan.model_validate_json(one.to_json()) == one
    assert ServePlan.model_validate_json(one.to_json()).digest() == one.digest()
    assert planned(gpt2, asked(LOCAL, str(gpt2), "seed=1")).digest() != one.digest()


def test_a_measured_speed_moves_layers(gpt2: Path) -> None:
    request = asked(LOCAL, str(gpt2))
    even = [(s.start, s.stop) for s in planned(gpt2, request).stages]
    fast = [(s.start, s.stop) for s in planned(gpt2, request, Profile(schema=1, speeds={"node3": 3.0})).stages]
    assert (even, fast) == ([(0, 6), (6, 11), (11, 12)], [(0, 3), (3, 6), (6, 12)])


def test_a_folder_is_a_model_of_its_own(tmp_path: Path, smollm2: Path) -> None:
    serve = planned(smollm2, asked(LOCAL, str(smollm2))).serve
    assert (serve.model_name, serve.model.num_layers, serve.model.ctx_length) == (str(smollm2), 30, 2048)
    assert set(serve.model.decoding_strategies) == {"greedy", "sampling", "top_p", "top_k"}
    short = model_folder(tmp_path / "short", GPT2, n_positions=96)
    serve = planned(short, asked(LOCAL, str(short), "precision=int8")).serve
    assert (serve.model.ctx_length, serve.model.max_new_tokens, serve.model.precision) == (96, 96, "int8")


INT9 = '--override precision=int9: precision: must be one of fp32, bf16, int8, not the text "int9" | did you mean int8?'


def test_flags_set_what_an_entry_says(smollm2: Path) -> None:
    model = planned(smollm2, asked(LOCAL, "", "precision=bf16", "ctx_length=512", "decoding_strategies.top_p.p=0.5"))
    assert (model.serve.model.precision, model.serve.model.ctx_length) == ("bf16", 512)
    assert model.serve.model.decoding_strategies["top_p"].p == 0.5
    assert refused(smollm2, asked(LOCAL, "", "precision=int9", "ctx_length=9000", "max_new_tokens=0")) == [
        "--override max_new_tokens=0: max_new_tokens: must be more than 0, not 0 | write a whole number, at least 1",
        INT9,
    ]


def test_of_several_flags_for_a_folder_the_wrong_one_is_named(smollm2: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(smollm2, tmp_path / "model")
    assert refused(smollm2, asked(LOCAL, str(folder), "precision=int9", "max_new_tokens=8")) == [INT9]


def test_what_only_training_has_is_refused(smollm2: Path) -> None:
    request = asked(LOCAL, "", "training.batch_size=4", "model.num_layers=2", dataset="pydoc", config=Path("gpt.yaml"))
    assert [problem.partition(" | ")[0] for problem in refused(smollm2, request)] == [
        "--config gpt.yaml: is a flag of training, and a model is only served here",
        "--dataset pydoc: is a flag of training, and a model is only served here",
        "--override model.num_layers=2: model.num_layers: is a key of training, and a model is only served here",
        "--override training.batch_size=4: training.batch_size: is a key of training, and a model is only served here",
    ]
    [problem] = refused(smollm2, asked(LOCAL, "", "training.precision=bf16"))
    assert problem.endswith(" | did you mean precision?")
    [problem] = refused(smollm2, asked(LOCAL, "", "max_steps=4"))
    assert "training.max_steps" not in problem, "which is refused in turn"
    [problem] = refused(smollm2, asked(LOCAL, "", "api_port=4"))
    assert problem.endswith(" | did you mean web_interface.api_port?")
    [problem] = refused(smollm2, asked(LOCAL, "", "contxt=4"))
    assert problem.startswith("--override contxt=4: contxt: unknown key")


def test_a_hub_id_may_be_served(gpt2: Path) -> None:
    plan = planned(gpt2, asked(LOCAL, "owner/name"))
    assert (plan.serve.model_name, plan.serve.source, plan.layers) == ("owner/name", "test owner/name", 12)
    for name in ("owner/name/more", "./name", "/name", "owner/"):
        [problem] = refused(gpt2, asked(LOCAL, name))
        assert problem.startswith(f"--model {name}: there is no such model to serve")


def test_a_run_that_is_not_there_is_no_hub_id(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = "--model runs/nope: there is no such folder | "
    assert refused(gpt2, asked(LOCAL, "runs/nope")) == [f"{said}give a model folder or a run"]
    model_folder(tmp_path / "runs" / "one" / "model", GPT2)
    assert refused(gpt2, asked(LOCAL, "runs/nope")) == [f"{said}those with a model: runs/one"]
    assert planned(gpt2, asked(LOCAL, "owner/name")).serve.model_name == "owner/name"


def test_which_model_is_served_where_nobody_says(gpt2: Path, smollm2: Path, written: Write) -> None:
    assert planned(smollm2, asked(LOCAL)).serve.model_name == "smollm2"
    assert planned(gpt2, asked(LOCAL, "causal_gpt2")).serve.model_name == "causal_gpt2"
    assert planned(gpt2, asked(LOCAL, "", "model_name=causal_gpt2")).serve.model_name == "causal_gpt2"
    own = written("own.smol.yml", "schema: 1\nname: own\nmachines: {here: {connection: local}}\n")
    assert planned(gpt2, asked(own)).serve.model_name == "causal_gpt2"


def test_a_person_s_table_of_weights_names_models_too(gpt2: Path, written: Write) -> None:
    own = written("own.smol.yml", "schema: 1\nname: own\nmachines: {here: {connection: local}}\n")
    table = "mine: {source: path, location: /models/mine, files: {config.json: null}, licence: MIT}\n"
    written("configs/model_weights.yaml", table)
    plan = planned(gpt2, asked(own, "mine"))
    assert (plan.serve.model_name, plan.serve.model.weights_model_name) == ("mine", "mine")
    assert refused(gpt2, asked(own, "mime")) == ["--model mime: there is no such model to serve | did you mean mine?"]


def test_entry_and_folder_must_agree(tmp_path: Path) -> None:
    odd = model_folder(tmp_path / "odd", SMOLLM2, num_hidden_layers=28, max_position_embeddings=1000)
    where = "smolcluster/configs/model_config_inference.yaml:"
    problems = refused(odd, asked(LOCAL))
    assert [problem.removeprefix(where).partition(" ")[2] for problem in problems] == [
        "smollm2.num_layers: says 30, and the model has 28 layers | write 28",
        "smollm2.ctx_length: says 2048, and the model has 1000 positions | write 1000 or less",
    ]


def test_node_files_can_be_previewed(gpt2: Path) -> None:
    plan = planned(gpt2, asked(HOME, nodes=("mini1", "mini2")))
    cluster = resolve_any_serving(asked(HOME, "causal_gpt2", nodes=("mini1", "mini2"))).cluster
    config: NodeConfig = node_config(plan, cluster.node("mini1"))
    assert config.run_id.startswith("preview-inference-")
    assert (config.ranks, config.model_dir) == ((0, 2), f"{config.run_dir}/model")


def test_the_guide_s_blocks_serve(gpt2: Path) -> None:
    plan = planned(gpt2, Request(FIXTURES / "cluster_config_inference.yaml", "inference", model=""))
    assert [rank.node for rank in plan.ranks] == ["mini2", "mini1", "mini3", "mini2"]
    plan = planned(gpt2, Request(HOME, "inference", model="", cluster_config=FIXTURES / "cluster_config_mp.yaml"))
    assert [rank.node for rank in plan.ranks] == ["mini1", "mini2", "mini3", "macbook"]
