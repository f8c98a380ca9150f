"""What one node does for a model that is served, in a line: for status."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from smolcluster.observe.serving_lines import counts_line, layers_text
from smolcluster.observe.tablet_lines import state_text
from smolcluster.plan.types import ServePlan
from smolcluster.runtime.runfolder import RunFolder, ServingNote, read_json
from smolcluster.runtime.tabletnote import read_tablet


def served_here(run_dir: Path, node: str, note: ServingNote | None = None) -> str:
    """`smollm2: layers 0:10 as planned, API http://..., 3 requests ...`; empty for a run that serves nothing."""
    try:
        plan = ServePlan.model_validate_json(json.dumps(read_json(RunFolder(run_dir).plan)))
    except (OSError, ValueError, ValidationError):
        return ""
    stages = {stage.rank: stage for stage in plan.stages}
    mine = [stages.get(rank.rank) for rank in plan.ranks if rank.node == node]
    parts = [
        layers_text(stage.rank, f"{stage.start}:{stage.stop}", note)
        if stage.tablet is None
        else f"{stage.tablet.node} {_tablet(run_dir, node, stage.rank)}"
        for stage in mine
        if stage is not None
    ]
    if None in mine:
        urls = note.urls if note is not None else {}
        parts += [f"{'API' if name == 'api' else name} {url}" for name, url in urls.items()] or ["API"]
    if note is not None:
        parts.append(counts_line(note).replace("  ", ", "))
    return f"{plan.serve.model_name}: {', '.join(parts)}"


def _tablet(run_dir: Path, node: str, rank: int) -> str:
    note = read_tablet(RunFolder(run_dir), node, rank)
    return "not waited for yet" if note is None else state_text(note)
