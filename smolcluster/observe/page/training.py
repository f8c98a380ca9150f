"""What the page shows of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from smolcluster.observe.curves import Points, longest, loss_points, means, thinned, val_points
from smolcluster.observe.gradients import layer_norms
from smolcluster.observe.page.charts import Line, area_chart, line_chart
from smolcluster.observe.page.markup import Markup, section, table, tag
from smolcluster.observe.page.topology import topology as drawn
from smolcluster.observe.predicted import Outcome, outcome_of
from smolcluster.observe.ranks import figures_of, links_of, straggler
from smolcluster.observe.report import RankStory, RunStory, aligned, sent_at
from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.runfolder import Summary

_MB = 1e6
_MOST_SAMPLES = 2500

_Found = TypeVar("_Found")


def cards(story: RunStory, summary: Summary) -> list[tuple[str, str]]:
    """The figures that are looked for first."""
    records = longest(story)
    measured = [record.val_loss for record in records if record.val_loss is not None]
    found: list[tuple[str, str | None]] = [
        ("steps", f"{records[-1].step:,} of {records[-1].total_steps:,}" if records else "0"),
        ("loss", f"{records[-1].loss:.4f}" if records else None),
        ("validation loss", f"{measured[-1]:.4f}" if measured else None),
        ("perplexity", f"{summary.perplexity:,.4g}" if summary.perplexity is not None else None),
        ("accuracy", f"{summary.val_accuracy:.2%}" if summary.val_accuracy is not None else None),
        (f"{summary.counts}/s", f"{summary.tokens_per_s:,.0f}"),
        ("sent a step", f"{(summary.wire_bytes_per_step or 0) / _MB:,.2f} MB"),
        ("time", f"{summary.seconds:,.1f} s" if summary.seconds else None),
        ("parameters", f"{summary.params:,}"),
        ("restarts", str(summary.restarts) if summary.restarts else None),
    ]
    return [(label, value) for label, value in found if value is not None]


def curves(story: RunStory, summary: Summary) -> Markup:
    """The run over its steps."""
    if not longest(story):
        return section("Curves", tag("p", "No step was recorded.", class_="dim"))
    names = [(rank, f"rank {rank.plan.rank} ({rank.plan.node})") for rank in story.counted if rank.steps]

    def each(value: Callable[[StepRecord], float]) -> list[Line]:
        return [Line(name, means(_over(rank, value), 500)) for rank, name in names]

    accuracy = [(float(r.step), r.val_accuracy) for r in longest(story) if r.val_accuracy is not None]
    links = [
        Line(f"{rank.plan.rank} to {peer}", means([(float(x.step), x.mbps) for x in rank.links if x.peer == peer], 500))
        for rank in story.ranks
        for peer in sorted({link.peer for link in rank.links})
    ]
    charts = [
        line_chart(
            "Loss",
            [Line("training", thinned(loss_points(story))), Line("validation", thinned(val_points(story), 200), True)],
        ),
        line_chart("Accuracy", [Line("validation", thinned(accuracy, 200), True)]),
        line_chart(
            f"{summary.counts.capitalize()} per second, by rank", each(lambda r: r.tokens_per_s), from_zero=True
        ),
        area_chart("Seconds of a step, mean over ranks", _split(story)),
        line_chart("MB sent in a step, by rank", each(lambda r: sent_at(story, r) / r.own_steps / _MB), from_zero=True),
        line_chart("Norm of the gradient, by layer", [Line(*pair) for pair in layer_norms(story).items()], log=True),
        line_chart("Mbit/s on each link", links if len(links) <= 12 else [], from_zero=True),
        line_chart("Steps behind, by rank", each(lambda r: r.staleness_mean) if summary.staleness_max else []),
    ]
    return section("Curves", tag("div", *charts, class_="plots"))


def _over(rank: RankStory, value: Callable[[StepRecord], float]) -> Points:
    return [(float(record.step), value(record)) for record in _sample(rank.steps)]


def _sample(found: Sequence[_Found]) -> Sequence[_Found]:
    """Every so many of them, the last one too: a mean of thousands needs no more."""
    every = -(-len(found) // _MOST_SAMPLES)
    return found if every <= 1 else found[(len(found) - 1) % every :: every]


def _split(story: RunStory) -> list[Line]:
    """Computing, waiting for others and for samples, at the steps that all ranks recorded."""
    ranks = [rank for rank in (story.ranks[1:] if story.has_server else story.ranks) if rank.steps]
    if not ranks:
        return []
    rows = _sample(list(zip(*aligned([rank.steps for rank in ranks]), strict=True)))

    def mean(value: Callable[[StepRecord], float]) -> Points:
        found = [(float(row[0].step), sum(value(record) / record.own_steps for record in row)) for row in rows]
        return means([(step, total / len(ranks)) for step, total in found], 300)

    parts = [
        Line("computing", mean(lambda record: record.compute_s)),
        Line("waiting for others", mean(lambda record: record.comm_s)),
    ]
    waited = mean(lambda record: record.data_s)
    return [*parts, Line("waiting for samples", waited)] if any(value for _, value in waited) else parts


def nodes(story: RunStory, summary: Summary) -> Markup:
    """A row for each rank, and who held up the others."""
    head = [
        "node",
        "rank",
        "status",
        "steps",
        f"{summary.counts}/s",
        "computing",
        "waiting",
        "for samples",
        "sent",
        "memory",
    ]
    slow = straggler(story)
    rows = [_row(rank, slow is not None and slow[0] is rank) for rank in story.ranks]
    said = ""
    if slow is not None:
        who = f"rank {slow[0].plan.rank} on {slow[0].plan.node}"
        said = f"{who} computed {slow[1]:.2f} times as long as the others in a step, and they waited for it."
    return section("Nodes", table(head, rows, left=3), tag("p", said, class_="warn") if said else "")


def _row(rank: RankStory, slow: bool) -> list[object]:
    did, result = figures_of(rank.totals), rank.result
    status = result.status if result is not None else "no result"
    name = tag("span", f"{rank.plan.node} (slowest)" if slow else rank.plan.node, class_="warn" if slow else None)
    return [
        name,
        rank.plan.rank,
        tag("span", status, class_=status if result is not None else "bad"),
        f"{did.steps:,}" if result is None else f"{result.steps:,}",
        f"{did.tokens_per_s:,.0f}",
        f"{did.compute_s:.3f} s",
        f"{did.wait_s:.3f} s",
        f"{did.data_s:.3f} s",
        f"{result.wire_bytes_out / _MB:,.0f} MB" if result is not None else "-",
        f"{result.peak_rss_mb:,.0f} MB" if result is not None else "-",
    ]


def topology(story: RunStory) -> Markup:
    """The picture, and the slowest link in words."""
    node_of = {rank.rank: rank.node for rank in story.plan.ranks}
    ranks = [rank.plan for rank in story.ranks]
    return drawn(ranks, story.plan.shape, links_of(story), lambda rank: node_of.get(rank, "?"))


def prediction(story: RunStory) -> Markup:
    """What the plan had said of a step, beside what it was."""
    found = outcome_of(story)
    if found is None:
        why = "Its plan predicted nothing: it had no measured speeds (ansible-playbook profile.yml)."
        return section("Predicted and measured", tag("p", why, class_="dim"))
    return section("Predicted and measured", table(["of a step", "predicted", "was", "times"], _beside(found)))


def _beside(found: Outcome) -> list[list[object]]:
    pairs = (
        ("all of it", found.step_s, found.was_step_s),
        ("computing, slowest rank", found.compute_s, found.was_compute_s),
    )
    return [[what, f"{said:.4g} s", f"{was:.4g} s", f"{was / said:.2f}" if said else "-"] for what, said, was in pairs]


def plan(story: RunStory) -> Markup:
    """What each rank was to do."""
    plan, memory = story.plan, {estimate.rank: estimate for estimate in story.plan.memory}
    head = ["node", "rank", "role", "device", "samples", "threads", "model state"]
    if plan.stages:
        head.insert(4, "layers")
    rows: list[list[object]] = []
    for rank in plan.ranks:
        estimate = memory.get(rank.rank)
        state = f"{estimate.total_bytes / _MB:,.0f} MB" if estimate is not None else "-"
        row: list[object] = [rank.node, rank.rank, rank.role, rank.device, rank.samples, rank.threads, state]
        if plan.stages:
            known = rank.rank < len(plan.stages)
            row.insert(4, f"{plan.stages[rank.rank][0]}:{plan.stages[rank.rank][1]}" if known else "-")
        rows.append(row)
    what = f"{plan.run.strategy} over {plan.world_size} ranks, {plan.shape.lower()}, {plan.wire} on the wire"
    notes = tag("ul", *(tag("li", note) for note in plan.notes)) if plan.notes else ""
    return section("Plan", tag("p", f"{what}; {plan.global_batch} samples a step."), table(head, rows, left=4), notes)
