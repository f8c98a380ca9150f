"""Runs laid side by side, from folders written by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from test_report import ended, record, run_folder
from train_folders import plan_of, run_spec

from smolcluster.cli import main
from smolcluster.observe.compare import compare
from smolcluster.observe.curves import smoothed, thinned, time_to
from smolcluster.observe.report import read_run
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import GradientRecord
from smolcluster.runtime.runfolder import RunFolder, write_atomic


def two_runs(path: Path) -> tuple[RunFolder, RunFolder]:
    """The second has another rate, and steps of twice the time and half the bytes."""
    first = run_folder(path / "runs" / "first", ended(0), ended(1), ended(2))
    second = run_folder(path / "runs" / "second", ended(0, seconds=4.0, val_loss=2.0), ended(1), ended(2))
    plan = plan_of(run_spec("fsdp", (2, 2, 2), learning_rate=1e-2), (2, 2, 2))
    write_atomic(second.plan, plan.to_json())
    for rank in plan.ranks:
        second.metrics(rank.node, rank.rank).unlink()
        with MetricsWriter(second.metrics(rank.node, rank.rank)) as metrics:
            for step in range(1, 4):
                changed = {"step_s": 1.0, "compute_s": 0.4, "comm_s": 0.6, "bytes_out": 500, "time": 1000.0 + 2 * step}
                metrics.write(record(step, rank.rank).model_copy(update=changed))
    return first, second


def test_figures_differences_and_ratios(tmp_path: Path) -> None:
    found = compare([read_run(folder.path) for folder in two_runs(tmp_path)])
    assert found.run_ids == ("first", "second")
    assert found.statuses == ("completed", "completed")
    assert found.differences == {"training.learning_rate": ("0.003", "0.01")}
    figures = {figure.key: figure for figure in found.figures}
    assert figures["loss"].values == (2.0, 2.0)
    assert figures["val_loss"].values == (2.5, 2.0)
    assert figures["val_loss"].ratios == (1.0, 0.8)
    assert figures["tokens_per_s"].values == (pytest.approx(600), pytest.approx(300))
    assert figures["step_s"].ratios == (1.0, 2.0)
    assert figures["wait_s"].values == (pytest.approx(0.1), pytest.approx(0.6))
    assert figures["bytes_per_step"].values == (pytest.approx(3003), pytest.approx(1500))
    assert figures["peak_rss_mb"].values == (300.5, 300.5)
    # Losses 4, 3, 2: their running means are 4, 3.5, 3. The first run takes half a second to its first step's end.
    assert found.target_loss == pytest.approx(3.0)
    assert figures["seconds_to_loss"].values == (pytest.approx(2.5), pytest.approx(5.0))


def test_the_command_prints_json_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two_runs(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert main(["compare", "first", "second", "--json", "--out", "out", "--loss", "3.6"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["target_loss"]) == (1, 3.6)
    assert told["runs"][1]["config"] == {"training.learning_rate": "0.01"}
    assert told["runs"][1]["ratios"]["step_s"] == 2.0
    assert told["runs"][0]["figures"]["seconds_to_loss"] == pytest.approx(1.5)
    names = {f"loss-{over}.{kind}" for over in ("steps", "tokens", "time") for kind in ("svg", "png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before
    assert main(["compare", "first", "second"]) == 0
    text = capsys.readouterr().out
    assert "training.learning_rate" in text
    assert "2.00x" in text


@pytest.mark.skipif(sys.platform != "linux", reason="/proc, where nobody makes a folder, is Linux's")
def test_plots_where_no_folder_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_runs(tmp_path)
    runs = [str(tmp_path / "runs" / name) for name in ("first", "second")]
    assert main(["compare", *runs, "--out", "/proc/nope"]) == 2
    assert capsys.readouterr().err.startswith("/proc/nope: ENOENT, ")


def test_all_that_is_wrong_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = two_runs(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "empty").mkdir()
    second.metrics("node2", 1).write_text('{"schema": 9, "step": 1}\n')
    assert main(["compare", "frist", "second", "empty"]) == 2
    said = capsys.readouterr().err
    assert "3 problems" in said
    assert "frist: there is no such run" in said
    assert "did you mean first?" in said
    assert "is version 9; this smolcluster reads version 1" in said
    assert "is not a run folder" in said
    assert main(["compare", first.path.name]) == 2
    assert "one run alone is compared with nothing" in capsys.readouterr().err


def test_a_run_that_has_not_ended_and_one_without_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    going = run_folder(tmp_path / "going")
    metrics = going.metrics("node1", 0)
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 4, "lo')
    none = run_folder(tmp_path / "none")
    for rank in read_run(none.path).plan.ranks:
        none.metrics(rank.node, rank.rank).unlink()
    assert main(["compare", str(going.path), str(none.path), "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [run["status"] for run in told["runs"]] == ["not ended", "not ended"]
    assert [run["figures"]["loss"] for run in told["runs"]] == [2.0, None]
    assert told["target_loss"] is None
    assert "1 damaged line skipped" in err
    assert main(["compare", str(none.path), str(none.path), "--out", str(tmp_path / "out")]) == 0
    assert "no plots: none of these runs took a step" in capsys.readouterr().out


def test_gradients_by_layer_are_drawn_where_they_were_tracked(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / name, ended(0), ended(1), ended(2)) for name in ("first", "second")]
    with MetricsWriter(runs[1].metrics("node1", 0)) as metrics:
        for step in (2, 3):
            metrics.write(GradientRecord(step=step, time=1.0, norms={"h.0.a": 3.0 * step, "h.0.b": 4.0, "ln_f.w": 1.0}))
    assert main(["compare", *(str(run.path) for run in runs), "--out", str(tmp_path / "out")]) == 0
    drawn = (tmp_path / "out" / "gradients.svg").read_text()
    assert (tmp_path / "out" / "gradients.png").exists()
    assert "by layer" in drawn  # in a comment beside the letters
    assert main(["compare", *[str(runs[0].path)] * 2, "--out", str(tmp_path / "none")]) == 0
    assert not (tmp_path / "none" / "gradients.svg").exists()


def test_thinning_keeps_the_ends_and_the_spikes() -> None:
    points = [(float(step), 1.0) for step in range(100_000)]
    points[77_777] = (77_777.0, 9.0)
    points[5] = (5.0, -9.0)
    left = thinned(points, 1000)
    assert len(left) <= 1002
    assert left == sorted(left)
    assert {(77_777.0, 9.0), (5.0, -9.0), points[0], points[-1]} <= set(left)
    assert thinned(points[:1000], 1000) == points[:1000]


def test_means_and_times() -> None:
    means = smoothed([(0.0, 4.0), (1.0, 2.0), (2.0, 6.0), (3.0, 0.0)], 2)
    assert means == [(0.0, 4.0), (1.0, 3.0), (2.0, 4.0), (3.0, 3.0)]
    assert time_to(means, 3.0) == 1.0
    assert time_to(means, 2.9) is None
