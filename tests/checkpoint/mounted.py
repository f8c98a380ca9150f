"""Runs on a mount that is read-only, which rights are not for root: in a mount namespace of a child of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.checkpoint.jobs import load, train, warnings_of
from tests.checkpoint.runs import plan

# Nobody outside sees what is mounted here, and it goes with the last process inside.
UNSHARE = ("unshare", "--mount", "--propagation", "private", *(() if os.geteuid() == 0 else ("--map-root-user",)))
MOUNT = 'mount -t tmpfs tmpfs "$0" && cp -a "$1"/. "$0" && mount -o remount,ro "$0" && shift && exec "$@"'
TIMEOUT_S = 150
ROOT = Path(__file__).resolve().parents[2]


@cache
def forbidden() -> str:
    """Why a mount cannot be made here; "" where it can."""
    try:
        tried = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/tmp"], capture_output=True, text=True)
    except OSError as error:
        return f"no unshare: {error}"
    return tried.stderr.strip() if tried.returncode else ""


def on_read_only(
    folder: Path, content: Path, *command: str, cwd: Path | None = None, env: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a command where `folder` is a read-only file system that holds what `content` does."""
    words = [*UNSHARE, "sh", "-c", MOUNT, str(folder), str(content), sys.executable, *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=cwd, env=env)


def job(folder: Path, content: Path, name: str, *arguments: Path) -> Any:
    """What one of the functions below gives, called where `folder` is read-only."""
    outcome = on_read_only(folder, content, "-m", __name__, name, *map(str, arguments), cwd=ROOT)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return json.loads(outcome.stdout.splitlines()[-1])


def longer() -> Any:
    """Two steps more than the run that is gone on with, saved."""
    return plan(1, "single", checkpoint={"every_steps": 2}, max_steps=6, eval_steps=100)


def go_on(run: Path, data: Path, new: Path) -> Any:
    """Load the checkpoint of step 4, and go on from it in a folder that can be written; the steps."""
    account = train(None, new, data, longer(), resume=run)
    return {"wrong": load(None, run, data, longer(), 4, run), "from": account.resumed_step, "steps": account.steps}


def go_on_there(run: Path, data: Path) -> Any:
    """Go on in the run's own folder; what was warned of, and whether step 4 still loads."""
    told = warnings_of(None, train, run, data, longer(), 1)
    return {"told": told, "wrong": load(None, run, data, longer(), 4, run)}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*map(Path, sys.argv[2:]))))
