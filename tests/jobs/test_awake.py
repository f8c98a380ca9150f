"""What holds off sleep on each system, with stand-ins for its tool: what is asked, when it is let go, what refuses."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from smolcluster.jobs import systemd
from smolcluster.jobs.awake import CannotKeepAwakeError, kept_awake, linux, macos, windows

_TOOL = """\
import json, os, subprocess, sys
with open({record!r}, "a") as file:
    file.write(json.dumps([os.getpid(), *sys.argv[1:]]) + "\\n")
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put a stand-in on the PATH; the file of its calls."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name: str, then: str) -> Path:
        record = tmp_path / f"{name}.calls"
        (tmp_path / name).write_text(f"#!{sys.executable}\n{_TOOL.format(record=str(record))}{then}\n")
        (tmp_path / name).chmod(0o755)
        return record

    return make


def calls(record: Path) -> list[list[str]]:
    return [json.loads(line)[1:] for line in record.read_text().splitlines()]


def pid_of_last(record: Path) -> int:
    return int(json.loads(record.read_text().splitlines()[-1])[0])


def gone(pid: int) -> bool:
    """Whether a process has ended by now, or does within a while."""
    deadline, pause = time.monotonic() + 30, threading.Event()
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        pause.wait(0.02)
    return True


def written(record: Path) -> None:
    deadline, pause = time.monotonic() + 30, threading.Event()
    while not record.exists() or not record.read_text().endswith("\n"):
        assert time.monotonic() < deadline, "the tool was not called"
        pause.wait(0.02)


def test_a_mac_is_held_by_caffeinate_which_watches_this_process(tool: Callable[[str, str], Path]) -> None:
    record = tool("caffeinate", "sys.stdin.read(); import signal; signal.pause()")
    with macos.hold("run x"):
        written(record)
        assert calls(record) == [["-i", "-m", "-s", "-w", str(os.getpid())]]
        assert psutil.pid_exists(pid_of_last(record))
    assert gone(pid_of_last(record))


# What systemd-inhibit does: it runs the program that follows its options.
_INHIBIT = "words = [w for w in sys.argv[1:] if not w.startswith('--')]\nos.execvp(words[0], words)"


def test_linux_is_held_by_an_inhibitor_that_goes_with_us(
    tool: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "present", lambda: True)
    record = tool("systemd-inhibit", _INHIBIT)
    with linux.hold("run x"):
        (asked,) = calls(record)
        assert asked[:4] == ["--what=sleep:idle:handle-lid-switch", "--who=smolcluster", "--why=run x", "--mode=block"]
        assert psutil.pid_exists(pid_of_last(record))
    assert gone(pid_of_last(record))
    # However this process ends.
    code = (
        "from smolcluster.jobs import systemd; from smolcluster.jobs.awake import linux\n"
        "systemd.present = lambda: True\nlinux.hold('run y').__enter__()\nimport os, signal\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert len(calls(record)) == 2
    assert gone(pid_of_last(record))


def test_a_user_who_may_not_hold_the_lid_holds_the_rest(
    tool: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "present", lambda: True)
    record = tool("systemd-inhibit", f"if 'lid' in sys.argv[1]: sys.exit('Access denied')\n{_INHIBIT}")
    with linux.hold("run x"):
        assert [words[0] for words in calls(record)] == ["--what=sleep:idle:handle-lid-switch", "--what=sleep:idle"]
    tool("systemd-inhibit", "sys.exit('Failed to inhibit: Access denied')")
    with pytest.raises(CannotKeepAwakeError, match=r"Access denied.*setup.yml --tags awake"):
        linux.hold("run x")


def test_a_system_that_refuses_is_told_and_nothing_else_happens(
    caplog: pytest.LogCaptureFixture, tool: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(systemd, "present", lambda: True)
    tool("systemd-inhibit", "sys.exit('Access denied')")
    with kept_awake("run x"):
        pass
    assert "this machine may fall asleep during the run: systemd-inhibit: Access denied" in caplog.text
    caplog.clear()
    # Without systemd nothing puts it to sleep, and nothing is said.
    monkeypatch.setattr(systemd, "present", lambda: False)
    with kept_awake("run x"):
        pass
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", "/nowhere")
    with kept_awake("run x"):
        pass
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "this machine may fall asleep during the run"
    ]


def test_windows_is_told_the_threads_state(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[int] = []

    class Function:
        answer = 1

        def __call__(self, state: int) -> int:
            said.append(state)
            return self.answer

    class Kernel:
        SetThreadExecutionState = Function()

    monkeypatch.setattr(ctypes, "WinDLL", lambda name: Kernel, raising=False)
    with windows.hold("run x"):
        assert said == [0x80000001]
    assert said == [0x80000001, 0x80000000]
    Function.answer = 0
    with pytest.raises(CannotKeepAwakeError):
        windows.hold("run x")


def test_an_error_in_a_run_lets_go_and_goes_on(tool: Callable[[str, str], Path]) -> None:
    record = tool("caffeinate", "import signal; signal.pause()")

    def fail() -> None:
        with macos.hold("run x"):
            written(record)
            raise RuntimeError("the run's own")

    with pytest.raises(RuntimeError, match="the run's own"):
        fail()
    assert gone(pid_of_last(record))
