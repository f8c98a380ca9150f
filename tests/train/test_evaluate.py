"""Evaluation over a chain of stages: every sample once, and batches that follow each other without a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from train_folders import plan_of, run_spec

from smolcluster.data import open_samples
from smolcluster.runtime.context import Alone, RunContext
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.strategies.base import LossSum
from smolcluster.train.evaluate import FILLED, Score, evaluate

BATCH = 7


class Last:
    """The last stage of two, alone: what the others would say is what it says."""

    evaluates_together = True

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []
        self.exchanged = 0

    def eval_loss(self, x: torch.Tensor, y: torch.Tensor) -> LossSum:
        self.seen.append(x)
        return LossSum(2.0 * y.numel(), y.numel())

    def exchange(self, values: Sequence[float]) -> list[list[float]]:
        self.exchanged += 1
        return [[0.0] * len(values), list(values)]


def evaluated(data: Path, stop: Callable[[], bool]) -> tuple[Last, Score | None, torch.Tensor]:
    run = run_spec("mp", (BATCH, 0), grad_accumulation=3)
    plan = plan_of(run, (BATCH, 0)).model_copy(update={"shape": "CHAIN", "stages": ((0, 1), (1, 2))})
    nowhere = Path("nowhere")
    context = RunContext("test", 0, plan, plan.ranks[1], torch.device("cpu"), RunFolder(nowhere), nowhere, Alone())
    samples, last = open_samples(data), Last()
    score = evaluate(replace(context, data_dir=data), last, samples, stop)
    return last, score, samples.batch("val", np.arange(samples.sample_count("val")))[0]


def test_a_chain_is_filled_between_two_agreements(data: Path) -> None:
    last, score, everything = evaluated(data, lambda: False)
    assert score == Score(2.0, None)
    assert torch.equal(torch.cat(last.seen), everything)  # every sample once, in order, an uneven last batch included
    assert {len(x) for x in last.seen[:-1]} == {3}
    agreements = -(-len(last.seen) // (FILLED * 2))
    assert last.exchanged == agreements + 1  # and the sums
    assert len(last.seen) > 1


def test_a_wish_to_stop_ends_it(data: Path) -> None:
    last, score, _ = evaluated(data, lambda: True)
    assert score is None
    assert not last.seen
