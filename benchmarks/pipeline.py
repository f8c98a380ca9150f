"""Split layers (mp) beside torch.distributed.pipelining's 1F1B over gloo, and how long a stage waits for others.

    python -m benchmarks.pipeline --quick --out pipeline.json

Two stages of the same model with the same weights, the same batch in the same micro-batches, gradients clipped at norm
1, AdamW; torch's is the fused kernel, since ours is. They take turns step by step, the others standing still meanwhile.
Time is the slowest rank's; a ratio is the median of the rounds' own ratios.

The share a stage waits is what the strategy reports of its steps (comm_s of comm_s + compute_s, mean of the stages),
beside (S-1)/(S-1+M): no such schedule waits less. It is looked at with computing that takes as long as it is told
(emulated.py), since stages that must share a machine's cores do not take as long as each other.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.contestants import CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, batch_of, context_of
from benchmarks.emulated import SPEC, EmulatedStage
from benchmarks.ranks import Done, Team
from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.models import build_stage
from smolcluster.models.gpt_stage import GPTStage
from smolcluster.models.partition import cut
from smolcluster.plan.pipeline import idle_share
from smolcluster.spec.run import GPTSpec
from smolcluster.strategies.base import Strategy, build_strategy

STAGES, SAMPLES, WARM_UP = 2, 16, 2
MICROS = (2, 4, 8)  # torch's takes no fewer than there are stages
# gpt_config.yaml's width. Few words, so that head and embeddings weigh little and both stages take as long; untied,
# since torch's pipelining leaves it to its user to add up a tied embedding's gradients.
MODEL = GPTSpec(
    model_dim=256, num_layers=8, num_heads=4, ff_dim=1024, dropout=0, max_seq_len=128, tie_embeddings=False,
    vocab_size=512,
)  # fmt: skip
# Of the emulated stages: how many, and seconds for a sample, which is a micro-batch. A hop takes a millisecond or two
# where all ranks share two busy cores; a home computer's micro-batch seldom takes less than this.
EMULATED, PACE_S, EMULATED_MICROS = (2, 3, 4), 0.12, (1, 4, 8)
Tasks = dict[str, Callable[[], Any]]


def stage_of(rank: int, world_size: int) -> GPTStage:
    """An even part of the model."""
    size = MODEL.num_layers // world_size
    bounds = [(start, start + size) for start in range(0, MODEL.num_layers, size)]
    stage = build_stage(MODEL, cut(bounds, MODEL.num_layers)[rank], None, 0)
    assert isinstance(stage, GPTStage)
    return stage


def our_steps(rank: int, world_size: int, _: Any) -> Tasks:
    """A step of each number of micro-batches."""
    strategy = build_strategy(context_of("mp", 0, rank, world_size, MODEL), stage_of(rank, world_size))
    x, y = batch_of(0, SAMPLES, spec=MODEL)
    return {
        name(micros, "mp (smol)"): partial(share_waited, strategy, x.tensor_split(micros), y.tensor_split(micros))
        for micros in MICROS
    }


def emulated_steps(rank: int, world_size: int, _: Any) -> Tasks:
    """A step of each number of micro-batches, a sample each, through stages that take as long as they are told."""
    strategy = build_strategy(context_of("mp", 0, rank, world_size, SPEC), EmulatedStage(rank, world_size, PACE_S))
    x, y = batch_of(0, max(EMULATED_MICROS), SPEC.max_seq_len, SPEC)
    return {
        name(micros, "emulated"): partial(share_waited, strategy, x[:micros].split(1), y[:micros].split(1))
        for micros in EMULATED_MICROS
    }


def share_waited(strategy: Strategy, x: Sequence[torch.Tensor], y: Sequence[torch.Tensor]) -> float:
    """Take a step. The share of it that this stage waited."""
    result = strategy.train_step(list(zip(x, y, strict=True)), LEARNING_RATE)
    return result.comm_s / (result.comm_s + result.compute_s)


def torchs_steps(rank: int, world_size: int, _: Any) -> Tasks:
    """The same by torch's own."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    stage = stage_of(rank, world_size)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    x, y = batch_of(0, SAMPLES, spec=MODEL)
    last = rank == world_size - 1

    def loss(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert stage.lm_head is not None
        logits = nn.functional.linear(hidden, stage.lm_head.weight)
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def step(schedule: Schedule1F1B) -> None:
        optimizer.zero_grad()
        if rank == 0:
            schedule.step(x)
        elif last:
            schedule.step(target=y)
        else:
            schedule.step()
        clip(stage)
        optimizer.step()

    device = torch.device("cpu")
    return {
        name(micros, "pipelining (gloo)"): partial(
            step, Schedule1F1B(PipelineStage(stage, rank, world_size, device), micros, loss_fn=loss)
        )
        for micros in MICROS
    }


def clip(stage: nn.Module) -> None:
    """Clip by the norm of the whole model's gradients, which lie on all ranks."""
    import torch.distributed as dist

    grads = [parameter.grad for parameter in stage.parameters() if parameter.grad is not None]
    squares = torch.stack([grad.square().sum() for grad in grads]).sum()
    dist.all_reduce(squares)
    factor = (CLIP_NORM / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(factor)


def name(micros: int, who: str) -> str:
    """Of a row."""
    return f"{micros} micro-batch{'es' if micros > 1 else ''}, {who}"


def times(rounds: int) -> dict[str, list[list[Done]]]:
    """Every contestant's steps."""
    with (
        Team(STAGES, "smol", our_steps, keep_memory=True) as smol,
        Team(STAGES, "gloo", torchs_steps, keep_memory=True) as gloo,
    ):
        turns = [(team, task) for team in (smol, gloo) for task in team.tasks]
        measured: dict[str, list[list[Done]]] = {task: [] for _, task in turns}
        for number in range(WARM_UP + rounds):
            shift = number % len(turns)  # another one goes first each round
            for team, task in turns[shift:] + turns[:shift]:
                done = team.do(task)
                if number >= WARM_UP:
                    measured[task].append(done)
            print(f"round {number + 1} of {WARM_UP + rounds}", file=sys.stderr, flush=True)
    return measured


def waits(rounds: int) -> list[dict[str, float]]:
    """How long emulated stages waited, for each number of them and of micro-batches."""
    rows = []
    for stages in EMULATED:
        with Team(stages, "smol", emulated_steps, keep_memory=True) as team:
            team.do(name(EMULATED_MICROS[-1], "emulated"))
            for micros in EMULATED_MICROS:
                done = [team.do(name(micros, "emulated")) for _ in range(rounds)]
                waited = statistics.median(statistics.mean(rank.value for rank in ranks) for ranks in done)
                rows.append({"stages": stages, "micro_batches": micros, "waited": waited})
        print(f"{stages} emulated stages", file=sys.stderr, flush=True)
    return rows


def main() -> int:
    options = flags_for("pipeline", __doc__, "9 rounds", "21 rounds").parse_args()
    rounds = 21 if options.full else 9
    measured, emulated = times(rounds), waits(rounds)
    console, targets = Console(), []
    walls = {task: [max(rank.wall_s for rank in ranks) for ranks in done] for task, done in measured.items()}
    table = Table("micro-batches", "mp ms", "pipelining ms", "mp / pipelining")
    table.title = f"{STAGES} stages, {SAMPLES} samples of {MODEL.max_seq_len} tokens, medians"
    rows = []
    for micros in MICROS:
        ours, theirs = walls[name(micros, "mp (smol)")], walls[name(micros, "pipelining (gloo)")]
        speed = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        step_s, torch_step_s = statistics.median(ours), statistics.median(theirs)
        rows.append({"micro_batches": micros, "step_s": step_s, "torch_step_s": torch_step_s, "speed": speed})
        table.add_row(str(micros), f"{step_s * 1e3:,.0f}", f"{torch_step_s * 1e3:,.0f}", f"{speed:.3f}")
        targets.append(Target.at_least(f"mp / pipelining, tokens per second, {micros} micro-batches", [speed], 0.9))
    console.print(table)
    table = Table("stages", "micro-batches", "waited", "(S-1)/(S-1+M)", "off")
    table.title = f"even stages, {PACE_S * 1e3:.0f} ms a micro-batch there and back, emulated; medians"
    for row in emulated:
        stages, micros = int(row["stages"]), int(row["micro_batches"])
        row["theory"] = idle_share(stages, micros)
        off = abs(row["waited"] / row["theory"] - 1)
        table.add_row(
            str(stages), str(micros), f"{row['waited']:.3f}", f"{row['theory']:.3f}", f"{off * 100:.1f} %"
        )  # fmt: skip
        what = f"share waited, off (S-1)/(S-1+M), {stages} stages, {micros} micro-batches"
        targets.append(Target.at_most(what, [off], 0.1))
    console.print(table)
    show_targets(console, targets)
    return conclude(options.out, {"torch": torch.__version__, "rows": rows, "emulated": emulated}, targets)


if __name__ == "__main__":
    sys.exit(main())
