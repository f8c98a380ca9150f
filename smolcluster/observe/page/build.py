"""report.html: one page that has everything in it, of a run of any kind. Pure: from what was read to text.

It asks no host for anything, which its own policy forbids too, and runs no script.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from smolcluster import __version__
from smolcluster.observe.events import Event
from smolcluster.observe.page import serving, training
from smolcluster.observe.page.config import config
from smolcluster.observe.page.markup import Markup, join, section, table, tag
from smolcluster.observe.page.style import STYLE
from smolcluster.observe.profiled import ProfileStory, profile_of
from smolcluster.observe.report import Culprit, RunStory
from smolcluster.observe.served import ServeStory, Story
from smolcluster.observe.settings import flat_config, flat_serving
from smolcluster.runtime.runfolder import Summary

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page_of(story: Story, summary: Summary, status: str, events: Sequence[Event]) -> str:
    """The whole document. `status`: how the run ended, or that it has not."""
    if isinstance(story, RunStory):
        parts = [
            training.curves(story, summary),
            training.nodes(story, summary),
            training.topology(story),
            training.prediction(story),
            _events(events),
            training.plan(story),
            config(flat_config(story)),
        ]
        figures = training.cards(story, summary)
    else:
        figures, tables = _other(story, summary)
        parts = [*tables, _events(events)]
        if isinstance(story, ServeStory):
            parts.append(config(flat_serving(story.plan), story.plan.notes))
    return str(
        join(
            Markup("<!doctype html>\n"),
            tag(
                "html",
                tag(
                    "head",
                    Markup('<meta charset="utf-8">'),
                    Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
                    Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
                    tag("title", f"{story.run_id}: {status}"),
                    tag("style", Markup(STYLE)),
                ),
                tag("body", _head(story, summary, status, figures), *parts, _notes(story.notes), _foot()),
                lang="en",
            ),
            "\n",
        )
    )


def _head(story: Story, summary: Summary, status: str, figures: list[tuple[str, str]]) -> Markup:
    ended = f"{status} (exit code {summary.exit_code})" if status == summary.status else status
    shown = [tag("div", tag("span", label, class_="dim"), tag("b", value), class_="card") for label, value in figures]
    return tag(
        "header",
        tag("h1", f"Run {story.run_id}"),
        tag("p", tag("b", ended, class_=status), f", {summary.strategy}, {summary.world_size} rank(s)"),
        tag("p", summary.reason, class_=status) if summary.reason and status == summary.status else "",
        _failure(story.culprit) if status == "failed" and story.culprit is not None else "",
        tag("div", *shown, class_="cards"),
    )


def _failure(culprit: Culprit) -> Markup:
    if not culprit.tail:
        return Markup("")
    what = f"rank {culprit.rank} on {culprit.node} failed first; the last lines of its log"
    return tag("details", tag("summary", what), tag("pre", "\n".join(culprit.tail)), open=True)


def _events(events: Sequence[Event]) -> Markup:
    if not events:
        return section("Events", tag("p", "None besides steps.", class_="dim"))
    rows: list[list[object]] = [
        [_when(event.time), event.node, tag("span", event.kind, class_=event.kind), event.text] for event in events
    ]
    return section("Events", table(["UTC", "node", "", "what"], rows, left=4))


def _when(seconds: float | None) -> str:
    if seconds is None:
        return "all along"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%m-%d %H:%M:%S")


def _notes(notes: Sequence[str]) -> Markup:
    if not notes:
        return Markup("")
    return section("Notes", tag("ul", *(tag("li", note) for note in notes)))


def _foot() -> Markup:
    return tag("footer", f"smolcluster {__version__}. This page is one file: it needs no network.")


def _other(story: ServeStory | ProfileStory, summary: Summary) -> tuple[list[tuple[str, str]], list[Markup]]:
    """The figures and tables of a run that trained nothing."""
    ranks: list[list[object]] = [
        [
            rank.plan.node,
            rank.plan.rank,
            rank.plan.role,
            rank.result.status if rank.result is not None else "no result",
            f"{rank.result.peak_rss_mb:,.0f} MB" if rank.result is not None else "-",
        ]
        for rank in story.ranks
    ]
    tables = [section("Nodes", table(["node", "rank", "role", "status", "memory"], ranks))]
    if isinstance(story, ServeStory):
        return serving.cards(story, summary), [serving.stages(story), *tables, serving.topology(story)]
    figures = [("ranks", str(story.plan.world_size)), (f"{summary.counts}/s", f"{summary.tokens_per_s:,.0f}")]
    if not story.whole:
        return figures, tables
    profile = profile_of(story)
    speeds: list[list[object]] = [[node, f"{speed:,.0f}"] for node, speed in profile.speeds.items()]
    links: list[list[object]] = [
        [link.src, link.dst, f"{link.mbps:,.0f}", f"{link.rtt_ms:.2f} ms"] for link in profile.links
    ]
    measured = [section("Machines", table(["node", f"{summary.counts}/s"], speeds))]
    measured.append(section("Links", table(["from", "to", "Mbit/s", "round trip"], links, left=2)))
    return figures, [*tables, *measured]
