"""A run's figures: loss, accuracy or perplexity, throughput, bytes per step, time per step.

SVG for documents, PNG for a quick look.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from smolcluster.files import make_folder
from smolcluster.observe.curves import MOST_POINTS, Points, longest, loss_points, thinned, val_points
from smolcluster.observe.drawing import logarithmic, save_figure
from smolcluster.observe.gradients import layer_norms
from smolcluster.observe.report import RunStory, sent_at
from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.runfolder import Summary
from smolcluster.runtime.scores import perplexity

MOST_DOTS = 60

Painter = Callable[[Axes, RunStory, Summary], None]


def write_plots(story: RunStory, summary: Summary, folder: Path) -> list[Path]:
    """Write the figures; gives the files. A run without a step has none."""
    if not any(rank.steps for rank in story.counted):
        return []
    make_folder(folder)
    draw: dict[str, Painter] = {"loss": _loss, "throughput": _throughput, "bytes": _bytes, "time": _time}
    if any(rank.gradients for rank in story.ranks):
        draw["gradients"] = _gradients
    if _scores(story, summary):
        draw["perplexity" if summary.val_accuracy is None else "accuracy"] = _score
    return [path for name, paint in draw.items() for path in _save(folder / name, paint, story, summary)]


def _save(base: Path, paint: Painter, story: RunStory, summary: Summary) -> list[Path]:
    def draw(axes: Axes) -> None:
        paint(axes, story, summary)
        axes.set_xlabel("step")

    return save_figure(base, draw)


def _loss(axes: Axes, story: RunStory, summary: Summary) -> None:
    axes.plot(*zip(*thinned(loss_points(story)), strict=True), linewidth=1, alpha=0.7, label="training")
    points = thinned(val_points(story))
    if points:
        axes.plot(*zip(*points, strict=True), marker=_marker(points), label="validation")
    axes.set_ylabel(f"loss (nats per {summary.counts.removesuffix('s')})")
    axes.set_title(f"{story.run_id}: loss")


def _score(axes: Axes, story: RunStory, summary: Summary) -> None:
    points = thinned(_scores(story, summary))
    axes.plot(*zip(*points, strict=True), marker=_marker(points), label="validation")
    if summary.val_accuracy is None:
        logarithmic(axes)
        axes.set_ylabel(f"perplexity per token of {summary.tokenizer}")
        axes.set_title(f"{story.run_id}: perplexity")
    else:
        axes.set_ylabel("told right, %")
        axes.set_title(f"{story.run_id}: accuracy")


def _scores(story: RunStory, summary: Summary) -> Points:
    """Accuracy in per cent, or perplexity, at the steps it was measured at; of a model that has none, nothing."""
    records = longest(story)
    if summary.val_accuracy is not None:
        return [(r.step, 100 * r.val_accuracy) for r in records if r.val_accuracy is not None]
    if summary.perplexity is None:
        return []
    return [(step, perplexity(loss)) for step, loss in val_points(story)]


def _marker(points: Points) -> str:
    """Each measurement as a dot, where they can be told apart."""
    return "o" if len(points) <= MOST_DOTS else ""


def _throughput(axes: Axes, story: RunStory, summary: Summary) -> None:
    steps, columns = _by_step(story, lambda record: record.tokens_per_s)
    axes.plot(steps, columns.sum(axis=0), linewidth=1, label="all ranks")
    axes.axhline(summary.tokens_per_s, linestyle="--", color="grey", label=f"mean {summary.tokens_per_s:,.0f}")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{summary.counts} per second")
    axes.set_title(f"{story.run_id}: throughput")


def _bytes(axes: Axes, story: RunStory, summary: Summary) -> None:
    mean = (summary.wire_bytes_per_step or 0) / 1e6
    steps, columns = _by_step(story, lambda record: sent_at(story, record) / record.own_steps / 1e6)
    both = ", both ways" if story.has_server else ""
    labels = [f"rank {rank.plan.rank} ({rank.plan.node}){both}" for rank in story.counted if rank.steps]
    axes.stackplot(steps, columns, labels=labels, alpha=0.8)
    axes.axhline(mean, linestyle="--", color="grey", label=f"mean {mean:,.1f}")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("MB sent per step")
    axes.set_title(f"{story.run_id}: bytes on the wire")


def _time(axes: Axes, story: RunStory, _: Summary) -> None:
    steps, compute = _by_step(story, lambda record: record.compute_s)
    waiting = _by_step(story, lambda record: record.comm_s)[1]
    axes.stackplot(
        steps,
        [compute.mean(axis=0), waiting.mean(axis=0)],
        labels=["computing", "waiting for communication"],
        alpha=0.8,
    )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("seconds per step, mean over ranks")
    axes.set_title(f"{story.run_id}: time per step")


def _gradients(axes: Axes, story: RunStory, _: Summary) -> None:
    layers = layer_norms(story)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.95, len(layers)))
    for (layer, points), colour in zip(layers.items(), colours, strict=True):
        axes.plot(*zip(*points, strict=True), marker=_marker(points), linewidth=1, color=colour, label=layer)
    logarithmic(axes)
    axes.set_ylabel("norm of the mean gradient")
    axes.set_title(f"{story.run_id}: gradients by layer")


def _by_step(story: RunStory, value: Callable[[StepRecord], float]) -> tuple[np.ndarray, np.ndarray]:
    """A value of every rank at the steps that all ranks recorded: steps, and an array (ranks, steps). Of more steps
    than can be drawn, means of stretches, at the last step of each."""
    ranks = story.aligned
    steps = np.array([record.step for record in ranks[0]], dtype=np.int64)
    values = np.array([[value(record) for record in records] for records in ranks])
    length = -(-len(steps) // MOST_POINTS)
    if length <= 1:
        return steps, values
    starts = np.arange(0, len(steps), length)
    widths = np.diff(np.append(starts, len(steps)))
    return steps[starts + widths - 1], np.add.reduceat(values, starts, axis=1) / widths
