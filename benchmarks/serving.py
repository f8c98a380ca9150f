"""A model served over three stages against transformers' generate, with its cache, in one process. Interleaved.

    python -m benchmarks.serving --quick --out serving.json

GPT-2's shape (124 M parameters, random weights), greedy, one thread per process. In every round each contestant writes
the same number of tokens: transformers in fp32; our three stages in fp32 and in int8, one stream; eight streams at
once. A ratio is the median of the rounds' own ratios. What a hop costs is the time of a token that no stage spends
computing, divided by the hops: sampling, Python and the waking of the next process are in it.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.comm.config import GroupConfig
from smolcluster.infer.engine import Engine
from smolcluster.infer.layout import Layout, Place
from smolcluster.infer.request import Delta, Limits, Request
from smolcluster.infer.worker import Worker
from smolcluster.models.dense import Precision
from smolcluster.models.partition import LayerRange
from smolcluster.models.sampling import Sampling
from smolcluster.models.stage_weights import load_stage
from smolcluster.runtime.process import die_with_parent

STAGES, STREAMS, PROMPT, START_S = 3, 8, 32, 180.0
CUTS = ((0, 5), (5, 10), (10, 12))  # the head weighs as much as five layers
VOCABULARY = 4000  # words of a prompt that every model here has
GREEDY = Sampling(temperature=0.0)
MB = 1e6


@dataclass(frozen=True)
class Round:
    """Tokens per second of every contestant in one round, and what a hop cost in it."""

    theirs: float
    fp32: float
    int8: float
    many: float
    many_slowest: float
    hop_ms: float


def config_of(rank: int, meeting: str) -> GroupConfig:
    return GroupConfig(
        rank=rank,
        world_size=STAGES,
        listen=("127.0.0.1",),
        port=0,
        peers=dict.fromkeys(range(STAGES), "127.0.0.1"),
        timeout_s=60.0,
        join_s=START_S,
        run_id="benchmark",
        secret=b"a secret of the benchmark",
        endpoint_file=Path(meeting) / "endpoint.json",
    )


class Loader:
    """Layers of the folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, part: LayerRange, precision: Precision) -> Any:
        """Those of one stage."""
        return load_stage(Path(self.folder), part, precision)


def be_stage(rank: int, meeting: str, folder: str) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    sys.setswitchinterval(0.0005)
    Worker(config_of(rank, meeting), Loader(folder)).run()


@contextmanager
def engine(folder: str, precision: Precision, in_flight: int | None = None) -> Iterator[Engine]:
    """Three processes: this one is the head."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as meeting:
        stages = [context.Process(target=be_stage, args=(rank, meeting, folder), daemon=True) for rank in (1, 2)]
        for stage in stages:
            stage.start()
        places = tuple(Place(rank=rank, start=start, stop=stop) for rank, (start, stop) in enumerate(CUTS))
        layout = Layout(layers=CUTS[-1][1], precision=precision, places=places)
        limits = Limits(in_flight=in_flight)
        with Engine(config_of(0, meeting), layout, Loader(folder), context=1024, limits=limits) as made:
            made.start(START_S)
            yield made
        for stage in stages:
            stage.join(30)


def prompt(salt: int = 0) -> list[int]:
    return [(977 * number + 31 * salt + 5) % VOCABULARY for number in range(PROMPT)]


def rate_of(served: Engine, tokens: int) -> tuple[float, float]:
    """Tokens per second of one stream, from its first token on, and milliseconds of a token that nobody computed in."""
    stream = iter(served.submit(Request(prompt(), tokens, GREEDY)))
    next(stream)
    busy = busy_s(served)
    began = time.perf_counter()
    count = sum(isinstance(event, Delta) for event in stream)
    took = time.perf_counter() - began
    return count / took, 1000 * (took - (busy_s(served) - busy)) / count


def busy_s(served: Engine) -> float:
    return served.head_state().busy_s + sum(pong.busy_s for pong in served.stages().values())


def rate_of_many(served: Engine, tokens: int) -> tuple[float, float]:
    """Tokens per second of all streams together while all of them write, and the slowest stream's share of the mean."""
    times: list[list[float]] = [[] for _ in range(STREAMS)]

    def read(number: int) -> None:
        for event in served.submit(Request(prompt(number), tokens, GREEDY)):
            if isinstance(event, Delta):
                times[number].append(time.perf_counter())

    readers = [threading.Thread(target=read, args=(number,)) for number in range(STREAMS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    # The prompts are read one after the other: from the last stream's first token until the first one is done.
    began, ended = max(one[0] for one in times), min(one[-1] for one in times)
    rates = [sum(began < at <= ended for at in one) / (ended - began) for one in times]
    return sum(rates), min(rates) / statistics.mean(rates)


@torch.inference_mode()
def theirs(model: Any, tokens: int) -> float:
    """Tokens per second of transformers, from the first token on."""
    ids = torch.tensor([prompt()])

    def write(count: int) -> float:
        began = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
        return time.perf_counter() - began

    first = write(1)
    return (tokens - 1) / (write(tokens) - first)


def measure(folder: str, model: Any, rounds: int, tokens: int) -> tuple[list[Round], dict[str, Any]]:
    with ExitStack() as stack:
        full = stack.enter_context(engine(folder, "fp32"))
        small = stack.enter_context(engine(folder, "int8"))
        memory = {"fp32": resident(full), "int8": resident(small)}
        for served in (full, small):
            rate_of(served, 4)
        theirs(model, 4)
        done = []
        for _ in range(rounds):
            transformers = theirs(model, tokens)
            fp32, idle_ms = rate_of(full, tokens)
            int8, _ = rate_of(small, tokens)
            many, slowest = rate_of_many(full, tokens)
            done.append(Round(transformers, fp32, int8, many, slowest, idle_ms / STAGES))
    return done, memory


def resident(served: Engine) -> dict[int, float]:
    """MB of the later stages; this process holds the benchmark besides."""
    return {rank: pong.rss_mb for rank, pong in served.stages().items()}


def shares(folder: str) -> dict[str, dict[int, float]]:
    """MB of weights of the later stages."""
    size = Path(folder, "model.safetensors").stat().st_size / MB
    layer, head = 4 * 7_087_872 / MB, 4 * 50257 * 768 / MB
    assert size > 12 * layer
    fp32 = {1: 5 * layer, 2: 2 * layer + head}
    return {"fp32": fp32, "int8": {rank: share / 4 for rank, share in fp32.items()}}


def in_flight(folder: str, tokens: int, rounds: int) -> dict[int, float]:
    """Tokens per second of eight streams by the number of steps under way at once."""
    with ExitStack() as stack:
        chains = {slots: stack.enter_context(engine(folder, "fp32", slots)) for slots in (1, 2, 3, 4)}
        rates: dict[int, list[float]] = {slots: [] for slots in chains}
        for _ in range(rounds):
            for slots, served in chains.items():
                rates[slots].append(rate_of_many(served, tokens)[0])
    return {slots: statistics.median(values) for slots, values in rates.items()}


def main() -> int:
    flags = flags_for(
        "serving", __doc__, "5 rounds of 24 tokens", "9 rounds of 64 tokens, and by steps under way"
    ).parse_args()
    torch.set_num_threads(1)
    sys.setswitchinterval(0.0005)
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        print(
            "benchmarks.serving compares with transformers, which is not installed: pip install '.[hf]'",
            file=sys.stderr,
        )
        return 1

    rounds, tokens = (9, 64) if flags.full else (5, 24)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(bos_token_id=None, eos_token_id=None)).eval()
        model.save_pretrained(folder)
        done, memory = measure(folder, model, rounds, tokens)
        by_slots = in_flight(folder, tokens, 3) if flags.full else {}
        share = shares(folder)

    def median(value: Any) -> float:
        return statistics.median(value(one) for one in done)

    console = Console(width=110)
    table = Table(title=f"GPT-2 124M, three stages, tokens per second, median of {rounds} rounds")
    for column in ("transformers fp32", "fp32", "int8", f"fp32, {STREAMS} streams", "between stages, ms a hop"):
        table.add_column(column, justify="right")
    columns = [median(lambda one, key=key: getattr(one, key)) for key in ("theirs", "fp32", "int8", "many", "hop_ms")]
    table.add_row(*(f"{value:.2f}" for value in columns))
    console.print(table)
    for slots, rate in by_slots.items():
        console.print(f"{STREAMS} streams, {slots} steps under way: {rate:.1f} tokens/s", highlight=False)
    over = [memory[kind][rank] - share[kind][rank] for kind in memory for rank in memory[kind]]
    targets = [
        Target.at_least("one stream against transformers, fp32", [median(lambda one: one.fp32 / one.theirs)], 1.0),
        Target.at_least("int8 against transformers fp32", [median(lambda one: one.int8 / one.theirs)], 1.9),
        Target.at_most("a hop, ms per token", [median(lambda one: one.hop_ms)], 0.5),
        Target.at_least(f"{STREAMS} streams against one", [median(lambda one: one.many / one.fp32)], 2.5),
        Target.at_least("slowest stream against the mean", [median(lambda one: one.many_slowest)], 0.7),
        Target.at_most("resident MB beside a stage's weights", over, 400.0),
    ]
    show_targets(console, targets)
    console.print(f"this process: {psutil.Process().memory_info().rss / MB:.0f} MB", highlight=False)
    figures = {
        "torch": torch.__version__,
        "rounds": [asdict(one) for one in done],
        "in_flight": by_slots,
        "resident_mb": memory,
    }
    return conclude(flags.out, figures, targets)


if __name__ == "__main__":
    sys.exit(main())
