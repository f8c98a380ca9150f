"""A run's folder as a supervisor would find it, small enough that a training takes less than a second."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

from smolcluster.data.corpus import Corpus
from smolcluster.data.prepare import prepare_corpus
from smolcluster.plan.types import MemoryEstimate, NodeConfig, Plan, RankPlan
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.spec.run import (
    CommSpec,
    DataSpec,
    GPTSpec,
    Participant,
    RunSpec,
    ScheduleSpec,
    TrainingSpec,
    WireFormat,
)

SECRET = "5ec7e7" * 10
SEQ_LEN = 16
WORDS = (
    "the",
    "node",
    "sends",
    "a",
    "gradient",
    "to",
    "every",
    "rank",
    "and",
    "waits",
    "until",
    "all",
    "have",
    "answered",
)


def data_folder(cache: Path) -> Path:
    """Sentences of a few words: a model learns them in a few steps."""
    chance = random.Random(7)
    sentences = [" ".join(chance.choices(WORDS, k=9)) + "." for _ in range(300)]
    corpus = Corpus("text", "made for the test", "none", ("\n".join(sentences),))
    return prepare_corpus(corpus, "bpe:300", SEQ_LEN, cache, lambda _: None)


def run_spec(strategy: str, shares: tuple[int, ...], stage: int = 1, dropout: float = 0.0, **training: Any) -> RunSpec:
    model = GPTSpec(
        model_dim=32, num_layers=2, num_heads=2, ff_dim=64, dropout=dropout, max_seq_len=SEQ_LEN, vocab_size=300
    )
    settings = {
        "batch_size": max(shares), "epochs": 1, "max_steps": 12, "learning_rate": 3e-3, "weight_decay": 0.01,
        "grad_clip_norm": 1.0, "eval_steps": 5, **training,
    }  # fmt: skip
    return RunSpec(
        strategy=strategy,
        participants=tuple(Participant(node=f"node{r + 1}", port=0) for r in range(len(shares))),
        model=model,
        training=TrainingSpec(**settings),
        schedule=ScheduleSpec(warmup_iters=3, min_lr=3e-4),
        data=DataSpec(dataset="text", tokenizer="bpe:300"),
        comm=CommSpec(timeout_s=20, metrics_log_interval=5),
        seed=11,
        fsdp_stage=stage,
        project_name="test",
    )


def plan_of(run: RunSpec, shares: tuple[int, ...], wire: WireFormat = "fp32") -> Plan:
    world = len(shares)
    ranks = tuple(
        RankPlan(
            rank=r, node=f"node{r + 1}", local_rank=0, role="worker", device="cpu", listen=("127.0.0.1",), port=0,
            peers={p: "127.0.0.1" for p in range(world) if p != r}, encrypt={p: False for p in range(world) if p != r},
            samples=shares[r], buffer_mb=1, threads=1,
        )
        for r in range(world)
    )  # fmt: skip
    memory = tuple(MemoryEstimate(rank=r, params_bytes=0, grads_bytes=0, optimizer_bytes=0) for r in range(world))
    return Plan(
        cluster="test", run=run, world_size=world, transport="smol", shape="MESH", global_batch=sum(shares),
        ranks=ranks, params=1, memory=memory, wire=wire,
    )  # fmt: skip


def write_run(folder: Path, plan: Plan, data: Path, python: str) -> list[Path]:
    """plan.json, the secret and a node.yaml for every node, all of them on this machine. The node.yaml files."""
    run = RunFolder(folder)
    write_atomic(run.plan, plan.to_json())
    write_atomic(folder / "secret", SECRET, mode=0o600)
    files = []
    for rank in plan.ranks:
        config = NodeConfig(
            run_id=folder.name, node=rank.node, generation=0, run_dir=str(folder), plan_file=str(run.plan),
            plan_digest=plan.digest(), secret_file=str(folder / "secret"), data_dir=str(data), python=python,
            ranks=(rank.rank,),
        )  # fmt: skip
        file = run.node(rank.node) / "node.yaml"
        write_atomic(file, yaml.safe_dump(config.model_dump(by_alias=True, mode="json")))
        files.append(file)
    return files
