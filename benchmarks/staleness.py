"""What a staleness bound is good for: ranks that are equal on average and never at once, and links that answer late.

    python -m benchmarks.staleness --quick --out staleness.json

Computing is emulated (benchmarks/emulated.py), gradients, optimizers and messages are real. Two troubles: every rank's
step takes anything from nothing to twice the mean, all means alike; and a network on which every byte is 60 ms on its
way (comm/faults.py), with even steps. In each, K = 0 and K = 4 train on the same samples at the same rates, in turn.
Tokens a second are over the whole training, its last fence included; losses are the validation's at its end. They are
judged at RATE: the higher the rate, the more a gradient loses that comes three steps late, as all do over slow links
(at 3e-3 some 20 % of the loss after 400 steps, where jitter costs one or two). `--full` shows that.

A bound does not make a rank faster that is always slow: that is balance's and diloco's affair (benchmarks.unequal).
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import context_of
from benchmarks.emulated import SPEC, Emulated, Race, validation
from benchmarks.ranks import Team
from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.spec.faults import FaultSpec
from smolcluster.strategies.base import Fences, StepResult, Strategy, build_strategy

RANKS, BATCH, PACE_S = 3, 24, 0.006
BOUNDS = (0, 4)
DELAY_MS = 60.0
JITTER, DELAY = "steps of 0 to 2 times the mean", f"links of {DELAY_MS:g} ms"
FASTER, LOSS_OVER = 1.2, 0.03
RATE = 1e-3
WARM_UP = 5


def trainings(trouble: str, race: Race, rates: tuple[float, ...], rank: int, _: int, fabric: Any) -> dict[str, Any]:
    """What a rank can be told to do: a training at each bound and rate."""
    if trouble == DELAY:
        fabric.begin_step(1)
    jitters = trouble == JITTER
    return {
        name_of(bound, rate): partial(training, race, rank, bound, rate, jitters) for bound in BOUNDS for rate in rates
    }


def name_of(bound: int, rate: float) -> str:
    """Of a training."""
    return f"K={bound} at {rate:g}"


def training(race: Race, rank: int, bound: int, rate: float, jitters: bool) -> dict[str, float]:
    """Train to the end: seconds but for the first steps, the validation loss, the steps that weights lacked."""
    model = Emulated(race.pace_s[rank])
    context = context_of("classicdp", 0, rank, race.world_size, SPEC, staleness_bound=bound)
    plan = context.plan.model_copy(update={"global_batch": race.batch})
    strategy: Strategy = build_strategy(replace(context, plan=plan), model)
    chance = random.Random(rank)
    share, lags, began = race.even[rank], [], 0.0
    for number in range(race.steps):
        if number == WARM_UP:
            began = time.perf_counter()
        if jitters:
            model.pace_s = race.pace_s[rank] * chance.uniform(0.0, 2.0)
        result = strategy.train_step([race.batch_at(number, rank * share, share)], rate)
        lags += result.lags
    rested(strategy, result)
    seconds = time.perf_counter() - began
    loss = validation(race, model)
    strategy.close()
    dist.barrier()
    mean, most = (sum(lags) / len(lags), float(max(lags))) if lags else (0.0, 0.0)
    return {"seconds": seconds, "loss": loss, "lag_mean": mean, "lag_max": most}


def rested(strategy: Strategy, result: StepResult) -> None:
    """All ranks are at the same step, and hold the same."""
    if isinstance(strategy, Fences):
        strategy.fence(result)


def run(race: Race, rates: tuple[float, ...]) -> list[dict[str, Any]]:
    """Every training in every trouble, one after the other."""
    rows = []
    for trouble in (JITTER, DELAY):
        pairs = combinations(range(race.world_size), 2) if trouble == DELAY else ()
        faults = [FaultSpec(kind="delay", step=1, rank=one, peer=other, ms=DELAY_MS) for one, other in pairs]
        setup: Callable[..., Any] = partial(trainings, trouble, race, rates)
        with Team(race.world_size, "smol", setup, keep_memory=True, faults=faults) as team:
            for rate in rates:
                for bound in BOUNDS:
                    told = [done.value for done in team.do(name_of(bound, rate))]
                    tokens = race.batch * SPEC.max_seq_len * (race.steps - WARM_UP)
                    rows.append({
                        "trouble": trouble, "bound": bound, "rate": rate,
                        "tokens_per_s": tokens / max(each["seconds"] for each in told),
                        "loss": told[0]["loss"], "same": len({each["loss"] for each in told}) == 1,
                        "lag_mean": sum(each["lag_mean"] for each in told) / len(told),
                        "lag_max": max(each["lag_max"] for each in told),
                    })  # fmt: skip
                    print(rows[-1], file=sys.stderr, flush=True)
    return rows


def judge(rows: list[dict[str, Any]]) -> list[Target]:
    """What is asked for, and whether it was reached."""
    targets = []
    for trouble in (JITTER, DELAY):
        strict, loose = (
            {row["rate"]: row for row in rows if (row["trouble"], row["bound"]) == (trouble, bound)} for bound in BOUNDS
        )
        faster = [loose[rate]["tokens_per_s"] / strict[rate]["tokens_per_s"] for rate in strict]
        over = [loose[RATE]["loss"] / strict[RATE]["loss"] - 1]
        targets.append(Target.at_least(f"{trouble}: K=4 / K=0, tokens per second", faster, FASTER))
        targets.append(Target.at_most(f"{trouble}: loss of K=4 over K=0's, same tokens", over, LOSS_OVER))
    targets.append(Target.at_most("steps that weights lacked", [row["lag_max"] for row in rows], max(BOUNDS)))
    targets.append(Target.at_least("runs whose ranks end with one loss", [float(all(r["same"] for r in rows))], 1.0))
    return targets


def main() -> int:
    options = flags_for("staleness", __doc__, "400 steps, one rate", "more rates").parse_args()
    steps, rates = 400, (RATE, 3e-3, 6e-3) if options.full else (RATE,)
    race = Race(pace_s=(PACE_S,) * RANKS, batch=BATCH, steps=steps, look=steps)
    rows = run(race, rates)
    table = Table(title=f"{RANKS} ranks, {BATCH} samples a step, {PACE_S * 1000:g} ms each (emulated), {steps} steps")
    for column in ("", "K", "rate", "tokens/s", "loss", "lag, mean", "most"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(
            row["trouble"], str(row["bound"]), f"{row['rate']:g}", f"{row['tokens_per_s']:,.0f}", f"{row['loss']:.4f}",
            f"{row['lag_mean']:.2f}", f"{row['lag_max']:.0f}",
        )  # fmt: skip
    targets = judge(rows)
    console = Console()
    console.print(table)
    show_targets(console, targets)
    return conclude(options.out, {"torch": torch.__version__, "steps": steps, "rows": rows}, targets)


if __name__ == "__main__":
    sys.exit(main())
