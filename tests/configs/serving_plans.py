"""Plans of a served model, or what is wrong with what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smolcluster.errors import ConfigError
from smolcluster.plan.serve import make_serve_plan
from smolcluster.plan.stages import Profile
from smolcluster.plan.types import ServePlan
from smolcluster.spec.request import Request
from smolcluster.spec.served import ModelFolder
from smolcluster.spec.serving import resolve_serving

Write = Callable[[str, str], Path]
NOT_PRIVATE = (
    "this wire is not private: traffic is authenticated but not encrypted until certificates are set up"
    " (ansible-playbook certificates.yml)"
)
# Three machines with an address each: a and b share a wire, b and c another, and nothing leads from a to c.
ROW = """\
schema: 1
name: row
machines:
  a: {kind: linux, host: a.local}
  b: {kind: linux, host: b.local}
  c: {kind: linux, host: c.local}
networks:
  left: {medium: ethernet, private: true, members: {a: 10.0.0.1, b: 10.0.0.2}}
  right: {medium: ethernet, private: true, members: {b: 10.0.1.2, c: 10.0.1.3}}
"""


def planned(folder: Path, request: Request, profile: Profile | None = None) -> ServePlan:
    served = resolve_serving(request, lambda name: ModelFolder(folder, f"test {name}", "MIT"))
    assert served.shape is not None
    return make_serve_plan(served.cluster, served.serve, served.shape, profile, served.notes, served.inputs)


def refused(folder: Path, request: Request) -> list[str]:
    """The problems, without their number; a fix after `|`."""
    with pytest.raises(ConfigError) as error:
        planned(folder, request)
    return [str(problem).replace("\n    fix: ", " | ") for problem in error.value.problems]


def asked(inventory: Path, model: str = "", *overrides: str, **more: Any) -> Request:
    return Request(inventory, "inference", model=model, overrides=overrides, **more)


def stage(rank: int, node: str, listen: list[str], port: int, peers: dict[str, str], threads: int) -> dict[str, Any]:
    known = dict.fromkeys(peers, False)
    return {
        "rank": rank, "node": node, "local_rank": 0, "role": "stage", "device": "auto", "listen": listen, "port": port,
        "peers": peers, "encrypt": known, "samples": 0, "buffer_mb": 8.0, "threads": threads, "memory_mb": None,
    }  # fmt: skip
