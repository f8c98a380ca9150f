"""A served run of one machine: its plan, its files, its ranks as processes of the pool. The test's own is the API."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolcluster.infer.client import HeadClient, open_head
from smolcluster.plan.types import ApiPlan, NodeConfig, RankPlan, ServePlan, StagePlan
from smolcluster.spec.modelfile import ServedModel
from smolcluster.spec.run import CommSpec
from smolcluster.spec.serving import ServeSpec
from smolcluster.spec.stages import ServingStage
from tests.infer.infer_models import CONTEXT, small_tokenizer
from tests.infer.stage_pool import StagePool, be_rank, be_tablet

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def model_folder(source: Path, folder: Path) -> Path:
    """A copy of a model with a tokenizer and a chat template."""
    shutil.copytree(source, folder)
    small_tokenizer().save(str(folder / "tokenizer.json"))
    said = {"chat_template": TEMPLATE, "bos_token": {"content": "<s>"}, "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    # What ends a text is the tokenizer's say else, and these texts are to be as long as asked for.
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 299}))
    return folder


def plan_of(cuts: tuple[tuple[int, int], ...], rejoin_s: float = 60.0, **changes: Any) -> ServePlan:
    world = len(cuts) + 1
    model = ServedModel(
        hf_model_name="small", weights_model_name="small", num_layers=cuts[-1][1], max_new_tokens=16,
        ctx_length=CONTEXT, active_decoding_strategy="greedy",
    )  # fmt: skip
    stages = tuple(ServingStage(node=f"n{rank}", start=a, stop=b, port=0) for rank, (a, b) in enumerate(cuts))
    serve = ServeSpec(
        model_name="small", model=model, stages=stages, api_port=0, frontend_port=0, request_timeout_s=120.0, seed=7,
        source="a test", licence="none", comm=CommSpec(timeout_s=20.0), rejoin_s=rejoin_s,
    )  # fmt: skip
    ranks = tuple(
        RankPlan(
            rank=rank, node=f"n{rank}", local_rank=0, role="api" if rank == world - 1 else "stage", device="cpu",
            listen=() if rank == world - 1 else ("127.0.0.1",), port=0, peers=dict.fromkeys(range(world), "127.0.0.1"),
            samples=0, buffer_mb=1.0, threads=1,
        )
        for rank in range(world)
    )  # fmt: skip
    fields: dict[str, Any] = {
        "schema": 1,
        "cluster": "test",
        "serve": serve,
        "layers": cuts[-1][1],
        "world_size": world,
        "ranks": ranks,
        "stages": tuple(StagePlan(rank=rank, start=a, stop=b, need_mb=500) for rank, (a, b) in enumerate(cuts)),
        "api": ApiPlan(rank=world - 1, listen=("127.0.0.1",), api_port=0, frontend_port=0),
        "params": 1000,
    }
    return ServePlan(**{**fields, **changes})


@dataclass
class Run:
    """Process number r + 1 of the pool is rank r."""

    pool: StagePool
    plan: ServePlan
    folder: Path
    model: Path
    certificates: Path | None = None  # the nodes' folders of them are in it

    @property
    def api(self) -> int:
        return self.plan.api.rank

    def config(self, rank: int, **changes: Any) -> NodeConfig:
        fields: dict[str, Any] = {
            "schema": 1,
            "run_id": "served",
            "node": f"n{rank}",
            "generation": 0,
            "run_dir": str(self.folder / "run"),
            "plan_file": str(self.folder / "plan.json"),
            "plan_digest": self.plan.digest(),
            "secret_file": str(self.folder / "secret"),
            "data_dir": str(self.folder),
            "python": "python",
            "ranks": (rank,),
            "model_dir": str(self.model) if rank != self.api else None,
            "tablet_dir": str(self.folder / "exports"),
            "certificates": str(self.certificates / f"n{rank}") if self.certificates is not None else None,
        }
        return NodeConfig(**{**fields, **changes})

    def begin(self, *ranks: int) -> None:
        for rank in ranks:
            be = be_tablet if rank in self.plan.tablets else be_rank
            self.pool.give(rank + 1, be, self.config(rank), self.plan, rank)

    def kill(self, rank: int) -> None:
        self.pool.kill(rank + 1)

    def ended(self, rank: int) -> str | None:
        return self.pool.ended(rank + 1, 60.0)

    def stop(self, *ranks: int) -> list[str | None]:
        for rank in ranks:
            self.pool.ask_to_stop(rank + 1)
        return [self.ended(rank) for rank in ranks]

    def client(self) -> HeadClient:
        return open_head(self.config(self.api), self.plan, self.plan.ranks[self.api])


@contextmanager
def served(
    pool: StagePool,
    model: Path,
    folder: Path,
    cuts: tuple[tuple[int, int], ...],
    rejoin_s: float = 60.0,
    plan: ServePlan | None = None,
    certificates: Path | None = None,
) -> Iterator[tuple[Run, HeadClient]]:
    """All stages, each a process, and the API's link to the head. The caller ends the stages."""
    (folder / "secret").write_text("a secret of the tests")
    run = Run(pool, plan or plan_of(cuts, rejoin_s), folder, model, certificates)
    run.begin(*range(len(cuts)))
    client = run.client()
    try:
        yield run, client
    except BaseException:
        for rank in range(len(cuts)):
            run.kill(rank)
        raise
    finally:
        client.close()
