"""Runs side by side: where their configs differ, and what came of it, with ratios to the first. Pure.

`wait_s` is what a step waited for other ranks, `data_s` for its samples. A run that has not ended has the figures of
the steps it took so far.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from smolcluster.observe.curves import longest, loss_points, smoothed, time_to
from smolcluster.observe.report import RunStory, Totals, summarise
from smolcluster.observe.settings import flat_config
from smolcluster.runtime.runfolder import Summary

COMPARE_SCHEMA = 1
Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class Figure:
    """One row: a figure of every run, None where a run has none, and which way is better."""

    key: str
    label: str
    unit: str
    better: Better
    values: tuple[float | None, ...]

    @property
    def ratios(self) -> tuple[float | None, ...]:
        """Each value as a multiple of the first run's."""
        first = self.values[0]
        return tuple(value / first if value is not None and first else None for value in self.values)


@dataclass(frozen=True)
class Comparison:
    """Runs in the order they were named. `differences`: by dotted key, each run's value as text, "-" where it has none.

    `target_loss`: what `seconds_to_loss` counts to, None where no loss was reached by all.
    """

    run_ids: tuple[str, ...]
    statuses: tuple[str, ...]
    differences: dict[str, tuple[str, ...]]
    figures: tuple[Figure, ...]
    target_loss: float | None

    def to_json(self) -> str:
        """As one object, for other programs."""
        value = {
            "schema": COMPARE_SCHEMA,
            "runs": [
                {
                    "run_id": run_id,
                    "status": self.statuses[index],
                    "config": {key: values[index] for key, values in self.differences.items()},
                    "figures": {figure.key: figure.values[index] for figure in self.figures},
                    "ratios": {figure.key: figure.ratios[index] for figure in self.figures},
                }
                for index, run_id in enumerate(self.run_ids)
            ],
            "target_loss": self.target_loss,
        }
        return json.dumps(value, indent=2) + "\n"


def compare(stories: Sequence[RunStory], target_loss: float | None = None) -> Comparison:
    """Lay runs side by side. Without a target it is the lowest smoothed loss that all of them reached."""
    summaries = [summarise(story) for story in stories]
    timed = [smoothed(loss_points(story, "time")) for story in stories]
    if target_loss is None and all(timed):
        target_loss = max(min(loss for _, loss in points) for points in timed)
    reached = [None if target_loss is None else time_to(points, target_loss) for points in timed]
    return Comparison(
        run_ids=tuple(story.run_id for story in stories),
        statuses=tuple(status_of(story, summary) for story, summary in zip(stories, summaries, strict=True)),
        differences=_differences([flat_config(story) for story in stories]),
        figures=tuple(_figures(stories, summaries, reached)),
        target_loss=target_loss,
    )


def status_of(story: RunStory, summary: Summary) -> str:
    """completed, failed, stopped; or "not ended" where no rank has left a result yet."""
    return summary.status if any(rank.result is not None for rank in story.ranks) else "not ended"


def _figures(
    stories: Sequence[RunStory], summaries: Sequence[Summary], reached: Sequence[float | None]
) -> list[Figure]:
    def row(key: str, label: str, unit: str, better: Better, values: Sequence[float | None]) -> Figure:
        return Figure(key, label, unit, better, tuple(values))

    def mean(value: Callable[[Totals], float]) -> list[float | None]:
        return [_mean_of_ranks(story, value) for story in stories]

    counts = "/".join(dict.fromkeys(summary.counts for summary in summaries))
    rows = [
        row("steps", "steps", "", "neither", [_last_step(story) for story in stories]),
        row("seconds", "time", "s", "lower", [summary.seconds or None for summary in summaries]),
        row("loss", "loss, last", "", "lower", [_last_loss(story) for story in stories]),
        row(
            "val_loss",
            "validation loss",
            "",
            "lower",
            [_last_val(*pair) for pair in zip(stories, summaries, strict=True)],
        ),
        row("grad_norm", "norm of the gradient, last", "", "neither", [_last_norm(story) for story in stories]),
        row("perplexity", "perplexity", "", "lower", [summary.perplexity for summary in summaries]),
        row("val_accuracy", "accuracy", "", "higher", [summary.val_accuracy for summary in summaries]),
        row("seconds_to_loss", "time to the loss", "s", "lower", reached),
        row("tokens_per_s", f"{counts}/s", "", "higher", [summary.tokens_per_s or None for summary in summaries]),
        row("step_s", "step", "s", "lower", mean(lambda did: did.seconds)),
        row("compute_s", "  computing", "s", "lower", mean(lambda did: did.compute_s)),
        row("wait_s", "  waiting", "s", "lower", mean(lambda did: did.comm_s)),
        row("data_s", "  for samples", "s", "lower", mean(lambda did: did.data_s)),
        row("bytes_per_step", "sent a step", "B", "lower", [summary.wire_bytes_per_step for summary in summaries]),
        row(
            "peak_rss_mb", "memory, largest", "MB", "lower", [max(s.peak_rss_mb, default=0) or None for s in summaries]
        ),
        row("restarts", "restarts", "", "lower", [float(summary.restarts) for summary in summaries]),
    ]
    return [figure for figure in rows if any(value is not None for value in figure.values)]


def _mean_of_ranks(story: RunStory, value: Callable[[Totals], float]) -> float | None:
    """The mean over the ranks that compute, of a value for each of their steps: in a star these are the workers."""
    computing = story.ranks[1:] if story.has_server else story.ranks
    known = [value(rank.totals) / rank.totals.steps for rank in computing if rank.totals.steps]
    return sum(known) / len(known) if known else None


def _last_step(story: RunStory) -> float | None:
    records = longest(story)
    return float(records[-1].step) if records else None


def _last_loss(story: RunStory) -> float | None:
    records = longest(story)
    return records[-1].loss if records else None


def _last_norm(story: RunStory) -> float | None:
    records = longest(story)
    return records[-1].grad_norm if records else None


def _last_val(story: RunStory, summary: Summary) -> float | None:
    measured = [record.val_loss for record in longest(story) if record.val_loss is not None]
    return summary.val_loss if summary.val_loss is not None else measured[-1] if measured else None


def _differences(configs: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = {key: tuple(config.get(key, "-") for config in configs) for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}
