"""Runs for experiment trackers: what they are told, offline, and that none of them fails a run."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_page import with_links
from test_report import ended, run_folder

from smolcluster.cli import main
from smolcluster.commands import _tracking
from smolcluster.commands._tracking import track_if_asked
from smolcluster.errors import InputError
from smolcluster.observe.report import read_run
from smolcluster.observe.tracking.rows import rows_of
from smolcluster.observe.tracking.sink import TrackerError
from smolcluster.observe.tracking.tracked import sent_to, track
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import GradientRecord
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.spec.run import TrackingSpec

tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")
wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run of three ranks with links and gradients; nobody is logged in anywhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    made = with_links(run_folder(tmp_path / "runs" / "a-run", ended(0), ended(1), ended(2)))
    with MetricsWriter(made.metrics("node1", 0)) as metrics:
        metrics.write(GradientRecord(step=3, time=1003.0, norms={"h.0.a": 3.0, "h.0.b": 4.0, "ln_f.weight": 1.0}))
    return made


def asks_for(folder: RunFolder, tracker: str) -> None:
    plan = read_run(folder.path).plan
    run = plan.run.model_copy(update={"tracking": TrackingSpec(tracker=tracker)})
    write_atomic(folder.plan, plan.model_copy(update={"run": run}).to_json())


def test_a_row_has_every_rank_s_values(folder: RunFolder) -> None:
    rows = list(rows_of(read_run(folder.path)))
    assert [(row.step, row.time) for row in rows] == [(1, 1001.0), (2, 1002.0), (3, 1003.0)]
    last = rows[-1].values
    assert (last["loss"], last["lr"], last["val_loss"], last["tokens_per_s"]) == (2.0, 1e-3, 2.5, 600.0)
    assert (last["tokens"], last["seconds"]) == (pytest.approx(900), pytest.approx(2.5))
    assert [last[f"rank-{rank}/bytes_out"] for rank in range(3)] == [1000.0, 1001.0, 1002.0]
    assert (last["link-1-2/mbps"], last["link-0-1/mbps"]) == (92.0, 900.0)
    assert {name: value for name, value in last.items() if name.startswith("gradients/")} == {
        "gradients/h.0": 5.0,
        "gradients/ln_f": 1.0,
    }
    assert "val_loss" not in rows[0].values


@tensorboard
def test_tensorboard_reads_what_was_written(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # the second replaces the first
        assert main(["upload", str(folder.path), "--to", "tensorboard"]) == 0
    assert f"tensorboard: tensorboard --logdir {folder.tracking}" in capsys.readouterr().out
    events = EventAccumulator(str(folder.tracking / "tensorboard"))
    events.Reload()
    loss = [(event.step, event.wall_time, event.value) for event in events.Scalars("run/loss")]
    assert loss == [(1, 1001.0, 4.0), (2, 1002.0, 3.0), (3, 1003.0, 2.0)]
    assert events.Scalars("gradients/h.0")[0].value == 5.0
    assert set(events.Tags()["tensors"]) == {"config", "summary"}
    assert len(list((folder.tracking / "tensorboard").iterdir())) == 1


@wandb
def test_wandb_takes_a_run_offline_without_a_key(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upload", str(folder.path), "--to", "wandb"]) == 0
    said = capsys.readouterr().out.strip()
    [written] = (folder.tracking / "wandb").rglob("*.wandb")
    assert said == f"wandb: wandb sync {written.parent}"
    kept = written.read_bytes()
    for word in (b"a-run", b"rank-2/loss", b"link-1-2/mbps", b"gradients/h.0", b"learning_rate", b"completed", b"test"):
        assert word in kept, word
    assert main(["upload", str(folder.path), "--to", "wandb"]) == 2
    assert "W&B has this run already: wandb sync" in capsys.readouterr().err
    assert main(["upload", str(folder.path), "--to", "wandb", "--again"]) == 0
    assert len(list((folder.tracking / "wandb").rglob("*.wandb"))) == 2


@wandb
def test_wandb_online_without_a_key_says_so(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TrackerError, match="No API key configured"):
        track(folder, read_run(folder.path), "wandb", "online")
    assert sent_to(folder) == {}


def test_a_package_that_is_not_there(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as refused:
        track(folder, read_run(folder.path), "wandb", "offline")
    assert "the package wandb is not installed" in str(refused.value)
    assert "pip install 'smolcluster[wandb]'" in str(refused.value)


def test_wrong_words_are_told_at_once(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upload", str(folder.path.parent / "b-run"), "--to", "wandbb", "--mode", "on"]) == 2
    said = capsys.readouterr().err
    assert "3 problems" in said
    assert "did you mean wandb?" in said
    assert "on is no mode" in said


def test_a_run_that_has_not_ended_is_not_for_wandb_yet(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    going = run_folder(tmp_path / "going")
    with pytest.raises(InputError, match="the run has not ended"):
        track(going, read_run(going.path), "wandb", "offline")


@tensorboard
def test_the_report_tracks_a_run_whose_config_asks(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder.path)]) == 0
    assert not folder.tracking.exists()
    asks_for(folder, "tensorboard")
    assert main(["report", str(folder.path)]) == 0
    assert "tensorboard: tensorboard --logdir" in capsys.readouterr().out
    assert set(sent_to(folder)) == {"tensorboard"}
    assert track_if_asked(folder, read_run(folder.path), folder.path) == ""  # it has been there


@tensorboard
def test_a_tracker_that_fails_or_hangs_fails_no_run(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asks_for(folder, "tensorboard")
    write_atomic(folder.tracking, "a file where a folder should be")
    assert main(["report", str(folder.path)]) == 0
    out = capsys.readouterr().out
    assert f"the run is not in tensorboard; later: python -m smolcluster upload {folder.path} --to tensorboard" in out
    assert json.loads(folder.summary.read_text())["exit_code"] == 0
    folder.tracking.unlink()
    said = track_if_asked(folder, read_run(folder.path), folder.path, limit_s=0.01)
    assert "it took longer than 0 s" in said
    assert sent_to(folder) == {}
    monkeypatch.setattr(_tracking.sys, "executable", "/nowhere/python")
    assert "No such file" in track_if_asked(folder, read_run(folder.path), folder.path)
