"""A plan carried out and taken back, with commands that only touch a folder of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smolcluster.network import carry_out

SCRIPT = carry_out.__file__


def write(path: Path, text: str) -> dict:
    return {"argv": [], "path": str(path), "text": text}


def remove(path: Path) -> dict:
    return {"argv": [], "path": str(path), "text": None}


def python(line: str) -> dict:
    return {"argv": [sys.executable, "-c", line], "path": None, "text": None}


def plan(tmp_path: Path, *apply: dict) -> Path:
    """Writes `a` and whatever more; taking it back removes `a` and brings `old` again."""
    file = tmp_path / "plan.json"
    back = [write(tmp_path / "old", "was"), python("raise SystemExit(7)"), remove(tmp_path / "a")]
    file.write_text(json.dumps({"apply": [write(tmp_path / "a", "new"), *apply], "rollback": back}), encoding="utf-8")
    return file


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", SCRIPT, *words], capture_output=True, text=True, timeout=120)


def wait_for(path: Path) -> dict:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)
    return json.loads(path.read_text(encoding="utf-8"))


def test_all_is_done(tmp_path: Path) -> None:
    file = plan(tmp_path, remove(tmp_path / "a"), remove(tmp_path / "never there"))
    assert run("apply", str(file)).returncode == 0
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "old").exists()


def test_a_command_that_fails_takes_all_back(tmp_path: Path) -> None:
    failing = python("import sys; sys.exit('no such device')")
    done = run("apply", str(plan(tmp_path, failing, write(tmp_path / "b", "x"))))
    assert done.returncode == 3
    assert "step 2 of 3 failed" in done.stderr
    assert "no such device; taking all back" in done.stderr
    # What cannot be taken back is told, and does not keep the rest from it.
    assert "exit code 7" in done.stderr
    assert [(tmp_path / name).exists() for name in ("a", "b", "old")] == [False, False, True]


def test_a_tool_that_is_missing(tmp_path: Path) -> None:
    done = run("apply", str(plan(tmp_path, {"argv": ["no-such-tool"], "path": None, "text": None})))
    assert (done.returncode, "no-such-tool" in done.stderr) == (3, True)


def test_a_guard_that_is_called_off_leaves_the_plan(tmp_path: Path) -> None:
    file = plan(tmp_path)
    assert run("arm", str(file), "60").returncode == 0
    assert run("apply", str(file)).returncode == 0
    assert run("call-off", str(file)).returncode == 0
    assert wait_for(tmp_path / "plan.json.outcome") == {"rolled_back": False, "failed": []}
    assert (tmp_path / "a").exists()
    again = run("call-off", str(file))
    assert (again.returncode, "no guard is waiting" in again.stderr) == (3, True)


def test_a_guard_that_nobody_calls_off_takes_the_plan_back(tmp_path: Path) -> None:
    file = plan(tmp_path)
    assert run("apply", str(file)).returncode == 0
    assert run("arm", str(file), "0.2").returncode == 0
    outcome = wait_for(tmp_path / "plan.json.outcome")
    assert outcome["rolled_back"]
    assert len(outcome["failed"]) == 1
    assert [(tmp_path / name).exists() for name in ("a", "old")] == [False, True]
    assert run("call-off", str(file)).returncode == 3


def test_only_its_owner_may_call_it_off(tmp_path: Path) -> None:
    file = plan(tmp_path)
    assert run("arm", str(file), "60").returncode == 0
    assert (tmp_path / "plan.json.guard").stat().st_mode & 0o777 == 0o600
    assert run("call-off", str(file)).returncode == 0
    assert not (tmp_path / "plan.json.guard").exists()


def test_rollback_by_hand(tmp_path: Path) -> None:
    file = plan(tmp_path)
    run("apply", str(file))
    done = run("rollback", str(file))
    assert (done.returncode, "exit code 7" in done.stderr) == (3, True)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("words", [["fly"], ["apply", "nowhere.json"], ["arm", "nowhere.json", "1"]])
def test_wrong_calls(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words).returncode == 2
