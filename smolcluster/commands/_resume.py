"""What a person means by `resume`: looked up before anything is started, so that a wrong name starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from smolcluster.commands._runs import LATEST, guess, last_trained, run_named
from smolcluster.errors import ConfigError, InputError, Problem
from smolcluster.files import hash_of
from smolcluster.jobs.nodefile import load_node
from smolcluster.observe.report import read_run
from smolcluster.plan.types import Plan
from smolcluster.runtime.checkpoint.sources import Source
from smolcluster.runtime.checkpoint.survey import Survey, survey
from smolcluster.runtime.runfolder import RunFolder, run_at
from smolcluster.spec.resumed import Earlier

# The command that only shows checkpoints; what it names starts no run.
LOOKING = "checkpoint"
_YES = ("true", "yes", "1", LATEST)


@dataclass(frozen=True)
class Found:
    """The run whose checkpoint is taken. `step` None: its checkpoints lie on nodes that are not this machine.

    `manifest` is the one that was named, below the run's folder; "" for the newest. `survey`: all that were looked at.
    """

    folder: Path
    step: int | None
    manifest: str = ""
    survey: Survey = field(default_factory=Survey)

    @property
    def path(self) -> Path:
        """The run's folder, or the manifest that was named."""
        return self.folder / self.manifest


@dataclass(frozen=True)
class Resuming:
    """What `--resume` came to: the run that is gone on from and its settings, or why there is none."""

    found: Found | None = None
    earlier: Earlier | None = None
    problems: tuple[Problem, ...] = ()


def resuming(text: str, runs: Path, elsewhere: bool = False) -> Resuming:
    """Look up what `--resume` names, below `runs` or anywhere; `elsewhere` as for `checkpoint_named`.

    Raises nothing: Problems are told with those of the other flags.
    """
    try:
        found = checkpoint_named(text, runs, elsewhere=elsewhere)
    except ConfigError as error:
        return Resuming(problems=error.problems)
    plan = plan_of(found)
    if plan is None:
        return Resuming(found)
    file = RunFolder(found.folder).plan
    return Resuming(found, Earlier(file, hash_of(file), plan.run))


def plan_of(found: Found) -> Plan | None:
    """The plan of the run that is resumed; None where only its checkpoints are left, or it is another version's."""
    try:
        return Plan.model_validate_json(RunFolder(found.folder).plan.read_bytes())
    except (OSError, ValidationError):
        return None


def checkpoint_named(
    text: str, workdir: Path, flag: str = "--resume", elsewhere: bool = False, hashes: bool = False
) -> Found:
    """Where the checkpoint lies that `text` names: true or latest (the run that `workdir`/latest points to, or the last
    one that trained where that one served a model), a run's name or folder, or one of its manifests.

    A run that was itself resumed and ended before its first checkpoint stands for the one it was resumed from.
    InputError if no checkpoint is there with all its files; with `elsewhere` some may be on nodes whose files are not
    here. `hashes`: the files are read too.
    """
    given = _path(text, workdir)
    path = given.resolve() if given.suffix == ".json" else run_at(given)
    if not path.exists():
        raise _refusal(flag, text, f"there is no {path}", guess(text, workdir))
    tried: list[str] = []
    seen: set[Path] = set()
    while path not in seen:
        seen.add(path)
        source = Source.named_by(path)
        looked = survey(source, hashes)
        problems = looked.problems
        if looked.checkpoints:
            usable = looked.newest_whole if not elsewhere else looked.newest_possible
            if usable is None:
                raise _refusal(
                    flag, text, "\n      ".join([f"no checkpoint in {path} is whole", *problems, *looked.lacks])
                )
            named = "" if path == source.folder else str(path.relative_to(source.folder))
            return Found(source.folder, usable.manifest.step, named, looked)
        story = read_run(source.folder)  # that it is a run at all
        nodes = dict.fromkeys(rank.plan.node for rank in story.ranks)
        files = [RunFolder(source.folder).node(node) / "node.yaml" for node in nodes]
        tried.append(f"{path} has no checkpoint" if not problems else f"none of {path} can be used")
        tried += [f"  {problem}" for problem in problems]
        if elsewhere and not all(file.exists() for file in files) and not problems:
            return Found(source.folder, None)
        path = next((before for before in map(_resumed_from, files) if before is not None), path)
    raise _refusal(flag, text, "\n      ".join(tried))


def _path(text: str, workdir: Path) -> Path:
    return last_trained(workdir) if text.lower() in _YES else run_named(text, workdir)


def _resumed_from(node_file: Path) -> Path | None:
    """The folder that an earlier run was itself resumed from; None if it was not, or that cannot be told."""
    try:
        before = load_node(node_file).resume_from
    except ConfigError:
        return None
    return Path(before) if before is not None and Path(before).exists() else None


def _refusal(flag: str, text: str, what: str, near: str = "") -> InputError:
    anew = "" if flag == LOOKING else "; or start anew without it"
    fix = f"name a run under runs/, its folder, one of its checkpoints/step-*.json, or latest{anew}"
    return InputError([Problem(f"{flag} {text}", 0, "", what, f"{near} Or {fix}" if near else fix)])
