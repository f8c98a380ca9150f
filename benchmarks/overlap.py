"""How much of classicdp's all-reduces hides behind backward, when they have a core of their own. Shows the trace.

    python -m benchmarks.overlap --quick --out overlap.json

Two ranks on two cores. Rank 0 computes a real batch on the first core; its communication thread, and all of rank 1,
whose batch is one short sample, have the second one. What is measured on rank 0, with torch.profiler: the seconds its
communication thread spends in collectives of gradients (the all-reduces, and with a tied embedding the all-gather of
looked up rows that follows backward), and how many of them lie before the end of backward. The trace of the last step
is written beside the JSON; any viewer of Chrome's traces opens it. Needs Linux with two cores.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch._C._profiler import _ExperimentalConfig
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from benchmarks.contestants import GPT, batch_of, ours
from benchmarks.ranks import Team
from benchmarks.targets import Target, conclude, flags_for, show_targets

WARM_UP = 3
# gpt_config.yaml: with GPT-2's vocabulary, and with that of the tokenizer that the local default trains.
MODELS = {
    "vocabulary 50,257, tied": GPT,
    "vocabulary 50,257, untied": GPT.model_copy(update={"tie_embeddings": False}),
    "vocabulary 2,048, tied": GPT.model_copy(update={"vocab_size": 2048}),
}
WIDTH = 60
STEP = "step"


@dataclass(frozen=True)
class Span:
    """A stretch of time, seconds since the step began."""

    start: float
    stop: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.stop - self.start


@dataclass(frozen=True)
class Overlap:
    """One step of rank 0: its backward, and its gradients' collectives on the communication thread."""

    step: Span
    backward: Span
    reduces: list[Span]

    @property
    def hidden(self) -> float:
        """The share of the collectives' seconds that lies before the end of backward."""
        total = sum(span.seconds for span in self.reduces)
        return sum(max(0.0, min(span.stop, self.backward.stop) - span.start) for span in self.reduces) / total


def prepare(rank: int, world_size: int, _: Any, model: str, trace: Path) -> dict[str, Callable[[], Any]]:
    """The tasks of a rank. Rank 0 answers what it saw of a step under the profiler."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    spec = MODELS[model]
    _, step = ours("classicdp", 0, rank, world_size, spec)
    x, y = batch_of(rank, 4, spec=spec) if rank == 0 else batch_of(rank, 1, length=8, spec=spec)

    def measure() -> Overlap | None:
        pin(cores, rank)
        config = _ExperimentalConfig(profile_all_threads=True)
        with profile(activities=[ProfilerActivity.CPU], experimental_config=config) as profiler, record_function(STEP):
            step(x, y)
        if rank:
            return None
        profiler.export_chrome_trace(str(trace))
        return seen(profiler.events())

    return {"warm up": partial(step, x, y), "measure": measure}


def pin(cores: list[int], rank: int) -> None:
    """Rank 0's main thread on the first core; its other threads, and all of rank 1, on the second."""
    for thread in threading.enumerate():
        assert thread.native_id is not None
        computes = rank == 0 and thread is threading.main_thread()
        os.sched_setaffinity(thread.native_id, {cores[0] if computes else cores[1]})


def seen(events: Any) -> Overlap:
    """Backward, and the collectives on the communication thread, in a profile."""
    main = next(event.thread for event in events if event.name == STEP)

    def spans(prefix: str, on_main: bool) -> list[Span]:
        found = [e.time_range for e in events if e.name.startswith(prefix) and (e.thread == main) == on_main]
        return [Span(each.start / 1e6, each.end / 1e6) for each in found]

    step = spans(STEP, on_main=True)[0]
    backward = spans("autograd::engine::evaluate_function", on_main=True)
    reduces = [span for name in ("smol:all_reduce", "smol:all_gather") for span in spans(name, on_main=False)]
    if not backward or not reduces:
        raise RuntimeError("the profile has no backward or no collective on another thread")
    whole = Span(min(span.start for span in backward), max(span.stop for span in backward))
    return Overlap(step, whole, sorted(reduces, key=lambda span: span.start))


def run(model: str, rounds: int, trace: Path) -> list[Overlap]:
    """The measured steps of rank 0."""
    with Team(2, "smol", partial(prepare, model=model, trace=trace), keep_memory=True) as team:
        for _ in range(WARM_UP):
            team.do("warm up")
        return [team.do("measure")[0].value for _ in range(rounds)]


def line(spans: list[Span], step: Span) -> str:
    """Spans as a line of characters, as long as the step."""
    marks = [" "] * WIDTH
    for span in spans:
        first, last = (int((at - step.start) / step.seconds * WIDTH) for at in (span.start, span.stop))
        marks[first : last + 1] = "#" * (min(last, WIDTH - 1) - first + 1)
    return "".join(marks[:WIDTH])


def show(console: Console, measured: dict[str, list[Overlap]]) -> None:
    """The table, and the last step of each model as a picture."""
    table = Table(title="classicdp, rank 0: collectives of gradients and backward, medians")
    for column in ("gpt_config with", "backward ms", "collectives ms", "hidden"):
        table.add_column(column, justify="right" if column != "gpt_config with" else "left")
    for model, steps in measured.items():
        backward = statistics.median(step.backward.seconds for step in steps)
        reduces = statistics.median(sum(span.seconds for span in step.reduces) for step in steps)
        hidden = statistics.median(step.hidden for step in steps)
        table.add_row(model, f"{backward * 1e3:.0f}", f"{reduces * 1e3:.0f}", f"{hidden:.0%}")
    console.print(table)
    for model, steps in measured.items():
        last = steps[-1]
        console.print(f"\n{model}: one step of {last.step.seconds * 1e3:.0f} ms", highlight=False)
        console.print(f"  backward    |{line([last.backward], last.step)}|", highlight=False)
        console.print(f"  collectives |{line(last.reduces, last.step)}|", highlight=False)


def main() -> int:
    flags = flags_for("overlap", __doc__, "7 steps of each model", "15 steps of each model").parse_args()
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        print("this needs Linux and two cores: a rank's communication has to have one of its own", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        trace = (flags.out.with_suffix(".trace.json") if flags.out else Path(folder) / "trace.json").absolute()
        measured = {model: run(model, 15 if flags.full else 7, trace) for model in reversed(MODELS)}
    console = Console(width=120)
    show(console, measured)
    hidden = {model: statistics.median(step.hidden for step in steps) for model, steps in measured.items()}
    targets = [Target.at_least(f"hidden, {model}", [value], 0.6) for model, value in hidden.items()]
    show_targets(console, targets)
    figures = {
        "torch": torch.__version__,
        "hidden": hidden,
        "steps": {model: [asdict(step) for step in steps] for model, steps in measured.items()},
    }
    return conclude(flags.out, figures, targets)


if __name__ == "__main__":
    sys.exit(main())
