"""A run's summary as a person reads it in a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from smolcluster.observe.report import Culprit, RankStory, RunStory
from smolcluster.runtime.runfolder import Summary

_COLOUR = {"completed": "green", "failed": "red", "stopped": "yellow"}


def show(console: Console, story: RunStory, summary: Summary, followed: bool = False) -> None:
    """Print the run's tables, and of a failed one who failed first, why, and what it last said before that.

    `followed`: why a rank failed of itself was told when it did, and is not told again.
    """
    console.print(Group(*_parts(story, summary, followed)))


def _parts(story: RunStory, summary: Summary, followed: bool) -> list[RenderableType]:
    parts: list[RenderableType] = [_run_table(summary), _rank_table(story, summary.counts)]
    if summary.status == "failed" and story.culprit is not None:
        parts.append(_failure(story.culprit, followed and story.culprit.root_cause))
    elif summary.reason:
        parts.append(Text(f"{summary.status}: {summary.reason}", style="yellow"))
    return parts


def _run_table(summary: Summary) -> Table:
    title = f"run {escape(summary.run_id)}"
    table = Table(title=title, title_justify="left", show_header=False, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    colour = _COLOUR[summary.status]
    rows = [
        ("status", f"[{colour}]{summary.status}[/] (exit code {summary.exit_code})"),
        ("strategy", f"{summary.strategy}, {summary.world_size} rank(s), transport {summary.transport}"),
        ("parameters", f"{summary.params:,}"),
        ("steps", f"{summary.steps:,} in {summary.seconds:.1f} s"),
        (summary.counts, f"{summary.tokens:,}, {summary.tokens_per_s:,.0f} per second"),
        ("loss", _change(summary.loss_first, summary.loss_last)),
        ("validation loss", _change(summary.val_loss_first, summary.val_loss)),
        *_score(summary),
        ("wire", f"{summary.wire_bytes_per_step / 1e6:,.2f} MB per step, all ranks"),
    ]
    if summary.restarts:
        rows.append(("restarts", f"{summary.restarts}, generation {summary.generation} was the last"))
    if summary.resumed_step is not None:
        rows.insert(1, ("resumed", f"from step {summary.resumed_step:,} of {escape(summary.resumed_from)}"))
    for row in rows:
        table.add_row(*row)
    return table


def _score(summary: Summary) -> list[tuple[str, str]]:
    """What the validation loss means: accuracy, or perplexity and of which tokens it is."""
    if summary.val_accuracy is not None:
        return [("accuracy", f"{summary.val_accuracy * 100:.2f} % of the validation samples")]
    if summary.perplexity is not None:
        return [("perplexity", f"{summary.perplexity:,.4g} per token of {escape(summary.tokenizer or '?')}")]
    return []


def _rank_table(story: RunStory, counts: str) -> Table:
    table = Table(title="ranks", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("rank", "node", "status", "steps", f"{counts}/s", "compute", "wait", "sent", "peak"):
        table.add_column(name, justify="left" if name in ("node", "status") else "right", no_wrap=True)
    for rank in story.ranks:
        table.add_row(*_rank_row(rank))
    return table


def _rank_row(rank: RankStory) -> list[str]:
    head = [str(rank.plan.rank), escape(rank.plan.node)]
    if rank.result is None:
        return [*head, "[red]no result[/]", "", "", "", "", "", ""]
    result = rank.result
    seconds = sum(record.step_s for record in rank.steps)
    speed = sum(record.tokens for record in rank.steps) / seconds if seconds else 0.0
    count = max(1, len(rank.steps))
    return [
        *head,
        f"[{_COLOUR[result.status]}]{result.status}[/]",
        f"{result.steps:,}",
        f"{speed:,.0f}",
        f"{sum(record.compute_s for record in rank.steps) / count:.3f} s",
        f"{sum(record.comm_s for record in rank.steps) / count:.3f} s",
        f"{result.wire_bytes_out / 1e6:,.0f} MB",
        f"{result.peak_rss_mb:,.0f} MB",
    ]


def _failure(culprit: Culprit, told: bool) -> Panel:
    text = Text("" if told else f"{culprit.reason}\n\n", style="bold")
    said = _without("\n".join(culprit.tail), culprit.reason)
    if said:
        text.append("last lines of its log:\n", style="not bold dim")
        text.append(said, style="not bold")
    text.rstrip()
    return Panel(text, title=f"rank {culprit.rank} on {escape(culprit.node)} failed first", border_style="red")


def _without(log: str, reason: str) -> str:
    """A log without the lines that say the reason, which stands above it."""
    at = log.rfind(reason) if reason else -1
    if at < 0:
        return log
    return (log[: log.rfind("\n", 0, at) + 1] + log[at + len(reason) :].lstrip("\n")).rstrip("\n")


def _change(first: float | None, last: float | None) -> str:
    if last is None:
        return "-"
    return f"{last:.4f}" if first is None else f"{first:.4f} -> {last:.4f}"
