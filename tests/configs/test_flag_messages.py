"""Mistakes in flags, files of the wrong flag, and several mistakes at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smolcluster.spec.request import Request

from .conftest import LAN, LOCAL, only_problem, report

Write = Callable[[str, str], Path]

FLAGS = {
    "typo in an override": (
        {"overrides": ("training.batchsize=4",)},
        "--override training.batchsize=4: training.batchsize: unknown key | did you mean batch_size?",
    ),
    "section of an override": (
        {"overrides": ("trainin.batch_size=4",)},
        "--override trainin.batch_size=4: trainin: unknown key | did you mean training.batch_size?",
    ),
    "type of an override": (
        {"overrides": ("training.batch_size=many",)},
        '--override training.batch_size=many: training.batch_size: must be a whole number, not the text "many"'
        " | write a whole number, at least 1",
    ),
    "no value": (
        {"overrides": ("training.batch_size",)},
        "--override training.batch_size: is not key=value | write --override training.batch_size=16",
    ),
    "another strategy's key": (
        {"overrides": ("worker_update_interval=2",)},
        "--override worker_update_interval=2: worker_update_interval: is a key of edp, syncps;"
        " this run's strategy is fsdp | use --strategy edp, or leave it out",
    ),
    "always encrypted": (
        {"overrides": ("encrypt=always",)},
        "--override encrypt=always: encrypt: always needs certificates, and the cluster has none yet"
        " | ansible-playbook certificates.yml makes them; encrypt: auto goes without until then",
    ),
    "strategy": ({"strategy": "fdsp"}, "--strategy fdsp: there is no such strategy | did you mean fsdp?"),
    "model": ({"model": "gtp"}, "--model gtp: there is no such model | did you mean gpt?"),
    "text for SimpleNN": (
        {"model": "nn", "dataset": "snli"},
        "--dataset snli: data.dataset: snli is text, and an nn model is trained on pictures"
        " | write mnist, or the path of a folder with its files",
    ),
    "data set": (
        {"dataset": "wikitxt2"},
        '--dataset wikitxt2: data.dataset: "wikitxt2" is neither a data set nor a file or folder that is there'
        " | did you mean wikitext2?",
    ),
    "missing config": ({"config": Path("no.yaml")}, "no.yaml: there is no such file | check the path"),
    "missing cluster config": ({"cluster_config": Path("no.yaml")}, "no.yaml: there is no such file | check the path"),
    "missing inventory": ({"inventory": Path("no.smol.yml")}, "no.smol.yml: there is no such file | check the path"),
    "node": (
        {"nodes": ("node1", "nod2")},
        '--nodes node1,nod2: nodes[1]: there is no machine "nod2" in the inventory | did you mean node2?',
    ),
    "heads": (
        {"overrides": ("model.num_heads=5",)},
        "--override model.num_heads=5: model.num_heads: 5 heads do not divide model_dim, 192"
        " | use one of 1, 2, 3, 4, 6, 8, 12, 16, 24, 32",
    ),
    "tokenizer": (
        {"overrides": ("data.tokenizer=bpe:10",)},
        '--override data.tokenizer=bpe:10: data.tokenizer: "bpe:10" is no tokenizer'
        " | write bpe:2048, a size from 257 to 65536",
    ),
    "floor above the rate": (
        {"overrides": ("lr_schedule.min_lr=0.1",)},
        "--override lr_schedule.min_lr=0.1: lr_schedule.min_lr: 0.1 is more than training.learning_rate, 0.001"
        " | use at most 0.001, or null for a constant rate",
    ),
    "zero": (
        {"overrides": ("training.batch_size=0",)},
        "--override training.batch_size=0: training.batch_size: must be more than 0, not 0"
        " | write a whole number, at least 1",
    ),
    "below zero": (
        {"overrides": ("training.learning_rate=-1",)},
        "--override training.learning_rate=-1: training.learning_rate: must be more than 0, not -1"
        " | write a number above 0",
    ),
    "no steps": (
        {"overrides": ("training.max_steps=0",)},
        "--override training.max_steps=0: training.max_steps: must be more than 0, not 0"
        " | write a whole number, at least 1",
    ),
    "a part": (
        {"overrides": ("model.dropout=1",)},
        "--override model.dropout=1: model.dropout: must be less than 1, not 1 | write a number at least 0 and below 1",
    ),
    "port": (
        {"overrides": ("port=70000",)},
        "--override port=70000: port: must be at most 65535, not 70000 | write a whole number from 0 to 65535",
    ),
    "stage": (
        {"overrides": ("fsdp_stage=7",)},
        "--override fsdp_stage=7: fsdp_stage: must be at most 3, not 7 | write a whole number from 0 to 3",
    ),
    "a list for a number": (
        {"overrides": ("training.batch_size=[1, 2]",)},
        "--override training.batch_size=[1, 2]: training.batch_size: must be a whole number, not a list"
        " | write a whole number, at least 1",
    ),
    "a point": (
        {"overrides": ("seed=1.5",)},
        "--override seed=1.5: seed: must be a whole number, not 1.5 | write a whole number alone, as 42",
    ),
    "quotes": (
        {"overrides": ('training.batch_size="16"',)},
        '--override training.batch_size="16": training.batch_size: must be a whole number, not the text "16"'
        " | write it without quotes",
    ),
    "a word for a number": (
        {"overrides": ("training.weight_decay=big",)},
        '--override training.weight_decay=big: training.weight_decay: must be a number, not the text "big"'
        " | write a number at least 0",
    ),
    "not finite": (
        {"overrides": ("training.learning_rate=.inf",)},
        "--override training.learning_rate=.inf: training.learning_rate: must be a finite number, not inf"
        " | write a number above 0",
    ),
    "nodes as a setting": (
        {"overrides": ("nodes=node1",)},
        "--override nodes=node1: nodes: must be a list of machines, not a text | --nodes node1",
    ),
    "transport": (
        {"overrides": ("transport=nccl",)},
        '--override transport=nccl: transport: must be one of smol, gloo, auto, not the text "nccl"'
        " | write one of these",
    ),
    "a precision under another name": (
        {"overrides": ("training.precision=float16",)},
        "--override training.precision=float16: training.precision: must be one of fp32, bf16, fp16, not the text"
        ' "float16" | did you mean fp16?',
    ),
    "an option under another name": (
        {"overrides": ("training.gradient_checkpointing=true",)},
        "--override training.gradient_checkpointing=true: training.gradient_checkpointing: unknown key"
        " | did you mean activation_checkpointing?",
    ),
    "another option under another name": (
        {"overrides": ("training.amp=true",)},
        "--override training.amp=true: training.amp: unknown key | did you mean precision?",
    ),
    "an option under a short name, without its section": (
        {"overrides": ("lr=1",)},
        "--override lr=1: lr: unknown key | did you mean training.learning_rate?",
    ),
    "a key of the other model": (
        {"overrides": ("batch_size=4",)},
        "--override batch_size=4: batch_size: is a key of the nn model; this run's model is gpt"
        " | write training.batch_size, or leave it out",
    ),
    "a strategy under torch's name": (
        {"strategy": "ddp"},
        "--strategy ddp: there is no such strategy | did you mean classicdp?",
    ),
    "stale in stage 3": (
        {"overrides": ("staleness_bound=4", "fsdp_stage=3")},
        "--override staleness_bound=4: staleness_bound: 4 cannot be had: stage 3 gathers parameters in forward and"
        " again in backward, and under a bound they could be of two versions"
        " | use staleness_bound: 0, or fsdp_stage 0 to 2",
    ),
    "stale over gloo": (
        {"overrides": ("staleness_bound=4", "transport=gloo")},
        "--override staleness_bound=4: staleness_bound: 4 cannot be had: under a bound messages are due at no known"
        " time, and what waits for one over gloo hears of no lost rank | use staleness_bound: 0, or transport: smol",
    ),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags(name: str, written: Write, tmp_path: Path) -> None:
    settings, expected = FLAGS[name]
    written("x", "")  # the test's own folder is the current one
    request = Request(**{"inventory": LOCAL, "strategy": "fsdp", **settings})  # type: ignore[arg-type]
    assert only_problem(request) == expected


WRONG = [
    (
        "config",
        "fsdp_stage: 1",
        "--config wants a GPT training config, but this is a cluster config of fsdp"
        " | pass it as --cluster-config (with --strategy fsdp)",
    ),
    (
        "cluster_config",
        "model: {model_dim: 8}",
        "--cluster-config wants a cluster config of fsdp, but this is a GPT"
        " training config | pass it as --config (with --model gpt)",
    ),
    (
        "config",
        "model: {hidden: 8}",
        "--config wants a GPT training config, but this is a SimpleNN training config"
        " | pass it as --config (with --model nn)",
    ),
    ("config", LAN, "--config wants a GPT training config, but this is an inventory | pass it as -i / --inventory"),
    (
        "inventory",
        "training: {batch_size: 8}",
        "an inventory is wanted here, but this is a training config | pass it as --config",
    ),
    (
        "cluster_config",
        "web_interface: {api_port: 1}",
        "--cluster-config wants a cluster config of fsdp, but this is a"
        " cluster config of inference | pass it as --cluster-config (with --strategy inference)",
    ),
]


@pytest.mark.parametrize(("flag", "text", "expected"), WRONG)
def test_a_file_of_the_wrong_flag_is_recognised(flag: str, text: str, expected: str, written: Write) -> None:
    settings = {"inventory": LOCAL, "strategy": "fsdp", flag: written("f.yaml", text)}
    assert only_problem(Request(**settings)) == "f.yaml: " + expected  # type: ignore[arg-type]


def test_clipping_said_twice(written: Write) -> None:
    text = "training: {grad_clip_norm: 1.0}\ngradient_clipping: {enabled: false}"
    assert only_problem(Request(LOCAL, "fsdp", config=written("m.yaml", text))) == (
        "m.yaml:1: training.grad_clip_norm: and gradient_clipping are one setting, and here they disagree"
        " | keep one of the two"
    )


def test_all_problems_of_all_files_at_once(written: Write) -> None:
    inventory = written("inventory/lan.smol.yml", LAN.replace("pi5: {}", "pi5: {rank: 2}"))
    written("inventory/configs/gpt_config.yaml", "model: {dim: 4}")
    written("inventory/configs/cluster_config_edp.yaml", "srever: mini1")
    written("inventory/configs/gtp_config.yaml", "model: {}")
    cluster = written("c.yaml", "fsdp_stage: 9\nseed: 1.5")
    text = report(Request(inventory, "fsdp", cluster_config=cluster, overrides=("seeed=1",)))
    assert text.startswith("7 problems in the configuration; nothing was started.")
    for part in (
        "inventory/lan.smol.yml:5: machines.pi5.rank: unknown key",
        "inventory/configs/gpt_config.yaml:1: model.dim: unknown key",
        "inventory/configs/cluster_config_edp.yaml:1: srever: unknown key",
        "inventory/configs/gtp_config.yaml: no shipped file has this name",
        "c.yaml:1: fsdp_stage: must be at most 3, not 9",
        "c.yaml:2: seed: must be a whole number, not 1.5",
        "--override seeed=1: seeed: unknown key",
    ):
        assert part in text, text
