"""Layers: who has the last word, and where a key came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.errors import ConfigError
from smolcluster.spec.document import parse_document
from smolcluster.spec.layers import canonical_model, merge
from smolcluster.spec.overrides import separated
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventory" / "local.smol.yml"
INVENTORY = """\
schema: 1
name: own
machines: {mini1: {}, mini2: {}}
networks: {lan: {medium: ethernet, members: {mini1: 10.0.0.1, mini2: 10.0.0.2}}}
"""


def test_sections_are_merged_and_lists_replaced() -> None:
    low = parse_document("a: {x: 1, y: 2}\nb: [1, 2]\nc: 1\n", "low")
    high = parse_document("a: {y: 3}\nb: [4]\nc: {d: 1}\n", "high")
    merged = merge([low, high])
    assert merged.data == {"a": {"x": 1, "y": 3}, "b": [4], "c": {"d": 1}}
    assert [merged.source(path).file for path in (("a", "x"), ("a", "y"), ("b", 0), ("c", "d"))] == [  # type: ignore[union-attr]
        "low",
        "high",
        "high",
        "high",
    ]
    assert str(merged.problem(("a", "x"), "wrong")) == "low:1: a.x: wrong"
    assert merged.height(("a", "x")) == 0
    assert merged.height(("nothing",)) == -1
    # Merging leaves the layers as they were.
    assert low.data == {"a": {"x": 1, "y": 2}, "b": [1, 2], "c": 1}


def test_precedence(tmp_path: Path) -> None:
    """Shipped < overlay < inventory defaults < file of a flag < --override, each for a key the next does not have."""
    inventory = tmp_path / "own.smol.yml"
    defaults = "defaults: {training: {weight_decay: 0.2, eval_steps: 30, max_steps: 300, epochs: 3}}\n"
    inventory.write_text(INVENTORY + defaults)
    overlay = tmp_path / "configs" / "gpt_config.yaml"
    overlay.parent.mkdir()
    overlay.write_text(
        "training: {learning_rate: 2e-3, weight_decay: 0.1, eval_steps: 20, max_steps: 200, epochs: 2}\n"
    )
    config = tmp_path / "mine.yaml"
    config.write_text("training: {eval_steps: 40, max_steps: 400, epochs: 4}\n")
    run = resolve(
        Request(inventory, "fsdp", config=config, overrides=("training.max_steps=500", "training.max_steps=600"))
    ).run
    training = run.training
    assert training.grad_clip_norm == 1.0  # shipped
    assert training.learning_rate == 2e-3  # overlay
    assert training.weight_decay == 0.2  # defaults
    assert (training.eval_steps, training.epochs) == (40, 4)  # --config
    assert training.max_steps == 600  # the last override


def test_a_warm_up_of_a_lower_layer_is_shortened_for_a_shorter_run(tmp_path: Path) -> None:
    resolved = resolve(Request(LOCAL, "fsdp", overrides=("training.max_steps=12",)))
    assert resolved.run.schedule.warmup_iters == 1
    assert len(resolved.notes) == 1
    assert resolved.notes[0].endswith(
        "inventory/local.smol.yml:35: defaults.lr_schedule.warmup_iters: said 20, taken: 1"
        " (training.max_steps is 12, and was given later)"
    )
    inventory = tmp_path / "own.smol.yml"
    inventory.write_text(INVENTORY + "defaults: {training: {max_steps: 5}}\n")  # shipped: 100
    assert resolve(Request(inventory, "fsdp")).run.schedule.warmup_iters == 0
    # Whoever writes a warm-up that fits gets it.
    fits = resolve(Request(LOCAL, "fsdp", overrides=("training.max_steps=12", "lr_schedule.warmup_iters=12")))
    assert (fits.run.schedule.warmup_iters, fits.notes) == (12, ())


@pytest.mark.parametrize(
    ("defaults", "overrides"),
    [
        ("training: {max_steps: 5}, lr_schedule: {warmup_iters: 6}", ()),
        ("training: {max_steps: 5}", ("lr_schedule.warmup_iters=6",)),
        ("", ("lr_schedule.warmup_iters=6", "training.max_steps=5")),
        ("", ("training.max_steps=5", "lr_schedule.warmup_iters=6")),
    ],
)
def test_a_warm_up_of_the_same_or_a_higher_layer_is_refused(
    tmp_path: Path, defaults: str, overrides: tuple[str, ...]
) -> None:
    inventory = tmp_path / "own.smol.yml"
    inventory.write_text(INVENTORY + f"defaults: {{{defaults}}}\n")
    with pytest.raises(ConfigError, match=r"warmup_iters: 6 is more than training.max_steps, 5\n.*write at most 5"):
        resolve(Request(inventory, "fsdp", overrides=overrides))


def test_inputs_have_every_file_that_was_read(tmp_path: Path) -> None:
    inventory = tmp_path / "own.smol.yml"
    inventory.write_text(INVENTORY)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "gpt_config.yaml").write_text("{}\n")
    config = tmp_path / "mine.yaml"
    config.write_text("{}\n")
    inputs = resolve(Request(inventory, "fsdp", config=config)).inputs
    assert {Path(name).name for name in inputs} == {
        "own.smol.yml",
        "gpt_config.yaml",
        "mine.yaml",
        "cluster_config_fsdp.yaml",
    }
    assert len(inputs) == 5  # gpt_config.yaml shipped and own
    assert all(len(digest) == 64 for digest in inputs.values())


@pytest.mark.parametrize(
    ("overrides", "norm"),
    [
        ((), 1.0),
        (("training.grad_clip_norm=0.5",), 0.5),
        (("training.grad_clip_norm=null",), None),
        (("gradient_clipping.enabled=false",), None),
        (("gradient_clipping.max_norm=2.0",), 2.0),
        (("training.grad_clip_norm=0.5", "gradient_clipping.enabled=false", "gradient_clipping.enabled=true"), 0.5),
        (("training.grad_clip_norm=null", "gradient_clipping.max_norm=3.0", "gradient_clipping.enabled=true"), 3.0),
    ],
)
def test_clipping_is_one_setting(overrides: tuple[str, ...], norm: float | None) -> None:
    assert resolve(Request(LOCAL, "fsdp", overrides=overrides)).run.training.grad_clip_norm == norm


def test_flat_keys_of_nn_stand_in_the_sections() -> None:
    text = "batch_size: 4\nnum_epochs: 2\ndataset: {name: MNIST}\ngradient_clipping: {enabled: true, max_norm: 2.0}\n"
    document = canonical_model(parse_document(text, "nn"))
    assert document.data["training"] == {"batch_size": 4, "epochs": 2}
    assert document.data["data"] == {"dataset": "MNIST", "path": None}
    assert document.line(("training", "epochs")) == 2


def test_an_override_of_the_data_set_wins_over_a_path_below(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("once")
    config = tmp_path / "mine.yaml"
    config.write_text("data: {path: book.txt}\n")  # beside the file that says it
    assert resolve(Request(LOCAL, "single", config=config)).run.data.path == str(book)
    assert resolve(Request(LOCAL, "single", config=config, overrides=("data.dataset=snli",))).run.data.dataset == "snli"


def test_override_values_are_yaml() -> None:
    overrides = (
        "training.learning_rate=3e-4",
        "nodes=[node3, node1]",
        "port={default: 0, node1: 0}",
        "model.dropout=0",
    )
    run = resolve(Request(LOCAL, "fsdp", overrides=overrides)).run
    assert run.training.learning_rate == 3e-4
    assert [p.node for p in run.participants] == ["node3", "node1"]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("seed=7", ["seed=7"]),
        ("training.max_steps=5, seed=7,fsdp_stage=3", ["training.max_steps=5", "seed=7", "fsdp_stage=3"]),
        ("nodes=[node1,node2],seed=7", ["nodes=[node1,node2]", "seed=7"]),
        ("balance={node1: 2,node2: 1},port=5", ["balance={node1: 2,node2: 1}", "port=5"]),
        ("data.path=one,two and three.txt", ["data.path=one,two and three.txt"]),
        ('data.path="a,b=1.txt",seed=7', ['data.path="a,b=1.txt"', "seed=7"]),
        ("data.path=Emma's,seed=7", ["data.path=Emma's", "seed=7"]),
        ("balance={node1: [x=1,y=2]}", ["balance={node1: [x=1,y=2]}"]),
        ("training.max_steps=5\nseed=7\n", ["training.max_steps=5", "seed=7"]),
        ("no key", ["no key"]),
        ("", [""]),
    ],
)
def test_settings_in_one_override(text: str, settings: list[str]) -> None:
    assert separated(text) == settings
