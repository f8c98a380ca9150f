"""A run of one rank, in this process: what it learns, what it leaves, how it ends."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from train_folders import plan_of, run_spec, write_run

from smolcluster.jobs.nodefile import load_node
from smolcluster.models.hf import load_pretrained
from smolcluster.observe.plots import write_plots
from smolcluster.observe.report import read_run, summary_of
from smolcluster.runtime.runfolder import RankResult, RunFolder
from smolcluster.train.part import train_part
from tests.steps import read_metrics


def run(folder: Path, data: Path, stop=lambda: False, **training) -> tuple[int, RankResult, RunFolder]:
    plan = plan_of(run_spec("single", (8,), **training), (8,))
    [node_yaml] = write_run(folder, plan, data, sys.executable)
    code = train_part(load_node(node_yaml), plan, plan.ranks[0], stop)
    place = RunFolder(folder)
    return code, RankResult.model_validate_json(place.result("node1", 0).read_bytes()), place


def test_learns_and_leaves_everything(tmp_path: Path, data: Path) -> None:
    code, result, place = run(tmp_path, data, max_steps=30, eval_steps=10)
    assert (code, result.status, result.steps) == (0, "completed", 30)
    assert result.val_loss is not None
    assert result.val_loss < result.val_loss_first - 1
    steps, _ = read_metrics(place.metrics("node1", 0))
    assert [record.step for record in steps] == list(range(1, 31))
    assert [record.step for record in steps if record.val_loss is not None] == [10, 20, 30]
    assert all(record.total_steps == 30 and record.tokens == 8 * 16 for record in steps)
    assert load_pretrained(place.model).spec.model_dim == 32


def test_gradient_norms_by_parameter_are_recorded_where_they_are_asked_for(tmp_path: Path, data: Path) -> None:
    place = run(tmp_path, data, max_steps=12, eval_steps=3, track_gradients=True)[2]
    rank = read_run(place.path).ranks[0]
    assert [record.step for record in rank.gradients] == [5, 10, 12]  # metrics_log_interval is 5
    whole = {record.step: record.grad_norm for record in rank.steps}
    for record in rank.gradients:
        assert "transformer.h.1.mlp.c_proj.weight" in record.norms
        assert math.hypot(*record.norms.values()) == pytest.approx(whole[record.step], rel=1e-4)
    plots = {path.name for path in write_plots(read_run(place.path), summary_of(place.path), place.plots)}
    assert {"gradients.svg", "gradients.png"} <= plots
    assert len(read_metrics(place.metrics("node1", 0))[0]) == 12
    quiet = run(tmp_path / "quiet", data, max_steps=3)[2]
    assert read_run(quiet.path).ranks[0].gradients == ()


def test_same_seed_same_numbers(tmp_path: Path, data: Path) -> None:
    first = run(tmp_path / "a", data, grad_accumulation=1)[1]
    again = run(tmp_path / "b", data, grad_accumulation=1)[1]
    assert (first.loss_last, first.val_loss) == (again.loss_last, again.val_loss)


def test_accumulation_changes_nothing_but_memory(tmp_path: Path, data: Path) -> None:
    whole = run(tmp_path / "a", data, grad_accumulation=1)[1]
    parts = run(tmp_path / "b", data, grad_accumulation=3)[1]
    assert parts.loss_last == pytest.approx(whole.loss_last, abs=1e-5)
    assert parts.val_loss == pytest.approx(whole.val_loss, abs=1e-5)


def test_precision_and_recomputing_reach_the_steps(tmp_path: Path, data: Path) -> None:
    plain = run(tmp_path / "a", data)[1]
    options = {"activation_checkpointing": True, "grad_accumulation": 2}
    code, short, place = run(tmp_path / "b", data, precision="fp16", **options)
    assert code == 0
    assert short.loss_last == pytest.approx(plain.loss_last, abs=5e-3)
    assert short.loss_last != plain.loss_last
    steps, _ = read_metrics(place.metrics("node1", 0))
    assert {record.loss_scale for record in steps} == {65536}
    assert not any(record.skipped for record in steps)
    assert "loss_scale" not in RunFolder(tmp_path / "a").metrics("node1", 0).read_text()
    assert {tensor.dtype for tensor in load_pretrained(place.model).state_dict().values()} == {torch.float32}


def test_a_device_that_lacks_the_precision_is_named(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(*_: object, **__: object) -> None:
        raise RuntimeError("MPS BFloat16 is only supported on MacOS 14 or newer\nmore of it")

    monkeypatch.setattr("smolcluster.runtime.precision.functional.linear", lacks)
    code, result, _ = run(tmp_path, data, precision="bf16")
    assert (code, result.status) == (2, "failed")
    for part in ("node1 cannot compute in bfloat16 on cpu", "only supported on MacOS 14", "fp16 or fp32"):
        assert part in result.reason
    assert "more of it" not in result.reason


def test_stop_ends_after_the_step_with_a_model(tmp_path: Path, data: Path) -> None:
    metrics = RunFolder(tmp_path).metrics("node1", 0)
    code, result, place = run(tmp_path, data, stop=lambda: len(read_metrics(metrics)[0]) >= 3)
    assert (code, result.status, result.exit_code) == (130, "stopped", 130)
    assert result.steps == 4  # the wish was known before it began, so all ranks took it and then ended
    assert (place.model / "model.safetensors").exists()


def test_loss_that_is_not_finite(tmp_path: Path, data: Path) -> None:
    code, result, place = run(tmp_path, data, learning_rate=1e30, grad_clip_norm=None)
    assert (code, result.status, result.root_cause) == (4, "failed", True)
    assert "of rank 0 is not finite" in result.reason
    assert not place.model.exists()


def test_data_that_is_not_there(tmp_path: Path, data: Path) -> None:
    code, result, _ = run(tmp_path, tmp_path / "nothing")
    assert (code, result.status) == (2, "failed")
    assert "is not a data folder" in result.reason
