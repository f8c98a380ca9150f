"""What a person means by `--resume`: looked up before anything is started, so that a wrong name starts nothing."""

from __future__ import annotations

from pathlib import Path

from smolcluster.errors import InputError, Problem
from smolcluster.runtime.checkpoint.sources import Lookout, Source
from smolcluster.runtime.runfolder import run_at

LATEST = "latest"


def checkpoint_named(text: str, workdir: Path) -> Path:
    """The absolute path of a run's folder, or of one of its manifests. InputError if no checkpoint is there.

    `latest` is the run that `workdir`/latest points to now; a new run moves that on.
    """
    given = workdir / LATEST if text == LATEST else Path(text).expanduser()
    path = given.resolve() if given.suffix == ".json" else run_at(given)
    source = Source.named_by(path)
    if not path.exists():
        _refuse(text, f"there is no {path}")
    lookout = Lookout((source,), "this machine")
    problems = lookout.find_manifests()
    if not lookout.manifests:
        what = "it has no checkpoint" if not problems else "none of its checkpoints can be used"
        _refuse(text, "".join([what, *(f"\n      {problem}" for problem in problems)]))
    return path


def _refuse(text: str, what: str) -> None:
    fix = "name a run's folder under runs/, one of its checkpoints/step-*.json, or latest"
    raise InputError([Problem(f"--resume {text}", 0, "", what, fix)])
