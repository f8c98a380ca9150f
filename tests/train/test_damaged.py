"""A run's folder after a power cut, or of another version: every reader says what it is, and shows the rest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_report import ended, record, run_folder
from test_watch import job

from smolcluster.cli import main
from smolcluster.observe.report import read_run
from smolcluster.runtime.metrics import MetricsWriter, cut_after
from smolcluster.runtime.runfolder import RunFolder, write_atomic

Commands = tuple[list[str], ...]
HALF = b'{"schema": 1, "step": 4, "lo'
DEEP = b"[" * 100_000
DAMAGE = {
    "a half-written line": (lambda text: text + HALF, 1),
    "garbage in the middle": (lambda text: text.replace(b"\n", b"\n\x80\xfe\x00\x07garbage\n", 1), 1),
    "zeros after a power cut": (lambda text: text + bytes(4096), 1),
    "zeros where lines were": (lambda text: bytes(600) + b"\n" + text, 1),
    "ten thousand brackets": (lambda text: text + b'{"loss": ' + DEEP + b"\n" + DEEP, 2),
    "lines of something else": (lambda text: text + b'{"kind": "unheard", "of": 1}\n{"step": 4}\n7\n', 3),
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = run_folder(tmp_path / "runs" / "a-run", ended(0), ended(1), ended(2))
    write_atomic(made.path / "secret", "secret")
    for rank, node in enumerate(("node1", "node2", "node3")):
        done = job(node, "completed", ranks={str(rank): "0"})
        write_atomic(made.job_state(node), done.model_dump_json(by_alias=True))
    return made


def readers(folder: RunFolder) -> Commands:
    name = str(folder.path)
    upload = [["upload", name, "--to", "tensorboard"]] if find_spec("tensorboard") else []
    return (["report", name, "--html"], ["compare", name, name], ["watch", name], *upload)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a report's time, and what is drawn is what was read."""
    monkeypatch.setattr("smolcluster.observe.plots.write_plots", lambda *_: [])


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_metrics_are_said_and_the_rest_is_shown(
    folder: RunFolder, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change: Callable[[bytes], bytes]
    change, lines = DAMAGE[what]
    metrics = folder.metrics("node2", 1)
    metrics.write_bytes(change(metrics.read_bytes()))
    noun = "line" if lines == 1 else "lines"
    for command in readers(folder):
        assert main(command) == 0, command
        out, err = capsys.readouterr()
        said = f"{metrics}: {lines} damaged {noun} skipped"
        assert said in err, command
        assert out, command
    assert f"{lines} damaged {noun} skipped" in folder.page.read_text(encoding="utf-8")
    assert [one.step for one in read_run(folder.path).ranks[1].steps] == [1, 2, 3]
    assert main(["runs", str(folder.path.parent)]) == 0
    assert "a-run" in capsys.readouterr().out
    assert main(["report", str(folder.path), "--bundle", str(folder.path.parent / "sent.tar.gz")]) == 0
    # Who goes on in such a file takes the damage out.
    cut_after(metrics, 2)
    with MetricsWriter(metrics) as writer:
        writer.write(record(3, 1))
    story = read_run(folder.path)
    assert story.notes == ()
    assert [one.step for one in story.ranks[1].steps] == [1, 2, 3]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("schema", [0, 2])
@pytest.mark.parametrize("file", ["plan.json", "nodes/node2/rank-1/metrics.jsonl", "nodes/node2/rank-1/result.json"])
def test_another_version_is_said_by_every_reader(
    folder: RunFolder, file: str, schema: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder.path / file
    first = path.read_text().split("\n")[0] if file.endswith("jsonl") else path.read_text()
    path.write_text(json.dumps({**json.loads(first), "schema": schema, "unheard": "of"}) + "\n")
    for command in readers(folder):
        assert main(command) == 2, command
        err = capsys.readouterr().err
        assert f"schema: is version {schema}; this smolcluster reads version" in err, command
        assert ("upgrade smolcluster" if schema else "read it with the smolcluster that wrote it") in err, command
    assert main(["runs", str(folder.path.parent)]) == 0


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("text", ["", "{", "null", "\x00" * 600, '{"schema": 9, "unheard": "of"}'])
def test_a_summary_is_made_again_whatever_stands_there(
    folder: RunFolder, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.summary.write_text(text)
    assert main(["watch", str(folder.path)]) == 0
    assert "completed" in capsys.readouterr().out
    assert main(["report", str(folder.path)]) == 0
    assert json.loads(folder.summary.read_text())["status"] == "completed"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["result.json", "generation.json", "job.json"])
def test_zeros_in_a_small_file_cost_that_file_alone(
    folder: RunFolder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder.job_state("node2") if name == "job.json" else folder.rank("node2", 1) / name
    path.write_bytes(bytes(600))
    for command in readers(folder):
        code = main(command)
        # Without a result a rank counts as lost; watch leaves with the run's code.
        assert code == (3 if name == "result.json" and command[0] == "watch" else 0), command
        out, err = capsys.readouterr()
        assert "node2" in out or command[0] in ("upload", "compare"), command
        assert "damaged" in err or name == "generation.json", command


def test_two_reports_at_once_leave_one_whole_page(folder: RunFolder, tmp_path: Path) -> None:
    other = shutil.copytree(folder.path, tmp_path / "alone" / "a-run")
    assert main(["report", str(other), "--html"]) == 0
    command = [sys.executable, "-m", "smolcluster", "report", str(folder.path), "--html"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    watching = [command[0], "-m", "smolcluster", "watch", str(folder.path)]
    both += [subprocess.Popen(watching, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [one.communicate(timeout=150) for one in both]
    assert [one.returncode for one in both] == [0, 0, 0, 0], said
    for name in ("report.html", "summary.json", "plots/loss.svg"):
        assert (folder.path / name).read_bytes() == (other / name).read_bytes(), name
    assert not [path for path in folder.path.rglob(".*") if path.is_file()]
