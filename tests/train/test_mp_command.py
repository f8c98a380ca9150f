"""`--strategy mp` as a person types it: the losses of one process, a model, and runs that go on from it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_folders import WORDS

from smolcluster.data.tokenizer import train_bpe
from smolcluster.models import build_model
from smolcluster.models.hf import load_pretrained, save_pretrained
from smolcluster.spec.run import GPTSpec, LlamaBlocks
from smolcluster.spec.shape import Rope

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "training.batch_size=8,training.eval_steps=3,lr_schedule.warmup_iters=0,lr_schedule.min_lr=null,"
    "model.max_seq_len=16,checkpoint.every_steps=3"
)
SMALL = (
    f"{SHORT},model.model_dim=32,model.num_layers=4,model.num_heads=2,model.ff_dim=64,model.dropout=0,"
    "data.tokenizer=bpe:300"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mp")
    (folder / "inventory").mkdir()
    shutil.copy(ROOT / "inventory" / "local.smol.yml", folder / "inventory")
    chance = random.Random(7)
    sentences = [" ".join(chance.choices(WORDS, k=9)) + "." for _ in range(300)]
    (folder / "book.txt").write_text("\n".join(sentences))
    return folder


def train(project: Path, *flags: str, settings: str = SMALL) -> tuple[Path, dict]:
    command = [sys.executable, "-m", "smolcluster.train", "--dataset", "book.txt", "--override", settings, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "110"}
    done = subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=240, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = (project / "runs" / "latest").resolve()
    return run, json.loads((run / "summary.json").read_text())


def four_nodes(project: Path) -> Path:
    """An inventory as the shipped one, with a fourth node."""
    text = (ROOT / "inventory" / "local.smol.yml").read_text()
    text = text.replace("  node3: {c", "  node4: {connection: local, threads: 1}\n  node3: {c")
    path = project / "inventory" / "four.smol.yml"
    path.write_text(text.replace("node3: 127.0.0.1}", "node3: 127.0.0.1, node4: 127.0.0.1}"))
    return path


def losses(run: Path) -> dict[int, float]:
    """By step, as rank 0 wrote them."""
    [file] = (run / "nodes" / "node1").rglob("metrics.jsonl")
    records = map(json.loads, file.read_text().splitlines())
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_split_layers_train_as_one_process_and_others_go_on(project: Path) -> None:
    run, split = train(project, "--strategy", "mp", "--override", "training.max_steps=6")
    stages = json.loads((run / "plan.json").read_text())["stages"]
    assert (len(stages), stages[-1][1]) == (3, 4)
    assert (split["status"], split["steps"], split["tokens"]) == ("completed", 6, 6 * 8 * 16)
    # Three stages, and the batch of eight in as many micro-batches.
    assert split["idle_planned"] == pytest.approx(2 / 10)
    assert [0 < share < 1 for share in split["idle_share"]] == [True] * 3
    model = load_pretrained(run / "model")
    assert model(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 300)

    # Its checkpoint is any strategy's.
    two = ("--nodes", "node1,node2", "--override", "training.max_steps=9,training.batch_size=4,staleness_bound=0")
    sharded, went_on = train(project, "--strategy", "fsdp", "--resume", str(run), *two)
    assert went_on["resumed_step"] == 6
    whole, _ = train(project, "--strategy", "single", "--override", "training.max_steps=9")
    got = losses(run) | losses(sharded)
    assert list(got) == list(range(1, 10))
    assert list(got.values()) == pytest.approx(list(losses(whole).values()), abs=1e-5)

    # Weights that somebody gives reach the stages that need them.
    _, given = train(project, "--strategy", "mp", "--init", str(run / "model"), "--override", "training.max_steps=1")
    assert given["val_loss_first"] == pytest.approx(split["val_loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_pipelines_train_as_one_process_and_one_goes_on(project: Path) -> None:
    four = ("--inventory", str(four_nodes(project)))
    run, told = train(project, *four, "--strategy", "mp", "--override", "replicas=2,training.max_steps=6")
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["stages"], plan["replicas"], plan["world_size"]) == ([[0, 3], [3, 4]], 2, 4)
    assert [rank["samples"] for rank in plan["ranks"]] == [4, 0, 4, 0]
    # Each token once, whichever pipeline took it.
    assert (told["status"], told["steps"], told["tokens"]) == ("completed", 6, 6 * 8 * 16)
    # Two stages, and a share of four samples in as many micro-batches.
    assert told["idle_planned"] == pytest.approx(1 / 5)
    assert [0 < share < 1 for share in told["idle_share"]] == [True] * 4
    parameters = 4 * told["params"]
    assert told["wire_bytes_per_step"] > 2 * parameters  # of each stage two replicas, once around a ring of two

    # The resumed run is another split of other nodes, and the two together are one process's.
    two = ("--nodes", "node1,node2,node3", "--override", "training.max_steps=9")
    on, went_on = train(project, *four, "--strategy", "mp", "--resume", str(run), *two)
    assert went_on["resumed_step"] == 6
    assert len(json.loads((on / "plan.json").read_text())["stages"]) == 3
    whole, one = train(project, "--strategy", "single", "--override", "training.max_steps=9")
    expected = losses(whole)
    got = losses(run) | losses(on)
    assert list(got) == list(range(1, 10))
    assert list(got.values()) == pytest.approx(list(expected.values()), abs=1e-5)
    assert went_on["val_loss"] == pytest.approx(one["val_loss"], abs=1e-5)
    # A checkpoint names every piece once, and the model is whole.
    [manifest] = (run / "checkpoints").glob("step-*6.json")
    entries = [entry for file in json.loads(manifest.read_text())["files"] for entry in file["entries"]]
    places = [(entry["name"], tuple(entry["offset"])) for entry in entries]
    assert len(places) == len(set(places))
    assert load_pretrained(run / "model")(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 300)


def llama_folder(project: Path, tied: bool) -> Path:
    """A small Llama with random weights and a tokenizer, in Hugging Face's format."""
    blocks = LlamaBlocks(
        kind="llama", kv_heads=2, head_dim=8, norm_eps=1e-6, qkv_bias=False, out_bias=False, mlp_bias=False,
        qk_norm=False, rope=Rope(theta=10000.0),
    )  # fmt: skip
    spec = GPTSpec(
        model_dim=32, num_layers=5, num_heads=4, ff_dim=48, dropout=0, max_seq_len=40, tie_embeddings=tied,
        vocab_size=310, llama=blocks,
    )  # fmt: skip
    tokenizer = project / "tokenizer.json"
    train_bpe([(project / "book.txt").read_text()], 300).tokenizer.save(str(tokenizer))
    folder = project / f"llama-{tied}"
    save_pretrained(build_model(spec, None, seed=4), tokenizer, folder)
    return folder


# An embedding that is the head too is what two stages share from the start and in a checkpoint; one that is not has two
# stages that own a matrix each. All of both: make soak.
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("tied", "on_two", "goes_on"),
    [
        pytest.param(True, False, True, id="tied, and gone on with"),
        pytest.param(False, True, False, id="untied, on two nodes as on three"),
        pytest.param(True, True, True, marks=pytest.mark.soak, id="tied, all"),
        pytest.param(False, True, True, marks=pytest.mark.soak, id="untied, all"),
    ],
)
def test_a_llama_trains_from_its_folder_on_split_layers_as_on_one(
    project: Path, tied: bool, on_two: bool, goes_on: bool
) -> None:
    given = ("--init", str(llama_folder(project, tied)))
    steps = ("--override", "training.max_steps=6")
    whole, one = train(project, "--strategy", "single", *given, *steps, settings=SHORT)
    three, split = train(project, "--strategy", "mp", *given, *steps, settings=SHORT)
    runs = [(three, split)]
    if on_two:
        runs.append(train(project, "--strategy", "mp", "--nodes", "node1,node2", *given, *steps, settings=SHORT))
    assert one["val_loss"] < one["val_loss_first"]
    expected = list(losses(whole).values())
    assert len(expected) == 6
    for run, told in runs:
        assert list(losses(run).values()) == pytest.approx(expected, abs=1e-5)
        assert (told["params"], told["val_loss_first"]) == (
            one["params"],
            pytest.approx(one["val_loss_first"], abs=1e-5),
        )
    model, wanted = load_pretrained(three / "model"), load_pretrained(whole / "model")
    assert model.spec == wanted.spec
    for (name, value), other in zip(wanted.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(other, value, rtol=0, atol=1e-4, msg=name)
    if not goes_on:
        return

    # Its checkpoint is any other split's and strategy's, and the resumed run needs no --init.
    longer = ("--override", "training.max_steps=8")
    on, _ = train(project, "--resume", str(whole), *longer, settings="seed=42")
    for strategy in ("mp", "fsdp"):
        nodes = ("--nodes", "node1,node2", "--strategy", strategy)
        # Equal to one process is what takes every step together.
        batch = ("--override", "training.batch_size=" + ("8" if strategy == "mp" else "4,staleness_bound=0"))
        other, told = train(project, "--resume", str(three), *longer, *nodes, *batch, settings="seed=42")
        assert told["resumed_step"] == 6
        assert list(losses(other).values()) == pytest.approx(list(losses(on).values()), abs=1e-5)
