"""Which tracker a run goes to, and whether it has been there: tracking/sent.json in its folder."""

from __future__ import annotations

import datetime
import json
import shutil
from typing import Literal

from smolcluster.errors import InputError, Problem
from smolcluster.observe.report import RunStory, summarise
from smolcluster.observe.tracking.sink import About, Opens, Tracker, require, send
from smolcluster.plan.types import Plan
from smolcluster.runtime.runfolder import RunFolder, read_json, write_atomic

SENT_SCHEMA = 1


def sent_to(folder: RunFolder) -> dict[str, str]:
    """By tracker, what it said when it had the run."""
    try:
        found = read_json(folder.tracking / "sent.json").get("sent")
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def note_sent(folder: RunFolder, to: Tracker, said: str) -> None:
    """Note that the tracker has all of the run."""
    sent = {"schema": SENT_SCHEMA, "sent": {**sent_to(folder), to: said}}
    write_atomic(folder.tracking / "sent.json", json.dumps(sent) + "\n")


def about_run(
    folder: RunFolder, plan: Plan, to: Tracker, mode: Literal["offline", "online"], name: str, live: bool = False
) -> About:
    """What a sink is told of the run, under that name."""
    return About(
        run_id=name,
        project=plan.run.project_name,
        strategy=plan.run.strategy,
        config=json.loads(plan.model_dump_json(by_alias=True)),
        folder=folder.tracking / to,
        mode=mode,
        live=live,
    )


def track(
    folder: RunFolder, story: RunStory, to: Tracker, mode: Literal["offline", "online"], again: bool = False
) -> str:
    """Tell the tracker all of the run; gives where it can be seen. InputError, TrackerError.

    A run that W&B has is not told twice: it would be there twice. `again` makes it a run of another name, and so does a
    live tracker that broke off online: what it had told stays there.
    """
    require(to)
    before, name = sent_to(folder), story.run_id
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
        if to in before or _broke_off_online(folder):
            name += datetime.datetime.now(datetime.UTC).strftime("-%Y%m%d-%H%M%S")
        if to not in before:  # an attempt that broke off: synchronised later, it would be the run's first half, again
            shutil.rmtree(folder.tracking / to, ignore_errors=True)
    said = send(story, summarise(story), about_run(folder, story.plan, to, mode, name), opens_of(to))
    note_sent(folder, to, said)
    return said


def opens_of(to: Tracker) -> Opens:
    """How a sink of that tracker is opened."""
    if to == "wandb":
        from smolcluster.observe.tracking.wandb import WandB

        return WandB.open
    from smolcluster.observe.tracking.tensorboard import TensorBoard

    return TensorBoard.open


def _broke_off_online(folder: RunFolder) -> bool:
    """Whether a live tracker was at W&B itself with this run: it is there, and not whole."""
    try:
        note = read_json(folder.tracking / "live.json")
    except (OSError, ValueError):
        return False
    return (note.get("to"), note.get("mode")) == ("wandb", "online")
