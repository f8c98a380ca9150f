"""The report of run folders written by hand: good, failed, not whole."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import IO

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from train_folders import plan_of, run_spec

from smolcluster.commands.report import report
from smolcluster.errors import ConfigError, InputError
from smolcluster.observe.report import read_run, summarise, summary_of
from smolcluster.observe.tables import show
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.results import write_result
from smolcluster.runtime.runfolder import GradientAccount, RankResult, RunFolder, write_atomic

PLOTS = ("loss", "perplexity", "throughput", "bytes", "time")


def record(step: int, rank: int, val_loss: float | None = None) -> StepRecord:
    return StepRecord(
        step=step, time=1000.0 + step, loss=5.0 - step, lr=1e-3, tokens=100, tokens_per_s=200.0,
        grad_norm=1.0, step_s=0.5, compute_s=0.4, comm_s=0.1, bytes_out=1000 + rank, bytes_in=1000,
        val_loss=val_loss, total_steps=3,
    )  # fmt: skip


def ended(rank: int, **changes) -> RankResult:
    values = {
        "rank": rank, "node": f"node{rank + 1}", "status": "completed", "exit_code": 0, "steps": 3, "tokens": 300,
        "seconds": 2.0, "loss_first": 4.0, "loss_last": 2.0, "val_loss_first": 5.5,
        "val_loss": 2.5, "peak_rss_mb": 300.5,
    }  # fmt: skip
    return RankResult(**{**values, **changes})


def run_folder(path: Path, *results: RankResult) -> RunFolder:
    folder = RunFolder(path)
    plan = plan_of(run_spec("fsdp", (2, 2, 2)), (2, 2, 2))
    write_atomic(folder.plan, plan.to_json())
    for rank in plan.ranks:
        with MetricsWriter(folder.metrics(rank.node, rank.rank)) as metrics:
            for step in range(1, 4):
                metrics.write(record(step, rank.rank, val_loss=2.5 if step == 3 else None))
        write_atomic(folder.log(rank.node, rank.rank), "".join(f"line {n} of {rank.node}\n" for n in range(40)))
    for result in results:
        write_result(folder, result)
    return folder


def printed(path: Path, followed: bool = False) -> str:
    text = io.StringIO()
    story = read_run(path)
    show(Console(file=text, width=160), story, summarise(story), followed)
    return text.getvalue()


def test_summary_of_a_good_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a-run", ended(0), ended(1), ended(2))
    summary = summary_of(folder.path)
    assert (summary.run_id, summary.status, summary.exit_code) == ("a-run", "completed", 0)
    assert (summary.world_size, summary.steps, summary.tokens) == (3, 3, 900)
    assert summary.tokens_per_s == pytest.approx(600)
    assert summary.wire_bytes_per_step == pytest.approx(3003)
    assert summary.peak_rss_mb == (300.5, 300.5, 300.5)
    assert (summary.val_loss_first, summary.val_loss) == (5.5, 2.5)
    assert summary.perplexity == pytest.approx(12.1825, abs=1e-4)  # e to the 2.5
    assert (summary.tokenizer, summary.counts, summary.val_accuracy) == ("bpe:300", "tokens", None)
    assert "12.18 per token of bpe:300" in printed(folder.path)


def test_the_rank_that_failed_of_itself_comes_first(tmp_path: Path) -> None:
    lost = {"status": "failed", "exit_code": 3, "reason": "rank 2 is gone"}
    killed = {"status": "failed", "exit_code": 137, "reason": "ended by signal 9 (SIGKILL)", "root_cause": True}
    folder = run_folder(tmp_path, ended(0, **lost), ended(1, **lost), ended(2, **killed))
    summary = summary_of(folder.path)
    assert (summary.status, summary.exit_code) == ("failed", 3)
    assert summary.reason == "rank 2 on node3: ended by signal 9 (SIGKILL)"
    text = printed(folder.path)
    assert "rank 2 on node3 failed first" in text
    assert "line 39 of node3" in text
    assert "line 24 of node3" not in text
    assert "of node1" not in text


def test_why_a_rank_failed_is_told_once(tmp_path: Path) -> None:
    reason = "the loss of rank 1 is not finite:\nlower the rate"
    wrong = ended(1, status="failed", exit_code=4, reason=reason, root_cause=True)
    folder = run_folder(tmp_path, ended(0), wrong, ended(2))
    log = folder.log("node2", 1)
    log.write_text(f"a line before\n2026-11-28T10:00:00Z ERROR {reason}\na line after\n")
    text = printed(folder.path)
    assert [text.count(part) for part in ("is not finite", "lower the rate", "ERROR")] == [1, 1, 0]
    assert text.index("is not finite") < text.index("a line before") < text.index("a line after")
    told = printed(folder.path, followed=True)
    assert "rank 1 on node2 failed first" in told
    assert "a line before" in told
    assert "is not finite" not in told
    # What only others say of it was not told where it happened.
    folder = run_folder(tmp_path / "lost", ended(0, status="failed", exit_code=3, reason="rank 1 is gone"), ended(2))
    assert "it left no result" in printed(folder.path, followed=True)


def test_a_node_that_left_nothing_is_named(tmp_path: Path) -> None:
    lost = {"status": "failed", "exit_code": 3, "reason": "rank 1 is gone"}
    summary = summary_of(run_folder(tmp_path, ended(0, **lost), ended(2, **lost)).path)
    assert (summary.status, summary.exit_code) == ("failed", 3)
    assert summary.reason.startswith("rank 1 on node2: it left no result")
    assert summary.peak_rss_mb == (300.5, 0.0, 300.5)


def test_numbers_that_went_wrong_keep_their_code(tmp_path: Path) -> None:
    wrong = {"status": "failed", "exit_code": 4, "reason": "the loss of rank 1 is not finite"}
    folder = run_folder(tmp_path, ended(0, **wrong), ended(1, **wrong, root_cause=True), ended(2, **wrong))
    assert summary_of(folder.path).exit_code == 4


def test_what_became_of_a_server_s_gradients(tmp_path: Path) -> None:
    account = GradientAccount(pushed=120, applied=116, late=4, refused={"too stale": 1}, rolled_back=1, pending=2)
    run_folder(tmp_path, ended(0, gradients=account), ended(1), ended(2))
    assert summary_of(tmp_path).gradients == account
    told = "120 pushed: 116 applied (4 late), 1 refused (too stale 1), 1 rolled back, 2 in no update yet"
    assert told in printed(tmp_path)


def test_stopped_is_not_failed(tmp_path: Path) -> None:
    asked = {"status": "stopped", "exit_code": 130, "reason": "stopped as asked"}
    summary = summary_of(run_folder(tmp_path, *(ended(rank, **asked) for rank in range(3))).path)
    assert (summary.status, summary.exit_code, summary.reason) == ("stopped", 130, "stopped as asked")


def test_command_writes_summary_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, ended(0), ended(1), ended(2))
    report(str(folder.path))
    assert json.loads(folder.summary.read_text())["schema"] == 1
    names = {path.name for path in folder.plots.iterdir()}
    assert names == {f"{n}.{kind}" for n in PLOTS for kind in ("svg", "png")}
    assert "completed" in capsys.readouterr().out


def test_latest_may_be_a_file_that_holds_the_name(tmp_path: Path) -> None:
    run_folder(tmp_path / "a-run", ended(0), ended(1), ended(2))
    (tmp_path / "latest").write_text("a-run\n")
    assert summary_of(tmp_path / "latest").run_id == "a-run"


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        summary_of(tmp_path)


def test_a_damaged_line_is_skipped_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, ended(0), ended(1), ended(2))
    metrics = folder.metrics("node2", 1)
    damaged = b'5\n"text"\n[1]\n{"step": 4}\n{"peer": 1}\n{"step": "x", "peer": []}\n\xff\xfe\n{"step": 4, "lo'
    metrics.write_bytes(metrics.read_bytes() + damaged)
    report(str(folder.path))
    out, err = capsys.readouterr()
    assert f"note: {metrics}: 8 damaged lines skipped (lines 4, 5, 6, 7, 8 and more)" in err
    assert "completed" in out
    assert [step.step for step in read_run(folder.path).ranks[1].steps] == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "5", "[]", '{"rank": 0}', "{"])
def test_a_damaged_result_or_job_is_skipped_with_a_note(tmp_path: Path, text: str) -> None:
    folder = run_folder(tmp_path, ended(0), ended(1), ended(2))
    for path in (folder.result("node1", 0), folder.job_state("node1")):
        path.write_text(text)
        assert f"{path}: is damaged, and was skipped" in read_run(folder.path).notes
    assert summary_of(folder.path).reason.startswith("rank 0 on node1: it left no result")


@pytest.mark.parametrize("what", ["plan", "metrics", "result", "job"])
@pytest.mark.parametrize(("schema", "fix"), [(2, "upgrade smolcluster"), (0, "read it with the smolcluster")])
def test_another_version_is_refused_with_a_way_out(tmp_path: Path, what: str, schema: int, fix: str) -> None:
    folder = run_folder(tmp_path, ended(0), ended(1), ended(2))
    path = {
        "plan": folder.plan,
        "metrics": folder.metrics("node1", 0),
        "result": folder.result("node1", 0),
        "job": folder.job_state("node1"),
    }[what]
    # Of another version nothing else needs to be known.
    path.write_text(json.dumps({"schema": schema, "unheard": "of"}) + "\n")
    with pytest.raises(InputError) as refused:
        report(str(folder.path))
    assert f"schema: is version {schema}; this smolcluster reads version 1" in str(refused.value)
    assert str(path) in str(refused.value)
    assert fix in str(refused.value)
    assert not folder.summary.exists()


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        report(str(tmp_path / "nope"))
    assert str(refused.value).startswith(f"1 problem.\n  1. {tmp_path / 'nope'}: there is no such run\n")


def test_the_command_finds_a_run_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from smolcluster.cli import main

    folder = run_folder(tmp_path / "runs" / "run-1", ended(0), ended(1), ended(2))
    (tmp_path / "runs" / "latest").symlink_to("run-1")
    monkeypatch.chdir(tmp_path)
    for name in ("latest", "run-1", "runs/latest"):
        assert main(["report", name]) == 0
        assert folder.summary.exists()
        folder.summary.unlink()
    capsys.readouterr()
    assert main(["report", "lastest"]) == 2
    said = capsys.readouterr().err
    assert "lastest: there is no such run" in said
    assert "fix: did you mean latest?" in said


def test_plots_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(tmp_path, ended(0), ended(1), ended(2))
    report(str(folder.path))
    before = {path: path.read_bytes() for path in folder.plots.iterdir()}

    def broken(self: Figure, file: IO[bytes], **_: object) -> None:
        if isinstance(file, (str, Path)):
            Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(OSError, match="no space"):
        report(str(folder.path))
    assert {path: path.read_bytes() for path in folder.plots.iterdir()} == before


def test_metrics_stay_bounded_and_keep_validation(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with MetricsWriter(folder.metrics("node1", 0), max_lines=100) as metrics:
        for step in range(1, 1001):
            metrics.write(record(step, 0, val_loss=1.0 if step % 200 == 0 else None))
    from tests.steps import read_metrics

    kept, _ = read_metrics(folder.metrics("node1", 0))
    steps = [line.step for line in kept]
    assert len(steps) < 100
    assert steps == sorted(steps)
    assert steps[-20:] == list(range(981, 1001))
    assert [line.step for line in kept if line.val_loss is not None] == [200, 400, 600, 800, 1000]


def test_stages_say_how_long_they_waited(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, *(ended(rank) for rank in range(3)))
    run = run_spec("mp", (6, 0, 0), grad_accumulation=4)
    plan = plan_of(run, (6, 0, 0)).model_copy(update={"shape": "CHAIN", "stages": ((0, 1), (1, 2), (2, 3))})
    write_atomic(folder.plan, plan.to_json())
    for rank in plan.ranks[:2]:
        with MetricsWriter(folder.metrics(rank.node, rank.rank)) as metrics:
            for step, comm_s in ((4, 0.1), (5, 0.3)):
                times = {"step": step, "comm_s": comm_s + rank.rank, "idle_share": 0.5}
                metrics.write(record(step, rank.rank).model_copy(update=times))
    summary = summary_of(folder.path)
    assert summary.idle_share == (pytest.approx(0.4 / 1.2), pytest.approx(2.4 / 3.2), None)
    assert summary.idle_planned == pytest.approx(2 / 6)
    text = printed(folder.path)
    assert "33 %, 75 %, - of a step, stage by stage; planned 33 %" in text
    assert "idle" in next(line for line in text.splitlines() if "compute" in line)
    assert summary_of(run_folder(tmp_path / "fsdp", *(ended(rank) for rank in range(3))).path).idle_share is None


def test_staleness_by_the_rank_that_owns_the_weights(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, *(ended(rank) for rank in range(3)))
    lags = {0: [(0, 1, 3), (1, 2, 2)], 1: [(0, 0, 0), (2, 1, 4)], 2: [(1, 0, 0), (0, 0, 2), (0, 4, 1), (0, 0, 0)]}
    for rank in read_run(folder.path).plan.ranks:
        folder.metrics(rank.node, rank.rank).unlink()
        with MetricsWriter(folder.metrics(rank.node, rank.rank)) as metrics:
            for step, row in enumerate(lags[rank.rank], 1):
                metrics.write(record(step, rank.rank).model_copy(update={"lags": row, "staleness": max(row)}))
    summary = summary_of(folder.path)
    assert summary.staleness_by_rank is not None
    # Over the eight steps of all three ranks.
    assert [(lag.mean, lag.max) for lag in summary.staleness_by_rank] == [(4 / 8, 2), (8 / 8, 4), (12 / 8, 4)]
    assert summary.staleness_mean == pytest.approx(24 / 24, abs=1e-12)
    assert summary.staleness_mean == pytest.approx(sum(lag.mean for lag in summary.staleness_by_rank) / 3, abs=1e-12)
    assert summary.staleness_max == max(lag.max for lag in summary.staleness_by_rank) == 4
    text = printed(folder.path)
    assert "1.00 steps on average, 4 at most; of each rank's weights 0.50 (2), 1.00 (4), 1.50 (4)" in text


def test_staleness_of_a_run_that_lost_a_rank_for_good(tmp_path: Path) -> None:
    """Lines of when there were more owners count for the run, and for nobody's weights."""
    folder = run_folder(tmp_path, *(ended(rank) for rank in range(3)))
    for rank in read_run(folder.path).plan.ranks:
        folder.metrics(rank.node, rank.rank).unlink()
        with MetricsWriter(folder.metrics(rank.node, rank.rank)) as metrics:
            for step, row in enumerate([(4, 4, 0, 0), (0, 1, 2)], 1):
                metrics.write(record(step, rank.rank).model_copy(update={"lags": row, "staleness": max(row)}))
    summary = summary_of(folder.path)
    assert [(lag.mean, lag.max) for lag in summary.staleness_by_rank or ()] == [(0.0, 0), (1.0, 1), (2.0, 2)]
    assert (summary.staleness_mean, summary.staleness_max) == (1.5, 4)


def test_a_run_whose_ranks_take_every_step_together_has_no_staleness(tmp_path: Path) -> None:
    summary = summary_of(run_folder(tmp_path, *(ended(rank) for rank in range(3))).path)
    assert (summary.staleness_mean, summary.staleness_max, summary.staleness_by_rank) == (0.0, 0, None)
    assert "stale" not in printed(tmp_path)
