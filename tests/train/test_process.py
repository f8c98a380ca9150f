"""What a worker asks of the operating system, seen from outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

from smolcluster.runtime.process import peak_rss_mb

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for something only Linux has")

CHILD = """
import time
from smolcluster.runtime.process import die_with_parent
die_with_parent()
print("up", flush=True)
time.sleep(60)
"""
DIE_WITH_PARENT = """
import os, subprocess, sys
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
os._exit(0)
"""


@LINUX
def test_a_child_does_not_outlive_its_parent() -> None:
    import psutil

    command = [sys.executable, "-c", DIE_WITH_PARENT, CHILD]
    pid = int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    if process.status() != psutil.STATUS_ZOMBIE:
        process.wait(10)


def test_peak_memory_is_in_megabytes() -> None:
    assert 5 < peak_rss_mb() < 10_000
