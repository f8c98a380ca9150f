"""What a person asked for on the command line, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smolcluster.errors import Problem
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.resumed import Earlier
from smolcluster.spec.run import RunSpec


@dataclass(frozen=True)
class Request:
    """The flags of `check`, `plan`, `prepare`. `nodes` empty means what the files say; `overrides` are key=value.

    `init` is a folder with weights to start from, `earlier` the run that is resumed. To serve, `model` is a served
    model's name or folder; "" leaves it to the files. `problems`: what was wrong with flags before this; they are told
    with all others. `ca` is the fingerprint of the cluster's authority, "" where it has no certificates.
    """

    inventory: Path
    strategy: str
    model: str = "gpt"
    dataset: str | None = None
    config: Path | None = None
    cluster_config: Path | None = None
    nodes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    init: Path | None = None
    earlier: Earlier | None = None
    problems: tuple[Problem, ...] = ()
    ca: str = ""


@dataclass(frozen=True)
class Resolved:
    """A request completely resolved. `notes` tell what a rule of READING decided; `inputs` maps file to SHA-256."""

    cluster: ClusterSpec
    run: RunSpec
    notes: tuple[str, ...]
    inputs: dict[str, str]
