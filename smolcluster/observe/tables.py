"""A run's summary as a person reads it in a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from smolcluster.observe.idle import idle_of
from smolcluster.observe.profiled import ProfileStory, profile_of, profile_tables
from smolcluster.observe.ranks import figures_of
from smolcluster.observe.report import Culprit, RankStory, RunStory
from smolcluster.observe.served import ServeStory, Story
from smolcluster.observe.serving_lines import layers_text
from smolcluster.plan.pipeline import placed
from smolcluster.runtime.runfolder import GradientAccount, Summary

_COLOUR = {"completed": "green", "failed": "red", "stopped": "yellow"}


def show(console: Console, story: Story, summary: Summary, followed: bool = False) -> None:
    """Print the run's tables, and of a failed one who failed first, why, and what it last said before that.

    `followed`: why a rank failed of itself was told when it did, and is not told again.
    """
    console.print(Group(*_parts(story, summary, followed)))


def _parts(story: Story, summary: Summary, followed: bool) -> list[RenderableType]:
    if isinstance(story, ServeStory):
        parts: list[RenderableType] = [_run_table(summary, _served_rows(story, summary)), _served_ranks(story)]
    elif isinstance(story, ProfileStory):
        tables = profile_tables(profile_of(story)) if story.whole else []
        parts = [_run_table(summary, _measured_rows(story, summary)), *tables]
    else:
        parts = [_run_table(summary, _trained_rows(story, summary)), _rank_table(story, summary)]
    if summary.status == "failed" and story.culprit is not None:
        parts.append(_failure(story.culprit, followed and story.culprit.root_cause))
    elif summary.reason:
        parts.append(Text(f"{summary.status}: {summary.reason}", style="yellow"))
    return parts


def _run_table(summary: Summary, rows: list[tuple[str, str]]) -> Table:
    title = f"run {escape(summary.run_id)}"
    table = Table(title=title, title_justify="left", show_header=False, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    colour = _COLOUR[summary.status]
    for row in [("status", f"[{colour}]{summary.status}[/] (exit code {summary.exit_code})"), *rows]:
        table.add_row(*row)
    return table


def _trained_rows(story: RunStory, summary: Summary) -> list[tuple[str, str]]:
    rows = [
        ("strategy", f"{summary.strategy}, {summary.world_size} rank(s), transport {summary.transport}"),
        ("parameters", f"{summary.params:,}"),
        *_layers(story),
        ("steps", f"{summary.steps:,} in {summary.seconds:.1f} s"),
        (summary.counts, f"{summary.tokens:,}, {summary.tokens_per_s:,.0f} per second"),
        ("loss", _change(summary.loss_first, summary.loss_last)),
        ("validation loss", _change(summary.val_loss_first, summary.val_loss)),
        *_score(summary),
        ("wire", f"{(summary.wire_bytes_per_step or 0) / 1e6:,.2f} MB per step, all ranks"),
    ]
    if summary.gradients is not None:
        rows.append(("gradients", _gradients(summary.gradients)))
    if summary.rounds is not None:
        slot = f", a slot {summary.slot_s:.2f} s (median)" if summary.slot_s is not None else ""
        rows.insert(3, ("rounds", f"{summary.rounds:,}{slot}; the ranks' steps are their own"))
    if summary.idle_share is not None and summary.idle_planned is not None:
        waited = ", ".join(map(_percent, summary.idle_share))
        each = "stage by stage" if story.plan.replicas == 1 else "rank by rank"
        rows.append(("idle", f"{waited} of a step, {each}; planned {_percent(summary.idle_planned)}"))
    if summary.staleness_by_rank is not None:
        each = ", ".join(f"{lag.mean:.2f} ({lag.max})" for lag in summary.staleness_by_rank)
        run = f"{summary.staleness_mean:.2f} steps on average, {summary.staleness_max} at most"
        rows.append(("staleness", f"{run}; of each rank's weights {each}"))
    if summary.restarts:
        rows.append(("restarts", f"{summary.restarts}, generation {summary.generation} was the last"))
    if summary.resumed_step is not None:
        rows.insert(0, ("resumed", f"from step {summary.resumed_step:,} of {escape(summary.resumed_from)}"))
    return rows


def _layers(story: RunStory) -> list[tuple[str, str]]:
    """Who held which layers at last, of a model that was split."""
    plan = story.plan_at_last
    if plan is None or not plan.stages:
        return []
    return [("layers", escape(placed([rank.node for rank in plan.ranks], plan.stages)))]


def _gradients(account: GradientAccount) -> str:
    """`120 pushed: 117 applied (4 late), 2 refused (too stale 2), 1 rolled back`."""
    refused = sum(account.refused.values())
    why = f" ({', '.join(f'{reason} {count:,}' for reason, count in account.refused.items())})" if refused else ""
    late = f" ({account.late:,} late)" if account.late else ""
    open_ = f", {account.pending:,} in no update yet" if account.pending else ""
    lost = f", {account.rolled_back:,} rolled back" if account.rolled_back else ""
    return f"{account.pushed:,} pushed: {account.applied:,} applied{late}, {refused:,} refused{why}{lost}{open_}"


def _served_rows(story: ServeStory, summary: Summary) -> list[tuple[str, str]]:
    serve, stages = story.plan.serve, len(story.plan.stages)
    first = "-"
    if summary.first_token_s is not None and summary.first_token_p95_s is not None:
        first = f"after {summary.first_token_s:.3f} s (median), {summary.first_token_p95_s:.3f} s (95 % of requests)"
    rows = [
        ("served", f"{escape(serve.model_name)}, {serve.model.precision}, {stages} stage(s), {summary.seconds:.1f} s"),
        ("parameters", f"{summary.params:,}"),
        ("requests", f"{summary.requests:,}, {summary.failed:,} failed"),
        ("tokens", f"{summary.tokens:,} generated, {summary.tokens_per_s:,.1f} per second while it was asked"),
        ("first token", first),
    ]
    if summary.restarts:
        rows.append(("restarts", f"{summary.restarts}"))
    return rows


def _measured_rows(story: ProfileStory, summary: Summary) -> list[tuple[str, str]]:
    run = story.plan.run
    what = f"{run.model.type}, {summary.params:,} parameters, {run.training.batch_size} samples of each rank a step"
    return [
        ("measured", what),
        (summary.counts, f"{summary.tokens_per_s:,.0f} per second if nobody had to wait"),
        ("took", f"{summary.seconds:.1f} s"),
    ]


def _served_ranks(story: ServeStory) -> Table:
    table = Table(title="ranks", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("rank", "node", "does", "status", "peak"):
        table.add_column(name, justify="right" if name in ("rank", "peak") else "left", no_wrap=True)
    layers = {
        stage.rank: layers_text(stage.rank, f"{stage.start}:{stage.stop}", story.note) for stage in story.plan.stages
    }
    for rank in story.ranks:
        head = [str(rank.plan.rank), escape(story.plan.machine(rank.plan.rank)), layers.get(rank.plan.rank, "API")]
        if rank.result is None:
            table.add_row(*head, "[red]no result[/]", "")
        else:
            status = f"[{_COLOUR[rank.result.status]}]{rank.result.status}[/]"
            table.add_row(*head, status, f"{rank.result.peak_rss_mb:,.0f} MB")
    return table


def _score(summary: Summary) -> list[tuple[str, str]]:
    """What the validation loss means: accuracy, or perplexity and of which tokens it is."""
    if summary.val_accuracy is not None:
        return [("accuracy", f"{summary.val_accuracy * 100:.2f} % of the validation samples")]
    if summary.perplexity is not None:
        return [("perplexity", f"{summary.perplexity:,.4g} per token of {escape(summary.tokenizer or '?')}")]
    return []


def _rank_table(story: RunStory, summary: Summary) -> Table:
    table = Table(title="ranks", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    idle = ["idle"] if summary.idle_share is not None else []
    columns = ["rank", "node", "status", "steps", f"{summary.counts}/s", "compute", "wait", *idle, "sent", "peak"]
    for name in columns:
        table.add_column(name, justify="left" if name in ("node", "status") else "right", no_wrap=True)
    for rank in story.ranks:
        row = _rank_row(rank)
        if idle:
            row.insert(columns.index("idle"), _percent(idle_of(rank.steps)))
        table.add_row(*row)
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f} %"


def _rank_row(rank: RankStory) -> list[str]:
    head = [str(rank.plan.rank), escape(rank.plan.node)]
    if rank.result is None:
        return [*head, "[red]no result[/]", "", "", "", "", "", ""]
    result = rank.result
    did = figures_of(rank.steps)
    rounds = any(record.inner_steps is not None for record in rank.steps)
    return [
        *head,
        f"[{_COLOUR[result.status]}]{result.status}[/]",
        f"{did.steps if rounds else result.steps:,}",
        f"{did.tokens_per_s:,.0f}",
        f"{did.compute_s:.3f} s",
        f"{did.wait_s:.3f} s",
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
    if not text.plain:
        text.append("why stands above, where it failed; its log says nothing more")
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
