"""What `python -m smolcluster serve` says while it follows, from answers made here."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from smolcluster.commands import _serve_here
from smolcluster.commands._here import Run
from smolcluster.commands._serve_here import _Following, lay_out_serving
from smolcluster.jobs.types import PollResult
from smolcluster.runtime.runfolder import JobState, RunFolder, ServingNote
from smolcluster.spec.cluster import ClusterSpec
from tests.infer.served_run import plan_of


def answers(url: str | None) -> dict[str, PollResult]:
    note = ServingNote(time=time.time(), state="ready" if url else "lost", urls={"api": url or "http://127.0.0.1:1"})
    return {
        node: PollResult(
            job=JobState(run_id="run", node=node, state="running", pid=1, generation=0, ranks={}),
            progress={},
            failed=(),
            serving=note if node == "n2" else None,
        )
        for node in ("n0", "n1", "n2")
    }


def test_where_the_api_is_is_said_again_only_when_it_has_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    run = Run(folder, {node: folder.node(node) / "node.yaml" for node in ("n0", "n1", "n2")})
    following = _Following(run, plan_of(((0, 2), (2, 4))))
    for url in (None, "http://127.0.0.1:8080", None, "http://127.0.0.1:8080", None, "http://127.0.0.1:9090"):
        assert folder.was_ready.exists() == (following._ready is True)
        following._tell(answers(url))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("api")]
    assert told == ["api   http://127.0.0.1:8080", "api   http://127.0.0.1:9090"]
    assert folder.was_ready.exists()


def test_what_was_served_last_can_be_served_again_by_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """runs/latest/model: the newest run is one that served it."""
    monkeypatch.setattr(_serve_here, "workdir_of", lambda *_: tmp_path / "runs")
    model = tmp_path / "model-of-a-hash"
    model.mkdir()
    cluster = ClusterSpec(name="test", controller="n0", nodes=(), networks=())
    run = lay_out_serving(cluster, plan_of(((0, 4),)), model)
    assert run.folder.model.is_symlink()
    assert run.folder.model.resolve() == model
