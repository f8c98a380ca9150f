"""`simulate`: what a cluster would make of a run before anybody has bought it. Pure arithmetic; starts nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolcluster.commands._inventory import default_inventory
from smolcluster.commands._request import (
    DEFAULT_INVENTORY,
    DEFAULT_MODEL,
    ConfigOption,
    DatasetOption,
    InventoryOption,
    ModelOption,
    OverrideOption,
    ProfileOption,
    print_notes,
    request_from,
)

if TYPE_CHECKING:
    from smolcluster.observe.simulated import Story
    from smolcluster.plan.paper import Owned, Scaled
    from smolcluster.spec.paper import PaperWire
    from smolcluster.spec.run import RunSpec

SCHEMA = 1
# A run for each; fsdp besides with every stage.
ALL = ("classicdp", "fsdp", "mp", "diloco", "edp", "syncps")
# balance: what is laid over an inventory's defaults, as --override balance=even, still holds.
_INVENTORY = """\
schema: 1
name: paper
controller: localhost
machines:
  a: {connection: local, kind: linux}
  b: {connection: local, kind: linux}
networks:
  wire: {medium: ethernet, speed_mbps: 1000, private: true, members: {a: 127.0.0.2, b: 127.0.0.3}}
defaults: {port: 0, balance: auto}
"""

NodesOption = Annotated[
    str,
    typer.Option(
        "--nodes", help='Machines: "4x mac-mini-m4, 2x pi5"; of your own with tokens/s and MB: "mine=12000:16384".'
    ),
]
LinkOption = Annotated[
    list[str] | None,
    typer.Option(
        "--link",
        help="thunderbolt, 10g, 2.5g, 1g or wifi; of one kind, pi5=wifi.",
        show_default="each its fastest",
    ),
]
StrategyOption = Annotated[str, typer.Option("--strategy", help="One strategy, several with commas, or all.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The figures as JSON instead of tables.")]


def simulate(
    nodes: NodesOption,
    link: LinkOption = None,
    strategy: StrategyOption = "all",
    inventory: InventoryOption = DEFAULT_INVENTORY,
    model: ModelOption = DEFAULT_MODEL,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    override: OverrideOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict tokens/s, bytes and memory of machines on paper, where adding more stops paying, what to change."""
    from rich.console import Console

    from smolcluster.commands._paper import owned_of
    from smolcluster.commands._profile import read_profile
    from smolcluster.errors import ConfigError, Problem
    from smolcluster.observe.simulated import tables
    from smolcluster.plan.paper import counts_up_to, scale
    from smolcluster.spec.shipped import machines_table

    inventory = inventory or default_inventory()
    if not inventory.is_file():
        raise ConfigError(
            [Problem(str(inventory), 0, "", "there is no such file", "leave -i out, or name an inventory")]
        )
    table = machines_table(inventory)
    speeds, _ = read_profile(profile, inventory) if profile is not None else (None, {})
    runs = _runs(strategy, model, dataset, config, override)
    first = next(iter(runs.values()))
    owned = owned_of(nodes, link or (), table, speeds, first.model)
    counts = counts_up_to(sum(one.count for one in owned))
    lines = {label: scale(run, owned, counts) for label, run in runs.items()}
    sources = {one.name: table.machines[one.name].source for one in owned if one.estimated}
    story = _story(runs, lines, owned, sources, table.wires)
    if as_json:
        typer.echo(json.dumps(_figures(story), indent=2))
        return
    console = Console()
    for part in tables(story):
        console.print(part)


def _story(
    runs: Mapping[str, RunSpec], lines: Mapping[str, Sequence[Scaled]], owned: Sequence[Owned],
    sources: Mapping[str, str], wires: Mapping[str, PaperWire],
) -> Story:  # fmt: skip
    from smolcluster.observe.simulated import Story
    from smolcluster.plan.paper import shared_by_speed, speeds_differ, with_machines
    from smolcluster.plan.paper_changes import changes
    from smolcluster.plan.paper_serving import serve_on
    from smolcluster.plan.profile import tokens_per_sample
    from smolcluster.spec.run import GPTSpec

    first, total = next(iter(runs.values())), sum(one.count for one in owned)
    rates = {label: line[-1].forecast.rate for label, line in lines.items() if line[-1].forecast is not None}
    best = max(rates, key=rates.__getitem__) if rates else None
    model = first.model
    serving = (
        [serve_on(model, owned, count) for count in dict.fromkeys((1, total))] if isinstance(model, GPTSpec) else []
    )
    return Story(
        unit="tokens/s" if tokens_per_sample(model) > 1 else "samples/s",
        owned=owned,
        lines=lines,
        sources=sources,
        best=best,
        alone=with_machines(first.model_copy(update={"strategy": "classicdp"}), owned, 1).forecast,
        gains=changes(runs[best], owned, wires) if best is not None else (),
        by_speed=tuple(
            dict.fromkeys(run.strategy for run in runs.values() if shared_by_speed(run) and speeds_differ(owned))
        ),
        serving=serving,
    )


def _runs(
    strategy: str, model: str | None, dataset: str | None, config: Path | None, override: list[str] | None
) -> dict[str, RunSpec]:
    """A run of each strategy, resolved as any other, on an inventory of two machines that nobody has."""
    from smolcluster.errors import ConfigError, Problem
    from smolcluster.plan.forecast import label_of
    from smolcluster.spec.problems import did_you_mean, listed
    from smolcluster.spec.resolve import resolve

    asked = [name.strip() for name in strategy.split(",") if name.strip()]
    wanted = list(ALL) if asked in (["all"], []) else asked
    odd = [name for name in wanted if name not in ALL]
    if odd:
        fix = did_you_mean(odd[0], ["all", *ALL], f"there are all, {listed(ALL)}")
        raise ConfigError([Problem("--strategy", 0, "", f'there is no "{odd[0]}" to simulate', fix)])
    said = [setting for text in override or () for setting in [text]]
    runs: dict[str, RunSpec] = {}
    refused: dict[str, ConfigError] = {}
    with tempfile.TemporaryDirectory() as folder:
        paper = Path(folder) / "paper.smol.yml"
        paper.write_text(_INVENTORY, encoding="utf-8")
        for name in wanted:
            try:
                run = resolve(request_from(paper, name, model, dataset, config, None, None, said)).run
            except ConfigError as error:  # a setting that only others have
                refused[name] = error
                continue
            told = any(text.startswith(("fsdp_stage", "cluster.fsdp_stage")) for text in said)
            stages = range(4) if name == "fsdp" and not told and len(wanted) > 1 else (run.fsdp_stage,)
            for stage in stages:
                # Stage 3 gathers parameters in the middle of a step, which no staleness bound allows.
                changes = {"fsdp_stage": stage} | ({"staleness_bound": 0} if stage == 3 and name == "fsdp" else {})
                one = run.model_copy(update=changes)
                runs[label_of(one)] = one
    if not runs:
        raise next(iter(refused.values()))
    print_notes(
        f"{name} is left out: {error.problems[0].key} {error.problems[0].what}" for name, error in refused.items()
    )
    return runs


def _figures(story: Story) -> dict[str, object]:
    from smolcluster.plan.paper import stops_paying

    alone = story.alone
    return {
        "schema": SCHEMA,
        "kind": "simulation",
        "estimated": [one.name for one in story.owned if one.estimated],
        "sources": dict(story.sources),
        "strategies": {
            label: {
                "scale": [_figure(one) for one in line],
                "stops_paying": dict(zip(("machines", "why"), stop, strict=True))
                if (stop := stops_paying(line))
                else None,
            }
            for label, line in story.lines.items()
        },
        "best": story.best,
        "alone": None
        if alone is None
        else {"machine": alone.nodes[0], "tokens_per_s": alone.rate, "quicker": story.quicker_alone},
        "serving": [
            {"machines": list(one.machines), "why_not": one.why}
            if one.told is None
            else {
                "machines": list(one.machines),
                "layers": [stop - start for start, stop in one.ranges],
                "one_stream": one.told.one,
                "streams": one.told.streams,
                "several_streams": one.told.several,
                "prompt_tokens_per_s": one.told.prompt,
                "hops_ms": one.told.hops_ms,
            }
            for one in story.serving
        ],
        "gains": [
            {"change": one.change, "how": one.how, "tokens_per_s_before": one.before, "tokens_per_s_after": one.after}
            for one in story.gains
        ],
    }


def _figure(one: Scaled) -> dict[str, object]:
    told = one.forecast
    if told is None:
        return {"machines": one.machines, "why_not": one.why}
    return {
        "machines": one.machines,
        "tokens_per_s": told.rate,
        "step_s": told.step_s,
        "compute_s": told.prediction.compute_s,
        "wire_s": told.prediction.wire_s,
        "bytes_per_step": told.bytes_per_step,
        "memory_mb": max(told.rank_mb),
        "limit": told.limit,
    }
