"""What the page shows of a run that served a model."""

from __future__ import annotations

from smolcluster.observe.page.markup import Markup, section, table, tag
from smolcluster.observe.page.topology import topology as drawn
from smolcluster.observe.ranks import links_of
from smolcluster.observe.served import ServeStory
from smolcluster.runtime.runfolder import Summary


def cards(story: ServeStory, summary: Summary) -> list[tuple[str, str]]:
    """The figures that are looked for first."""
    found: list[tuple[str, str | None]] = [
        ("model", story.plan.serve.model_name),
        ("requests", f"{summary.requests or 0:,}"),
        ("failed", f"{summary.failed or 0:,}"),
        ("tokens", f"{summary.tokens:,}"),
        ("tokens/s", f"{summary.tokens_per_s:,.1f}"),
        ("first token", f"{summary.first_token_s:.3f} s" if summary.first_token_s is not None else None),
        ("time", f"{summary.seconds:,.1f} s" if summary.seconds else None),
        ("restarts", str(summary.restarts) if summary.restarts else None),
    ]
    return [(label, value) for label, value in found if value is not None]


def stages(story: ServeStory) -> Markup:
    """Who had which layers, and how long a token took there: of the last requests, as the API said last."""
    note, head = story.note, ["node", "rank", "device", "layers planned", "layers at last", "of a token"]
    if note is None:
        said = "What its stages took is not known here: serving.json, which the API writes, was not collected."
    else:
        said = "Layers and times are those that the API said last; no file keeps how they were before."
    rows: list[list[object]] = []
    for stage in story.plan.stages:
        took = note.ms_per_token.get(stage.rank) if note is not None else None
        last = (note.layers.get(stage.rank, "none") if note.layers else "-") if note is not None else "-"
        rows.append(
            [
                story.plan.machine(stage.rank),
                stage.rank,
                story.plan.ranks[stage.rank].device,
                f"{stage.start}:{stage.stop}",
                last,
                f"{took:.3g} ms" if took is not None else "-",
            ]
        )
    return section("Stages", table(head, rows, left=5), tag("p", said, class_="dim"))


def topology(story: ServeStory) -> Markup:
    """The picture of the stages, and the slowest link in words."""
    count = len(story.plan.stages)
    links = [link for link in links_of(story) if link.rank < count and link.peer < count]
    return drawn(story.plan.ranks[:count], "CHAIN", links, story.plan.machine)
