"""Watching a run: what is seen of its folder, the picture, the lines, how it ends."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from rich.console import Console
from test_report import ended, record, run_folder

from smolcluster.cli import main
from smolcluster.jobs.remarking import Remarks
from smolcluster.jobs.telling import StepLines
from smolcluster.jobs.types import PollResult
from smolcluster.jobs.watching import AGAIN_S, COLLECT_S, HEARD_S, Lookout
from smolcluster.observe.events import Event
from smolcluster.observe.live import ASCII, History, NodeView, remarks, screen, sparkline
from smolcluster.observe.report import read_run
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.runfolder import JobState, RunFolder, write_atomic


def job(node: str, state: str = "running", **changes) -> JobState:
    values = {"run_id": "a-run", "node": node, "state": state, "pid": 1, "generation": 0, "ranks": {"0": "running"}}
    return JobState.model_validate({**values, **changes})


def step(number: int, **changes) -> StepRecord:
    return record(number, 0).model_copy(update={"total_steps": 10, **changes})


def lookout(folder: RunFolder) -> Lookout:
    return Lookout(folder, read_run(folder.path).plan.ranks)


def drawn(picture, ascii_only: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, width=200, force_terminal=False)
    console.print(picture)
    return text.getvalue()


def test_a_run_that_is_over_shows_its_end_and_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "good", ended(0), ended(1), ended(2))
    for rank, node in enumerate(("node1", "node2", "node3")):
        write_atomic(
            folder.job_state(node), job(node, "completed", ranks={str(rank): "0"}).model_dump_json(by_alias=True)
        )
    assert main(["watch", str(folder.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "node1  step 3/3  loss 2.0000  val 2.5000  perplexity 12.18  200 tokens/s  ETA -:--"
    assert [line.split()[0] for line in lines[:3]] == ["node1", "node2", "node3"]
    assert any("completed" in line for line in lines)
    killed = {"status": "failed", "exit_code": 137, "reason": "ended by signal 9", "root_cause": True}
    folder = run_folder(tmp_path / "bad", ended(0), ended(1, **killed), ended(2))
    write_atomic(folder.summary, "{}")  # half a summary is none
    assert main(["watch", str(folder.path)]) == 3
    assert "rank 1 on node2 failed first" in capsys.readouterr().out
    assert main(["watch", str(tmp_path / "nope")]) == 2
    assert "there is no such run" in capsys.readouterr().err


def test_of_a_run_that_goes_on_alone_nobody_here_knows_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Detached, and collected while it went on: node3 was not, and node1 is this machine."""
    folder = run_folder(tmp_path / "far")
    write_atomic(folder.detached, "")
    for rank, node, state in ((0, "node1", "completed"), (1, "node2", "running")):
        write_atomic(folder.job_state(node), job(node, state, ranks={str(rank): "0"}).model_dump_json(by_alias=True))
    write_atomic(folder.node("node1") / "node.yaml", "")
    write_atomic(folder.summary, "{}")
    look = lookout(folder).look()
    assert (look.over, look.alone) == (True, ("node2", "node3"))
    assert main(["watch", str(folder.path)]) == 0
    said = capsys.readouterr().out
    assert "node2, node3 go on without this machine (detached)" in said
    assert "ansible-playbook collect.yml -e run_id=far" in said
    assert "failed" not in said
    write_atomic(folder.job_state("node3"), job("node3", "completed").model_dump_json(by_alias=True))
    write_atomic(folder.job_state("node2"), job("node2", "failed").model_dump_json(by_alias=True))
    assert lookout(folder).look().alone == ()


def test_it_changes_nothing(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "good", ended(0), ended(1), ended(2))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.path.rglob("*")}
    assert main(["watch", str(folder.path)]) == 0
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.path.rglob("*")} == before


def test_a_dead_supervisor_may_come_back(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    for rank, node in enumerate(("node1", "node2", "node3")):
        write_atomic(folder.job_state(node), job(node, ranks={str(rank): "running"}).model_dump_json(by_alias=True))
    watching, now = lookout(folder), time.time()
    assert not watching.look(now).over
    assert not watching.look(now + AGAIN_S - 1).over
    look = watching.look(now + AGAIN_S)
    assert look.over
    assert [answer.progress[rank].step for rank, answer in enumerate(look.nodes.values()) if answer] == [3, 3, 3]


def test_nodes_elsewhere_are_seen_as_the_playbook_hears_them(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    for path in (tmp_path / "nodes").rglob("*"):
        if path.is_file():
            path.unlink()
    watching, now = lookout(folder), time.time()
    assert watching.look(now).nodes == {"node1": None, "node2": None, "node3": None}
    answer = PollResult(job=job("node2"), progress={1: step(7)})
    write_atomic(folder.heard("node2"), answer.model_dump_json(by_alias=True))
    write_atomic(folder.heard("node3"), '{"job": {"sch')  # half written, or of another version
    look = watching.look(now)
    assert (look.nodes["node2"], look.nodes["node3"], look.over) == (answer, None, False)
    # The playbook hears nothing more; then it collects and makes the summary, or was ended.
    late = now + HEARD_S + 5
    assert not watching.look(late).over
    assert watching.look(late + COLLECT_S).over
    watching = lookout(folder)
    write_atomic(folder.followed("node2"), "{}")
    assert not watching.look(now).over
    write_atomic(folder.summary, "{}")
    assert watching.look(now).over


def test_one_rank_in_its_command_s_own_process(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    look = lookout(folder).look()
    assert not look.over
    assert [answer.job.state for answer in look.nodes.values() if answer is not None] == ["running"] * 3
    old = time.time() - HEARD_S - 100
    for node, rank in (("node1", 0), ("node2", 1), ("node3", 2)):
        os.utime(folder.log(node, rank), (old, old))
    assert lookout(folder).look().nodes == {"node1": None, "node2": None, "node3": None}


def test_the_picture() -> None:
    nodes = {
        "mini1": NodeView(job("mini1"), {0: step(5, compute_s=0.4, comm_s=0.1)}),
        "pi5[bold]": NodeView(job("pi5", restarts=2), {1: step(4, compute_s=0.9, comm_s=0.0)}),
        "new": NodeView(None, {}),
    }
    history = History([(1.0, 5.0), (2.0, 4.0)])
    history.take(nodes)
    assert history.losses[-1] == (4.0, 1.0)
    events = [Event(1.0, "pi5[bold]", "restart", "restart 2 of 3: [red]killed")]
    text = drawn(screen("a-run", nodes, history, events, now=1006.0))
    assert "step 4/10  loss 1.0000  400 tokens/s  ETA 0:03" in text
    assert "pi5[bold]" in text
    row = next(line for line in text.splitlines() if "running (2 restarts)" in line)
    assert (row.split()[0], row.split()[-1]) == ("pi5[bold]", "slowest")
    assert "pi5[bold] is the slowest: it computes 2.2 times as long as the others" in text
    assert "waits" not in text
    assert "no word yet" in text
    assert "restart 2 of 3: [red]killed" in text
    assert "█" in text
    assert set(sparkline(history.losses, ascii_only=True)) <= set(ASCII)


def test_why_a_node_is_slow() -> None:
    def view(name: str, **changes) -> NodeView:
        return NodeView(job(name), {0: step(5, time=1000.0, step_s=1.0, **changes)})

    nodes = {
        "a": view("a", compute_s=0.5, comm_s=0.5),
        "b": view("b", compute_s=1.0, comm_s=0.0),
        "c": view("c", compute_s=0.5, comm_s=0.5),
    }
    none = History()
    assert remarks(nodes, none, now=1001.0) == {
        "a": ("waits 50%", ""),
        "b": ("slowest", "b is the slowest: it computes 2.0 times as long as the others"),
        "c": ("waits 50%", ""),
    }
    assert {word for word, _ in remarks(nodes, none, now=1030.0).values()} == {"no step"}
    # Stages compute each their own part, and who has ended holds up nobody.
    part = {"idle_share": 0.1}
    staged = {name: NodeView(one.job, {0: one.progress[0].model_copy(update=part)}) for name, one in nodes.items()}
    assert {word for word, _ in remarks(staged, none, now=1001.0).values()} == {"waits 50%"}
    over = {name: NodeView(job(name, "completed"), one.progress) for name, one in nodes.items()}
    assert remarks(over, none, now=1030.0) == {}
    assert "b" not in remarks(nodes, none, now=1001.0, server="b")
    # One slow step among fast ones is chance.
    for number in range(6, 14):
        for name in nodes:
            record_ = step(number, time=1000.0, step_s=1.0, compute_s=0.5 if number < 13 or name != "b" else 0.8)
            none.take({name: NodeView(job(name), {0: record_})})
    assert "b" not in remarks(nodes, none, now=1001.0)


def test_a_line_marks_the_slowest_node_as_the_screen_does(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    ranks = read_run(folder.path).plan.ranks
    now = time.time()
    for rank, node in enumerate(("node1", "node2")):
        write_atomic(folder.job_state(node), job(node, ranks={str(rank): "running"}).model_dump_json(by_alias=True))
        with MetricsWriter(folder.metrics(node, rank)) as metrics:
            metrics.write(step(4, time=now, step_s=1.0, compute_s=1.0 if rank else 0.5, comm_s=0.0 if rank else 0.5))
    # One elsewhere, as the playbook heard of it.
    for path in (folder.metrics("node3", 2), folder.log("node3", 2)):
        path.unlink()
    heard = PollResult(job=job("node3"), progress={2: step(4, time=now, step_s=1.0, compute_s=0.5, comm_s=0.4)})
    write_atomic(folder.heard("node3"), heard.model_dump_json(by_alias=True))
    beside = Remarks(folder, ranks)
    assert [beside.of(node, now) for node in ("node1", "node2", "node3")] == ["waits 50%", "slowest", "waits 40%"]
    lines = StepLines("node2", 5, 0.0, lambda node: beside.of(node, now))
    [line] = lines.lines(PollResult(job=job("node2"), progress={1: step(4)}), 1.0)
    assert line == "node2  step  4/10  loss 1.0000  200 tokens/s  ETA -:--  slowest"


def test_time_left_and_a_run_that_goes_back() -> None:
    history = History()
    history.take({"a": NodeView(job("a"), {0: step(2, time=1000.0, step_s=9.0)})})
    assert history.left_s(step(2, step_s=9.0)) == pytest.approx(72.0)
    history.take({"a": NodeView(job("a"), {0: step(6, time=1008.0, step_s=9.0)})})
    assert history.left_s(step(6)) == pytest.approx(8.0)
    history.take({"a": NodeView(job("a"), {0: step(4, time=1020.0, step_s=1.0)})})
    assert [at for at, _ in history.losses] == [2.0, 4.0]
    assert history.left_s(step(4, step_s=1.0)) == pytest.approx(6.0)


def test_blocks() -> None:
    assert sparkline([]) == ""
    assert sparkline([(1.0, 3.0), (2.0, 3.0)]) == "▁▁"
    assert sparkline([(float(n), float(n)) for n in range(8)]) == "▁▂▃▄▅▆▇█"
    assert len(sparkline([(float(n), 1.0 / (n + 1)) for n in range(100_000)], 48)) <= 48
