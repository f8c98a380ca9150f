"""A tracker that is told of a run while it goes on: nothing twice, nothing lost, and no harm whatever becomes of it."""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_report import ended, record, run_folder
from test_tracking import asks_for

from smolcluster.cli import main
from smolcluster.comm.clock import Deadline
from smolcluster.commands._tracking import track_if_asked, tracking
from smolcluster.errors import InputError
from smolcluster.jobs.identity import alive, identify, wait_gone
from smolcluster.jobs.tracking import being_tracked, finish_tracker, last_words, log_of, start_tracker
from smolcluster.observe.report import read_run, summary_of
from smolcluster.observe.tracking.arrivals import Arrivals
from smolcluster.observe.tracking.live import MOST_STEPS, Live
from smolcluster.observe.tracking.rows import Row, rows_of
from smolcluster.observe.tracking.tensorboard import TensorBoard
from smolcluster.observe.tracking.tracked import about_run, sent_to
from smolcluster.runtime.metrics import MetricsWriter, cut_after
from smolcluster.runtime.metricsfile import GradientRecord, LinkRecord, ValidationRecord
from smolcluster.runtime.results import write_result
from smolcluster.runtime.runfolder import RunFolder

tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")
wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
WAIT_S = 120.0
KEY = "0123456789abcdef" * 2 + "01234567"


class Told:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.ended: dict[str, Any] | None = None

    def __call__(self, about: object) -> Told:
        return self

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def write(self, row: Row) -> None:
        self.rows.append(row)

    def flush(self) -> None:
        pass

    def finish(self, summary: dict[str, Any]) -> str:
        self.ended = summary
        return "told"

    def values(self) -> dict[int, dict[str, float]]:
        """All values by step; none of them came twice."""
        found: dict[int, dict[str, float]] = {}
        for row in self.rows:
            known = found.setdefault(row.step, {})
            assert not known.keys() & row.values.keys(), row
            known |= row.values
        return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run of three ranks that has just begun. Nobody is logged in anywhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    made = run_folder(tmp_path / "runs" / "a-run")
    for rank in range(3):
        metrics_of(made, rank).unlink()
    return made


def metrics_of(folder: RunFolder, rank: int) -> Path:
    return folder.metrics(f"node{rank + 1}", rank)


def take(folder: RunFolder, steps: range, ranks: range = range(3)) -> None:
    for rank in ranks:
        with MetricsWriter(metrics_of(folder, rank)) as metrics:
            for step in steps:
                metrics.write(record(step, rank).model_copy(update={"loss": 5.0 / step}))


def end(folder: RunFolder) -> None:
    for rank in range(3):
        write_result(folder, ended(rank))


def live_of(folder: RunFolder, sink: Told) -> Live:
    plan = read_run(folder.path).plan
    return Live(folder, plan, about_run(folder, plan, "wandb", "offline", "a-run", live=True), sink)


def finished(folder: RunFolder, live: Live) -> str:
    return live.finish(summary_of(folder.path))


def test_what_grows_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = Arrivals(path)
    assert file.look() == []
    with MetricsWriter(path) as metrics:
        metrics.write(record(1, 0))
        metrics.write(LinkRecord(step=1, time=1.0, peer=1, mbps=1.0, rtt_ms=1.0, buffered=0))
        metrics.write(LinkRecord(step=1, time=1.0, peer=2, mbps=1.0, rtt_ms=1.0, buffered=0))
        assert [one.step for one in file.look()] == [1, 1, 1]
        assert file.look() == []
        with path.open("ab") as torn:
            torn.write(b"\x00\xff\n" + record(2, 0).model_dump_json(by_alias=True).encode()[:20])
        assert file.look() == []
        with path.open("ab") as torn:
            torn.write(record(2, 0).model_dump_json(by_alias=True).encode()[20:] + b"\n")
        assert [one.step for one in file.look()] == [2]
    assert file.again is None


def test_a_file_that_is_thinned_gives_nothing_twice(tmp_path: Path) -> None:
    file, seen = Arrivals(tmp_path / "metrics.jsonl"), []
    with MetricsWriter(tmp_path / "metrics.jsonl", max_lines=40) as metrics:
        for step in range(1, 201):
            metrics.write(record(step, 0))
            if step % 7 == 0:
                seen += [one.step for one in file.look()]
    seen += [one.step for one in file.look()]
    assert seen == list(range(1, 201))
    assert file.again is None


def test_steps_of_a_restart_are_told_once_and_said(folder: RunFolder) -> None:
    sink = Told()
    with live_of(folder, sink) as live:
        assert live.look() == 0
        take(folder, range(1, 8))
        live.look()
        for rank in range(3):
            cut_after(metrics_of(folder, rank), 4)
        assert live.look() == 0
        take(folder, range(5, 10))
        live.look()
        end(folder)
        said = finished(folder, live)
    assert said == "told\nsteps 5 to 7 were taken again after a restart; there they have their first values"
    assert sorted(sink.values()) == list(range(1, 10))
    assert sink.ended is not None
    assert sink.ended["status"] == "completed"


def test_it_tells_what_an_upload_tells_though_a_rank_is_slow_and_one_comes_at_the_end(folder: RunFolder) -> None:
    sink = Told()
    with live_of(folder, sink) as live:
        take(folder, range(1, 6), range(1))
        live.look()
        take(folder, range(1, 4), range(1, 2))
        with MetricsWriter(metrics_of(folder, 0)) as metrics:
            metrics.write(GradientRecord(step=5, time=1005.0, norms={"h.0.a": 3.0, "h.0.b": 4.0}))
            metrics.write(LinkRecord(step=5, time=1005.0, peer=1, mbps=90.0, rtt_ms=2.0, buffered=7))
            metrics.write(ValidationRecord(step=4, time=1005.0, val_loss=2.5))
        live.look()
        assert "tokens_per_s" not in {name for row in sink.rows for name in row.values}
        take(folder, range(4, 6), range(1, 2))
        take(folder, range(1, 6), range(2, 3))  # collected
        end(folder)
        finished(folder, live)
    told = sink.values()
    uploaded = {row.step: row.values for row in rows_of(read_run(folder.path))}
    for values in (*told.values(), *uploaded.values()):
        del values["tokens"]  # by the plan while it goes on, by the ranks' accounts in the end
    assert told == uploaded
    assert (told[5]["gradients/h.0"], told[5]["link-0-1/buffered"], told[4]["val_loss"]) == (5.0, 7.0, 2.5)
    assert told[5]["tokens_per_s"] == 600.0


def test_of_steps_that_come_too_fast_every_so_many_are_told(folder: RunFolder) -> None:
    sink = Told()
    with live_of(folder, sink) as live:
        take(folder, range(1, 1001))
        live.look()
        assert [row.step for row in sink.rows] == list(range(32, 1001, 32))
        assert len(sink.rows) <= MOST_STEPS
        assert {"rank-0/loss", "rank-2/loss", "tokens_per_s"} <= sink.rows[0].values.keys()


@tensorboard
def test_tensorboard_reads_a_run_that_goes_on(folder: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan, place = read_run(folder.path).plan, folder.tracking / "tensorboard"
    about = about_run(folder, plan, "tensorboard", "offline", "a-run", live=True)
    with Live(folder, plan, about, TensorBoard.open) as live:
        live.look()
        assert not place.exists()  # nothing has begun
        take(folder, range(1, 4))
        live.look()
        events = EventAccumulator(str(place))
        events.Reload()
        loss = [(one.step, one.value) for one in events.Scalars("run/loss")]
        assert loss == [(1, 5.0), (2, 2.5), (3, pytest.approx(5 / 3))]
        take(folder, range(4, 6))
        live.look()
        events.Reload()
        assert [one.step for one in events.Scalars("run/loss")] == [1, 2, 3, 4, 5]
        end(folder)
        assert finished(folder, live) == f"tensorboard --logdir {folder.tracking}"
    assert main(["upload", str(folder.path), "--to", "tensorboard"]) == 0
    events = EventAccumulator(str(place))
    events.Reload()
    assert [one.step for one in events.Scalars("run/loss")] == [1, 2, 3, 4, 5]
    assert len(list(place.iterdir())) == 1


@wandb
def test_wandb_is_told_by_a_process_beside_and_the_report_has_it_finish(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    asks_for(folder, "wandb")
    with tracking(folder, read_run(folder.path).plan):
        note = being_tracked(folder)
        assert note is not None
        take(folder, range(1, 4))
        assert main(["upload", str(folder.path), "--to", "wandb"]) == 2
        assert f"wandb is being told of it as it goes on, by process {note.process.pid}" in capsys.readouterr().err
        for process in [psutil.Process(note.process.pid), *psutil.Process(note.process.pid).children(recursive=True)]:
            assert KEY not in " ".join(process.cmdline())
        take(folder, range(4, 6))
        end(folder)
        assert main(["report", str(folder.path)]) == 0
        [written] = (folder.tracking / "wandb").rglob("*.wandb")
        assert f"wandb: wandb sync {written.parent}\n" in capsys.readouterr().out
        assert not alive(note.process)
    kept = written.read_bytes()
    for word in (b"a-run", b"rank-2/loss", b"learning_rate", b"completed", b"tokens_per_s"):
        assert word in kept, word
    assert not [path for path in folder.path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert main(["report", str(folder.path)]) == 0
    assert "wandb: " not in capsys.readouterr().out  # said once
    assert main(["upload", str(folder.path), "--to", "wandb"]) == 2
    assert len(list((folder.tracking / "wandb").rglob("*.wandb"))) == 1


@wandb
def test_a_tracker_that_is_killed_harms_nothing_and_the_run_is_there_once(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    asks_for(folder, "wandb")
    with tracking(folder, read_run(folder.path).plan):
        note = being_tracked(folder)
        assert note is not None
        take(folder, range(1, 4))
        until(lambda: files_below(folder.tracking / "wandb", "*.wandb"))
        below = [identify(one.pid) for one in psutil.Process(note.process.pid).children(recursive=True)]
        psutil.Process(note.process.pid).kill()
        end(folder)
        assert main(["report", str(folder.path)]) == 0
        out = capsys.readouterr().out
        assert out.count("wandb: its live tracker ended early: it left no word\n") == 1
        written = list((folder.tracking / "wandb").rglob("*.wandb"))
        assert [f"wandb: wandb sync {one.parent}\n" in out for one in written] == [True], (out, written)
    assert all(wait_gone(one, WAIT_S) for one in below if one is not None)  # wandb's own process ends too
    assert json.loads(folder.summary.read_text())["exit_code"] == 0


@tensorboard
def test_it_ends_with_its_parent_and_a_report_uploads_the_run(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    asks_for(folder, "tensorboard")
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        process = start_tracker(folder, read_run(folder.path).plan, parent.pid)
        assert process is not None
        take(folder, range(1, 4))
        until(lambda: files_below(folder.tracking, "events.*"))
    finally:
        parent.communicate(timeout=WAIT_S)
    assert process.wait(WAIT_S) == 3
    assert last_words(folder) == "whoever followed the run ended, and so did its tracker"
    assert sent_to(folder) == {}
    take(folder, range(4, 6))
    end(folder)
    assert main(["report", str(folder.path)]) == 0
    out = capsys.readouterr().out
    assert "tensorboard: its live tracker ended early: whoever followed the run ended, and so did its tracker\n" in out
    assert f"tensorboard: tensorboard --logdir {folder.tracking}" in out
    assert len(list((folder.tracking / "tensorboard").iterdir())) == 1


@tensorboard
def test_one_that_hangs_is_ended(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asks_for(folder, "tensorboard")
    end(folder)
    with tracking(folder, read_run(folder.path).plan):
        note = being_tracked(folder)
        assert note is not None
        psutil.Process(note.process.pid).suspend()
        found = finish_tracker(folder, limit_s=0.5)
        assert found is not None
        assert "took longer than 0 s to tell the rest" in found.why
        assert not alive(note.process)


def test_what_it_cannot_do_is_said_and_the_run_goes_on(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = read_run(folder.path).plan
    with tracking(folder, plan):
        assert not folder.tracking.exists()  # none was asked for
    asks_for(folder, "wandb")
    plan = read_run(folder.path).plan
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with tracking(folder, plan):
        pass
    assert "the run goes on without its tracker" in capsys.readouterr().err
    with pytest.raises(InputError, match="wandb is not installed"):
        start_tracker(folder, plan)
    assert not folder.tracking.exists()


def test_another_version_s_records_end_the_tracker_alone(folder: RunFolder) -> None:
    asks_for(folder, "tensorboard")
    metrics_of(folder, 0).parent.mkdir(parents=True, exist_ok=True)
    metrics_of(folder, 0).write_text('{"schema": 9, "step": 1, "loss": 1.0}\n')
    me = identify(os.getpid())
    assert me is not None
    assert main(["track", str(folder.path), "--parent", me.model_dump_json()]) == 2
    assert main(["track", str(folder.path), "--parent", "me"]) == 2
    assert not log_of(folder).exists()
    metrics_of(folder, 0).unlink()
    assert track_if_asked(folder, read_run(folder.path), folder.path) == ""


def files_below(folder: Path, pattern: str) -> list[str]:
    """What is there while others make and take away folders: pathlib's own stumbles over one that vanishes."""
    return [name for _, _, names in os.walk(folder) for name in fnmatch.filter(names, pattern)]


def until(there: Callable[[], object]) -> None:
    deadline, pause = Deadline(WAIT_S), threading.Event()
    while not there():
        assert not deadline.expired, "it does not come"
        pause.wait(0.02)
