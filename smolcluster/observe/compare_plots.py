"""Several runs in one plot: their losses over steps, over tokens, over time; their gradients by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from smolcluster.files import make_folder
from smolcluster.observe.curves import Over, Points, loss_points, smoothed, thinned, val_points
from smolcluster.observe.drawing import logarithmic, save_figure
from smolcluster.observe.gradients import layer_norms
from smolcluster.observe.report import RunStory

_AXES: dict[Over, str] = {"steps": "step", "tokens": "tokens", "time": "seconds of training"}


def write_comparison(stories: Sequence[RunStory], folder: Path, target_loss: float | None) -> list[Path]:
    """Write loss-steps, loss-tokens and loss-time, and gradients where any were tracked; gives the files. Runs without
    a step have none.
    """
    if not any(loss_points(story) for story in stories):
        return []
    make_folder(folder)

    def paint(axes: Axes, over: Over) -> None:
        for number, story in enumerate(stories):
            colour = f"C{number % 10}"
            points = thinned(smoothed(loss_points(story, over)))
            if points:
                axes.plot(*zip(*points, strict=True), linewidth=1.2, color=colour, label=_plain(story.run_id))
            measured = thinned(val_points(story, over))
            if measured:
                axes.plot(*zip(*measured, strict=True), linestyle="", marker=".", color=colour, alpha=0.6)
        if target_loss is not None and over == "time":
            axes.axhline(target_loss, linestyle="--", linewidth=1, color="grey", label=f"loss {target_loss:.4g}")
        axes.set_xlabel(_AXES[over])
        axes.set_ylabel("loss; dots: validation")

    drawn = [save_figure(folder / f"loss-{over}", partial(paint, over=over)) for over in _AXES]
    tracked = [layer_norms(story) for story in stories]
    if any(tracked):
        drawn.append(save_figure(folder / "gradients", partial(_gradients, stories=stories, tracked=tracked)))
    return [path for files in drawn for path in files]


def _gradients(axes: Axes, stories: Sequence[RunStory], tracked: Sequence[dict[str, Points]]) -> None:
    """A line for each layer, in the colour of its run."""
    for number, (story, layers) in enumerate(zip(stories, tracked, strict=True)):
        label: str | None = _plain(story.run_id)
        for points in layers.values():
            axes.plot(*zip(*points, strict=True), linewidth=1, alpha=0.7, color=f"C{number % 10}", label=label)
            label = None
    logarithmic(axes)
    axes.set_xlabel("step")
    axes.set_ylabel("norm of the mean gradient, by layer")


def _plain(text: str) -> str:
    """A label as it is: matplotlib reads mathematics between dollars, and hides what begins with an underscore."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
