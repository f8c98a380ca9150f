"""A plan carried out and taken back, with commands that only touch a folder of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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


def plan(tmp_path: Path, *apply: dict) -> str:
    """Writes `a` and whatever more; taking it back removes `a` and brings `old` again."""
    back = [write(tmp_path / "old", "was"), python("raise SystemExit(7)"), remove(tmp_path / "a")]
    return json.dumps({"apply": [write(tmp_path / "a", "new"), *apply], "rollback": back})


def simple(tmp_path: Path, name: str, text: str, before: str | None) -> str:
    back = write(tmp_path / name, before) if before is not None else remove(tmp_path / name)
    return json.dumps({"apply": [write(tmp_path / name, text)], "rollback": [back]})


def run(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", SCRIPT, *words], input=text, capture_output=True, text=True, timeout=120
    )


def wait_for(path: Path) -> dict:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "state" / "plan.json"
    yield place
    # Whatever a test left waiting.
    run("take-back", str(place))


def arm(file: Path, text: str, seconds: float = 100) -> None:
    done = run("arm", str(file), str(seconds), "-", text=text)
    assert (done.returncode, done.stderr) == (0, "")


def test_all_is_done(file: Path, tmp_path: Path) -> None:
    arm(file, plan(tmp_path, remove(tmp_path / "a"), remove(tmp_path / "never there")))
    assert run("apply", str(file)).returncode == 0
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "old").exists()


def test_a_command_that_fails_takes_all_back(file: Path, tmp_path: Path) -> None:
    failing = python("import sys; sys.exit('no such device')")
    arm(file, plan(tmp_path, failing, write(tmp_path / "b", "x")))
    done = run("apply", str(file))
    assert done.returncode == 3
    assert "step 2 of 3 failed" in done.stderr
    assert "no such device; taking all back" in done.stderr
    # What cannot be taken back is told, and does not keep the rest from it.
    assert "exit code 7" in done.stderr
    assert [(tmp_path / name).exists() for name in ("a", "b", "old")] == [False, False, True]
    # Its guard has done it, and is gone.
    assert wait_for(file.with_name("plan.json.outcome"))["rolled_back"]
    assert run("call-off", str(file)).returncode == 3
    assert run("take-back", str(file)).returncode == 0


def test_a_tool_that_is_missing(file: Path, tmp_path: Path) -> None:
    arm(file, plan(tmp_path, {"argv": ["no-such-tool"], "path": None, "text": None}))
    done = run("apply", str(file))
    assert (done.returncode, "no-such-tool" in done.stderr) == (3, True)


def test_a_guard_that_is_called_off_leaves_the_plan(file: Path, tmp_path: Path) -> None:
    arm(file, plan(tmp_path))
    assert run("apply", str(file)).returncode == 0
    assert run("call-off", str(file)).returncode == 0
    assert wait_for(file.with_name("plan.json.outcome")) == {"rolled_back": False, "failed": []}
    assert (tmp_path / "a").exists()
    again = run("call-off", str(file))
    assert (again.returncode, "no guard is waiting" in again.stderr) == (3, True)


def test_a_guard_that_nobody_calls_off_takes_the_plan_back(file: Path, tmp_path: Path) -> None:
    arm(file, plan(tmp_path, python("import time; time.sleep(3)")), 1)
    # Its time is over in the middle of it: the plan comes to its end, then it is taken back.
    assert run("apply", str(file)).returncode == 0
    outcome = wait_for(file.with_name("plan.json.outcome"))
    assert outcome["rolled_back"]
    assert len(outcome["failed"]) == 1
    assert [(tmp_path / name).exists() for name in ("a", "old")] == [False, True]
    assert run("call-off", str(file)).returncode == 3
    late = run("apply", str(file))
    assert (late.returncode, "no plan" in late.stderr) == (3, True)


def test_a_plan_that_was_never_begun_needs_no_taking_back(file: Path, tmp_path: Path) -> None:
    arm(file, plan(tmp_path))
    assert run("take-back", str(file)).returncode == 0
    assert wait_for(file.with_name("plan.json.outcome")) == {"rolled_back": True, "failed": []}
    assert not (tmp_path / "old").exists()
    assert not file.exists()


def test_taken_back_at_once(file: Path, tmp_path: Path) -> None:
    arm(file, simple(tmp_path, "a", "new", None))
    assert run("apply", str(file)).returncode == 0
    assert run("take-back", str(file)).returncode == 0
    assert not (tmp_path / "a").exists()
    assert run("take-back", str(file)).returncode == 0


def test_two_changes_at_once_are_refused(file: Path, tmp_path: Path) -> None:
    arm(file, simple(tmp_path, "a", "new", None))
    done = run("arm", str(file), "100", simple(tmp_path, "b", "new", None))
    assert (done.returncode, "another change is under way" in done.stderr) == (3, True)
    # The first one goes on.
    assert run("apply", str(file)).returncode == 0
    assert run("call-off", str(file)).returncode == 0
    assert (tmp_path / "a").read_text() == "new"


def test_only_its_owner_may_call_it_off(file: Path, tmp_path: Path) -> None:
    arm(file, plan(tmp_path))
    guard = file.with_name("plan.json.guard")
    assert guard.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert run("call-off", str(file)).returncode == 0
    assert not guard.exists()


def test_plans_that_stayed_are_taken_back_the_newest_first(file: Path, tmp_path: Path) -> None:
    for text, before in (("1", None), ("2", "1"), ("3", "2")):
        arm(file, simple(tmp_path, "a", text, before))
        assert run("apply", str(file)).returncode == 0
        assert run("call-off", str(file)).returncode == 0
    assert (tmp_path / "a").read_text() == "3"
    done = run("rollback", str(file))
    assert (done.returncode, done.stdout) == (0, "taken back\n")
    assert not (tmp_path / "a").exists()
    again = run("rollback", str(file))
    assert (again.returncode, again.stdout) == (0, "")


def test_a_plan_under_way_is_taken_back_with_the_others(file: Path, tmp_path: Path) -> None:
    arm(file, simple(tmp_path, "a", "1", None))
    run("apply", str(file))
    run("call-off", str(file))
    arm(file, simple(tmp_path, "a", "2", "1"))
    run("apply", str(file))
    assert run("rollback", str(file)).returncode == 0
    assert not (tmp_path / "a").exists()


def test_a_reboot_ends_the_guard_and_the_plan_counts_as_kept(file: Path, tmp_path: Path) -> None:
    arm(file, simple(tmp_path, "a", "1", None))
    run("apply", str(file))
    end_guard(file)
    arm(file, simple(tmp_path, "a", "2", "1"))
    run("apply", str(file))
    run("call-off", str(file))
    assert (tmp_path / "a").read_text() == "2"
    assert run("rollback", str(file)).returncode == 0
    assert not (tmp_path / "a").exists()


def test_what_could_not_be_taken_back_is_tried_again(file: Path, tmp_path: Path) -> None:
    needs = python(f"import sys; sys.exit(not __import__('os').path.exists({str(tmp_path / 'door')!r}))")
    text = json.dumps({"apply": [write(tmp_path / "a", "new")], "rollback": [needs, remove(tmp_path / "a")]})
    arm(file, text)
    run("apply", str(file))
    run("call-off", str(file))
    done = run("rollback", str(file))
    assert (done.returncode, "not taken back" in done.stderr) == (3, True)
    assert not (tmp_path / "a").exists()
    (tmp_path / "door").write_text("")
    again = run("rollback", str(file))
    assert (again.returncode, again.stdout) == (0, "taken back\n")
    assert run("rollback", str(file)).stdout == ""


def test_a_rollback_goes_on_when_its_caller_is_cut_off(file: Path, tmp_path: Path) -> None:
    slow = python("import time; time.sleep(2)")
    arm(file, json.dumps({"apply": [write(tmp_path / "a", "x")], "rollback": [slow, remove(tmp_path / "a")]}))
    run("apply", str(file))
    run("call-off", str(file))
    command = [sys.executable, "-I", SCRIPT, "rollback", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as caller:
        with pytest.raises(subprocess.TimeoutExpired):
            caller.wait(1)
        os.killpg(caller.pid, signal.SIGHUP)
        caller.wait(60)
    end = time.monotonic() + 60
    while file.with_name("plan.json.kept").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("words", [["fly"], ["arm", "plan.json", "1", "no plan"], ["arm", "plan.json", "soon", "{}"]])
def test_wrong_calls(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words).returncode == 2


def test_nothing_to_take_back(file: Path) -> None:
    for word in ("take-back", "rollback"):
        done = run(word, str(file))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def step(number: int, action: dict) -> dict:
    return {**action, "step": number}


def passing(action: dict) -> dict:
    return {**action, "passing": True}


def test_a_step_that_was_never_begun_is_not_taken_back(file: Path, tmp_path: Path) -> None:
    """Nor is the one that failed missed: what it would undo may not be there."""
    failing = python("import sys; sys.exit('unknown connection')")
    apply = [write(tmp_path / "a", "x"), failing, write(tmp_path / "c", "x")]
    rollback = [step(3, write(tmp_path / "third", "undone")), step(2, failing), step(1, remove(tmp_path / "a"))]
    arm(file, json.dumps({"apply": [step(n, a) for n, a in enumerate(apply, 1)], "rollback": rollback}))
    done = run("apply", str(file))
    assert (done.returncode, "not taken back" in done.stderr) == (3, False), done.stderr
    assert wait_for(file.with_name("plan.json.outcome")) == {"rolled_back": True, "failed": []}
    assert [(tmp_path / name).exists() for name in ("a", "c", "third")] == [False, False, False]
    assert run("rollback", str(file)).stdout == ""


def test_what_lasts_no_longer_than_a_reboot_may_fail_to_be_undone(file: Path, tmp_path: Path) -> None:
    """As `nmcli connection down` does where the cable is out."""
    back = [step(2, passing(python("raise SystemExit(10)"))), step(1, remove(tmp_path / "a"))]
    apply = [step(1, write(tmp_path / "a", "x")), step(2, passing(python("pass")))]
    arm(file, json.dumps({"apply": apply, "rollback": back}))
    run("apply", str(file))
    run("call-off", str(file))
    done = run("rollback", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "taken back\n", "")
    assert not (tmp_path / "a").exists()


def test_what_its_guard_could_not_take_back_is_tried_again(file: Path, tmp_path: Path) -> None:
    needs = python(f"import sys; sys.exit(not __import__('os').path.exists({str(tmp_path / 'door')!r}))")
    arm(file, json.dumps({"apply": [write(tmp_path / "a", "new")], "rollback": [needs, remove(tmp_path / "a")]}))
    run("apply", str(file))
    assert run("take-back", str(file)).returncode == 3
    assert not (tmp_path / "a").exists()
    (tmp_path / "door").write_text("")
    assert run("rollback", str(file)).stdout == "taken back\n"


def test_words_in_any_encoding_keep_nothing_from_being_taken_back(file: Path, tmp_path: Path) -> None:
    latin = python(r"import sys; sys.stderr.buffer.write(b'Ger\xe4t fehlt'); raise SystemExit(1)")
    arm(file, json.dumps({"apply": [write(tmp_path / "a", "x")], "rollback": [latin, remove(tmp_path / "a")]}))
    run("apply", str(file))
    done = run("take-back", str(file))
    assert (done.returncode, "Ger\ufffdt fehlt" in done.stderr) == (3, True)
    assert not (tmp_path / "a").exists()


def test_a_reboot_takes_back_what_was_under_way(file: Path, tmp_path: Path) -> None:
    """The files that the system reads at boot are there as long as the guard, and no longer."""
    boot = [{"path": str(tmp_path / "boot" / "job"), "text": "take-back"}]
    for word, left in (("call-off", True), ("take-back", False)):
        arm(file, json.dumps({**json.loads(simple(tmp_path, "a", "new", None)), "boot": boot}))
        assert (tmp_path / "boot" / "job").read_text() == "take-back"
        run("apply", str(file))
        assert (tmp_path / "boot" / "job").exists()
        assert run(word, str(file)).returncode == 0
        assert not (tmp_path / "boot" / "job").exists()
        assert (tmp_path / "a").exists() == left
        run("rollback", str(file))
    arm(file, json.dumps({**json.loads(simple(tmp_path, "a", "new", None)), "boot": boot}))
    run("apply", str(file))
    end_guard(file)
    assert run("take-back", str(file)).returncode == 0
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "boot" / "job").exists()
    assert sorted(path.name for path in file.parent.iterdir()) == ["plan.json.lock", "plan.json.outcome"]


def end_guard(file: Path) -> None:
    """What a reboot does to it."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(file).encode() in words:
            os.kill(int(process.name), signal.SIGKILL)
