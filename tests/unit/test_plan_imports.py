"""spec, topology, plan and the commands that only plan start without torch, in a fraction of a second."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

MODULES = (
    "smolcluster.spec.resolve, smolcluster.spec.serving, smolcluster.spec.inventory, smolcluster.topology, "
    "smolcluster.plan.make, smolcluster.plan.measure, smolcluster.plan.serve, smolcluster.plan.render"
)
NETWORK = "smolcluster.network.diff, smolcluster.network.report, smolcluster.network.measuring"
COMMANDS = ", ".join(f"smolcluster.commands.{name}" for name in ("check", "plan", "network", "init"))


@pytest.mark.parametrize("modules", [MODULES, NETWORK, COMMANDS])
def test_no_torch(modules: str) -> None:
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_planning_needs_no_torch_either() -> None:
    code = (
        "import sys; from pathlib import Path; from smolcluster.spec.request import Request\n"
        "from smolcluster.spec.resolve import resolve; from smolcluster.plan.make import make_plan\n"
        "r = resolve(Request(Path('inventory/home.smol.yml'), 'fsdp')); make_plan(r.cluster, r.run)\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = __file__.rsplit("tests", 1)[0]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=60).returncode == 0


def test_a_command_that_is_called_is_imported_alone(tmp_path: Path) -> None:
    """A node is asked how its run goes every few seconds, each time by a process of its own."""
    code = (
        "import sys; from smolcluster.cli import main; code = main(['job', 'status', '--workdir', sys.argv[1]])\n"
        "assert code == 0; found = [name for name in sys.modules if name.startswith('smolcluster.commands.')]\n"
        "assert found == ['smolcluster.commands.job'], found"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_poll_brings_no_more_than_it_needs(tmp_path: Path) -> None:
    """Not how runs are configured, planned and started."""
    code = (
        "import sys; from smolcluster.cli import main\n"
        "code = main(['job', 'poll', '--run-dir', sys.argv[1], '--node', 'one'])\n"
        "assert code == 2, code\n"
        "own = {'.'.join(name.split('.')[:3]) for name in sys.modules}\n"
        "more = {'smolcluster.spec.resolve', 'smolcluster.plan', 'smolcluster.jobs.launch', 'yaml'} & own\n"
        "assert not more, more"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_import_is_quick() -> None:
    """Under 1 s: the best of three, by the process's own clock, as the machine may be busy."""
    code = f"import time; t = time.process_time(); import {MODULES}; print(time.process_time() - t)"
    seconds = []
    deadline = time.monotonic() + 60
    while len(seconds) < 3 and time.monotonic() < deadline:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        seconds.append(float(done.stdout))
    assert min(seconds) < 1.0
