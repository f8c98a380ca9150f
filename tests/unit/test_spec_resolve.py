"""Who takes part, what is worked out, what is read of an inventory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smolcluster.errors import ConfigError
from smolcluster.spec.groups import strategies_of
from smolcluster.spec.inventory import load_inventory
from smolcluster.spec.machines import own_kind
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve, resolve_any

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventory" / "local.smol.yml"
HOME = ROOT / "inventory" / "home.smol.yml"
CAPABLE = ("mini1", "mini2", "mini3", "macbook", "pi5", "pi4", "win")


def nodes(strategy: str, inventory: Path = HOME, **flags: object) -> tuple[str, ...]:
    run = resolve_any(Request(inventory, strategy, **flags)).run  # type: ignore[arg-type]
    return tuple(participant.node for participant in run.participants)


def test_without_names_every_capable_machine_takes_part_in_order() -> None:
    assert nodes("fsdp") == CAPABLE
    assert nodes("edp") == CAPABLE
    assert nodes("single") == ("mini1",)


def test_a_subset_as_the_person_wrote_it() -> None:
    assert nodes("fsdp", nodes=("pi5", "mini2")) == ("pi5", "mini2")
    assert nodes("single", nodes=("pi5", "mini2")) == ("pi5",)


def test_a_subset_of_a_list_keeps_the_lists_ranks() -> None:
    block = ROOT / "tests" / "configs" / "fixtures" / "cluster_config_fsdp.yaml"
    resolved = resolve_any(Request(HOME, "fsdp", cluster_config=block, nodes=("mini3", "mini1")))
    assert [(p.node, p.port) for p in resolved.run.participants] == [("mini1", 65432), ("mini3", 65434)]
    assert (
        "--nodes mini3,mini1: nodes: said mini3, mini1, taken: mini1, mini3"
        " (the file's own list is mini1, mini2, mini3)"
    ) in resolved.notes


def test_a_server_that_does_not_take_part_is_replaced_with_a_note() -> None:
    block = ROOT / "tests" / "configs" / "fixtures" / "cluster_config_edp.yaml"
    resolved = resolve_any(Request(HOME, "edp", cluster_config=block, nodes=("pi5", "win")))
    assert [(p.node, p.role) for p in resolved.run.participants] == [("pi5", "server"), ("win", "worker")]
    assert any("server: said mini1, taken: pi5 (mini1 does not take part)" in note for note in resolved.notes)


def test_groups_of_the_home_inventory() -> None:
    groups = strategies_of(load_inventory(HOME), HOME)
    assert groups["fsdp"] == CAPABLE
    assert (groups["edp_server"], groups["edp_workers"]) == (("mini1",), CAPABLE[1:])
    assert (groups["inference_server"], groups["inference_stages"]) == (("mini1",), ("mini1", "ipad", "mini2"))


def test_windows_machines_take_part_named_or_not(tmp_path: Path) -> None:
    """The plan, the groups and the playbook's preflight say one thing."""
    assert not [note for note in resolve(Request(HOME, "fsdp")).notes if "left out" in note]
    assert [part.node for part in resolve(Request(HOME, "single", nodes=("win",))).run.participants] == ["win"]
    path = tmp_path / "c.yaml"
    path.write_text("fsdp_stage: 1\nnodes: [mini1,\n  win]\n")
    assert [p.node for p in resolve(Request(HOME, "fsdp", cluster_config=path)).run.participants] == ["mini1", "win"]


def test_windows_machines_alone_can_train(tmp_path: Path) -> None:
    path = tmp_path / "own.smol.yml"
    path.write_text("schema: 1\nname: own\nmachines: {win1: {}, win2: {}}\n")
    assert nodes("fsdp", path) == ("win1", "win2")
    assert strategies_of(load_inventory(path), path)["fsdp"] == ("win1", "win2")


def test_tablets_alone_cannot_train(tmp_path: Path) -> None:
    path = tmp_path / "own.smol.yml"
    path.write_text("schema: 1\nname: own\nmachines: {ipad: {}}\n")
    with pytest.raises(ConfigError, match=r"no machine of own can train\n +fix: add one that runs macOS, Linux or Win"):
        resolve(Request(path, "fsdp"))
    assert "fsdp" not in strategies_of(load_inventory(path), path)


def test_this_machine_trains_whatever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.smol.yml"
    path.write_text("schema: 1\nname: own\nmachines: {here: {connection: local, kind: windows}}\n")
    assert nodes("single", path) == ("here",)


def test_single_says_that_it_uses_one_machine() -> None:
    notes = resolve(Request(LOCAL, "single", nodes=("node2", "node1"))).notes
    assert notes == ("--nodes node2,node1: nodes: said node2, node1, taken: node2 (single trains on one machine)",)
    assert resolve(Request(LOCAL, "single", nodes=("node2",))).notes == ()


def test_one_machine_has_no_group_of_a_star(tmp_path: Path) -> None:
    path = tmp_path / "one.smol.yml"
    path.write_text("schema: 1\nname: one\nmachines: {here: {connection: local}}\n")
    groups = strategies_of(load_inventory(path), path)
    assert groups == dict.fromkeys(
        ("single", "classicdp", "fsdp", "diloco", "inference_server", "inference_stages"), ("here",)
    )


def test_the_local_inventory() -> None:
    cluster = load_inventory(LOCAL)
    assert [node.name for node in cluster.nodes] == ["node1", "node2", "node3"]
    for node in cluster.nodes:
        assert (node.kind, node.connection, node.host, node.threads) == (own_kind(), "local", "localhost", 1)
        assert Path(node.workdir) == ROOT / "runs"
    run = resolve(Request(LOCAL, "fsdp")).run
    assert (run.data.dataset, run.data.tokenizer) == ("pydoc", "bpe:2048")
    assert all(participant.port == 0 for participant in run.participants)


def test_machines_without_networks_share_one_lan(tmp_path: Path) -> None:
    path = tmp_path / "own.smol.yml"
    path.write_text("schema: 1\nname: own\nmachines: {mini1: {host: mini1.local}, pi5: {host: pi5.local}}\n")
    (lan,) = load_inventory(path).networks
    assert (lan.name, lan.private, lan.members) == ("lan", False, {"mini1": "mini1.local", "pi5": "pi5.local"})
    note = "networks: said nothing, taken: one network, lan, on which every machine is reached under its host"
    assert resolve(Request(path, "fsdp")).notes == (f"{path.as_posix()}: {note}",)


def test_nodes_of_this_machine_without_networks_share_its_loopback(tmp_path: Path) -> None:
    path = tmp_path / "own.smol.yml"
    path.write_text("schema: 1\nname: own\nmachines: {a: {connection: local}, b: {connection: local}}\n")
    (loopback,) = load_inventory(path).networks
    assert (loopback.medium, loopback.private) == ("loopback", True)


def test_the_controller_on_a_lan_needs_an_address(tmp_path: Path) -> None:
    path = tmp_path / "own.smol.yml"
    path.write_text("schema: 1\nname: own\nmachines: {mini1: {connection: local}, pi5: {}}\n")
    with pytest.raises(ConfigError, match=r"machines\.mini1: nothing says under which address[\s\S]*mini1\.local"):
        load_inventory(path)


def test_own_kind_is_this_machines() -> None:
    assert own_kind() == {"darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")


def test_the_home_inventory_reads_names_as_kinds() -> None:
    kinds = {node.name: node.kind for node in load_inventory(HOME).nodes}
    assert kinds == {
        **dict.fromkeys(("mini1", "mini2", "mini3", "macbook"), "macos"),
        "pi5": "linux",
        "pi4": "linux",
        "win": "windows",
        "ipad": "ipados",
    }
    ipad = load_inventory(HOME).node("ipad")
    assert (ipad.connection, ipad.train) == ("none", False)
    assert load_inventory(HOME).node("pi5").workdir == "~/.smolcluster/runs"


@pytest.mark.parametrize(
    ("overrides", "batch", "epochs"),
    [
        (("data.dataset=wikitext2",), 32, 30),
        (("data.dataset=snli",), 32, 20),
        (("data.dataset=pydoc",), 32, 1),
        (("model.max_seq_len=256",), 16, 30),
        (("model.max_seq_len=8192",), 1, 30),
        (("training.batch_size=5", "training.epochs=7"), 5, 7),
    ],
)
def test_automatic_batch_and_epochs(overrides: tuple[str, ...], batch: int, epochs: int) -> None:
    training = resolve(Request(HOME, "fsdp", overrides=overrides)).run.training
    assert (training.batch_size, training.epochs) == (batch, epochs)


def test_a_persons_own_text(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("Once upon a time.")
    run = resolve(Request(LOCAL, "single", dataset=str(book))).run
    assert (run.data.dataset, run.data.path) == ("text", str(book))
    assert run.project_name == "smolcluster-gpt-text"


@pytest.mark.parametrize("by_flag", [True, False])
def test_a_local_copy_of_a_data_set_keeps_its_name(tmp_path: Path, by_flag: bool) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "train-00000.parquet").write_bytes(b"PAR1")
    said = (
        ("data.path=" + str(tmp_path / "copy"),) if by_flag else (f"data.path={tmp_path / 'copy'}", "data.dataset=snli")
    )
    request = Request(LOCAL, "single", dataset="snli" if by_flag else None, overrides=said)
    run = resolve(request).run
    assert (run.data.dataset, run.data.path) == ("snli", str(tmp_path / "copy"))
    assert run.training.epochs == 20


def test_a_folder_of_text_is_ones_own_whatever_the_data_set_was(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Once upon a time.")
    request = Request(LOCAL, "single", overrides=("data.dataset=wikitext2", f"data.path={tmp_path}"))
    assert resolve(request).run.data.dataset == "text"


@pytest.mark.parametrize("name", ["mnist", "MNIST"])
def test_images_are_refused_for_a_gpt_model(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve(Request(LOCAL, "single", dataset=name))
    text = str(refused.value)
    assert f"--dataset {name}: data.dataset: mnist is images, and a gpt model is trained on text" in text
    assert "fix: write pydoc, wikitext2, snli, wiki-sample, or the path of your own text" in text


@pytest.mark.parametrize("name", ["mnst", "zebra"])
def test_images_are_not_advised_to_a_gpt_model(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve(Request(LOCAL, "single", dataset=name))
    assert "mnist" not in str(refused.value)
    assert "fix: write pydoc," in str(refused.value)


@pytest.mark.parametrize("by_path", [True, False])
def test_a_text_without_text_is_refused_before_anything_is_read(tmp_path: Path, by_path: bool) -> None:
    (tmp_path / "empty.txt").write_text("")
    folder = tmp_path / "folder"
    (folder / ".hidden").mkdir(parents=True)
    (folder / ".hidden" / "a.txt").write_text("not meant")
    (folder / "a.bin").write_text("not text")
    for path, told in ((tmp_path / "empty.txt", "empty.txt is empty"), (folder, "there is no text file in")):
        said = {"overrides": (f"data.path={path}",)} if by_path else {"dataset": str(path)}
        with pytest.raises(ConfigError, match=told):
            resolve(Request(LOCAL, "single", **said))  # type: ignore[arg-type]
    (folder / "b.MD").write_text("# text")
    assert resolve(Request(LOCAL, "single", dataset=str(folder))).run.data.path == str(folder)


def test_gradient_norms_per_layer_are_recorded_when_asked_for() -> None:
    resolved = resolve(Request(LOCAL, "single", overrides=("training.track_gradients=true",)))
    assert resolved.run.training.track_gradients
    assert resolved.notes == ()
    assert not resolve(Request(LOCAL, "single")).run.training.track_gradients


def test_names_of_data_sets_are_read_as_people_write_them() -> None:
    for name in ("WikiText-2", "wikitext_2", "wikitext2"):
        assert resolve(Request(HOME, "single", dataset=name)).run.data.dataset == "wikitext2"


def test_vocabulary_follows_the_tokenizer() -> None:
    assert resolve(Request(LOCAL, "single")).run.model.vocab_size == 2048  # type: ignore[union-attr]
    assert resolve(Request(HOME, "single")).run.model.vocab_size == 50257  # type: ignore[union-attr]


def test_metrics_can_really_be_turned_off() -> None:
    assert not resolve(
        Request(LOCAL, "fsdp", overrides=("track_network_metrics=false",))
    ).run.comm.track_network_metrics


def test_defaults_may_hold_keys_of_other_strategies(tmp_path: Path) -> None:
    path = tmp_path / "own.smol.yml"
    path.write_text(
        "schema: 1\nname: own\nmachines: {a: {connection: local}, b: {connection: local}}\n"
        "networks: {lo: {medium: loopback, members: {a: 127.0.0.1, b: 127.0.0.1}}}\n"
        "defaults: {fsdp_stage: 0, worker_update_interval: 3, port: 0}\n"
    )
    assert resolve(Request(path, "fsdp")).run.fsdp_stage == 0
    assert resolve(Request(path, "classicdp")).run.participants
    assert resolve_any(Request(path, "edp")).run.worker_update_interval == 3


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_of_fsdp_can_be_asked_for(stage: int) -> None:
    assert resolve(Request(LOCAL, "fsdp", overrides=(f"fsdp_stage={stage}",))).run.fsdp_stage == stage
