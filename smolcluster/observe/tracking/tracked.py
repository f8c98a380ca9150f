"""Which tracker a run goes to, and whether it has been there: tracking/sent.json in its folder."""

from __future__ import annotations

import datetime
import json
from typing import Literal

from smolcluster.errors import InputError, Problem
from smolcluster.observe.report import RunStory, summarise
from smolcluster.observe.tracking.sink import About, Opens, Tracker, require, send
from smolcluster.runtime.runfolder import RunFolder, read_json, write_atomic

SENT_SCHEMA = 1


def sent_to(folder: RunFolder) -> dict[str, str]:
    """By tracker, what it said when it had the run."""
    try:
        found = read_json(folder.tracking / "sent.json").get("sent")
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def track(
    folder: RunFolder, story: RunStory, to: Tracker, mode: Literal["offline", "online"], again: bool = False
) -> str:
    """Tell the tracker all of the run; gives where it can be seen. InputError, TrackerError.

    A run that W&B has is not told twice: it would be there twice. `again` makes it a run of another name.
    """
    require(to)
    before, run_id = sent_to(folder), story.run_id
    if to == "wandb":
        if not any(rank.result is not None for rank in story.ranks):
            what, fix = (
                "the run has not ended, and W&B takes a run once",
                "upload it when it has; tensorboard takes it now",
            )
            raise InputError([Problem(str(folder.path), 0, "", what, fix)])
        if to in before and not again:
            what, fix = f"W&B has this run already: {before[to]}", "--again uploads it as another run"
            raise InputError([Problem(str(folder.path), 0, "", what, fix)])
        if to in before:
            run_id += datetime.datetime.now(datetime.UTC).strftime("-%Y%m%d-%H%M%S")
    run = story.plan.run
    about = About(
        run_id=run_id,
        project=run.project_name,
        strategy=run.strategy,
        config=json.loads(story.plan.model_dump_json(by_alias=True)),
        folder=folder.tracking / to,
        mode=mode,
    )
    said = send(story, summarise(story), about, _opens(to))
    write_atomic(
        folder.tracking / "sent.json", json.dumps({"schema": SENT_SCHEMA, "sent": {**before, to: said}}) + "\n"
    )
    return said


def _opens(to: Tracker) -> Opens:
    if to == "wandb":
        from smolcluster.observe.tracking.wandb import WandB

        return WandB.open
    from smolcluster.observe.tracking.tensorboard import TensorBoard

    return TensorBoard.open
