"""train.yml -e keep=2: old runs go when a new one has been collected, and it is said which and what that freed."""

from __future__ import annotations

import os

import pytest
from ansible_lab import SHORT, Cluster

from smolcluster.runtime.newrun import fill_folder
from smolcluster.runtime.runfolder import RunFolder
from tests.jobs.node import make_plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_oldest_run_goes_and_others_folders_stay(local: Cluster) -> None:
    for number in (1, 2):
        folder = RunFolder(local.runs / f"old-{number}")
        fill_folder(folder, make_plan("node1", ("run",)).to_json())
        folder.summary.write_text("{}")
        os.utime(folder.plan, (1_000_000 + number, 1_000_000 + number))
    (local.runs / "mine").mkdir()
    run = local.play("train", "strategy=classicdp", "dataset=pydoc", "keep=2", override=SHORT)
    assert run.code == 0, run.text
    assert "controller: deleted old-1: 0.0 MB freed" in run.text
    assert run.text.count("deleted ") == 1
    there = {path.name for path in local.runs.iterdir() if path.name[0] != "."}
    assert there == {"latest", "mine", "old-2", run.run_id}
