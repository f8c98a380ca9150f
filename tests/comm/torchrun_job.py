"""Real torchrun jobs for tests: agents as subprocesses that end with the test, and what their ranks printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# The agent ends its ranks when it gets SIGTERM, so that is what it gets when pytest dies; the ranks follow it (below).
AGENT = (
    "import ctypes, signal, sys\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)\n"
    "from torch.distributed.run import main\n"
    "main()\n"
)


class Job:
    """One torchrun agent that runs tests/comm/torchrun_script.py with `arguments`. A context manager."""

    def __init__(
        self, options: Sequence[str], arguments: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> None:
        script = str(Path(__file__).with_name("torchrun_script.py"))
        command = [sys.executable, "-c", AGENT, *options, script, *arguments]
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # The agent makes folders for logs, and leaves them.
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": self._folder.name}
        settings = own | dict(variables or {})
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOL_")}
        out, err = Path(self._folder.name, "out"), Path(self._folder.name, "err")
        with out.open("ab") as to_out, err.open("ab") as to_err:
            self._process = subprocess.Popen(
                command, stdout=to_out, stderr=to_err, env={**clean, **settings}, cwd=ROOT, stdin=subprocess.DEVNULL
            )
        self._out, self._err = out, err

    def wait(self, seconds: float = 120.0) -> int:
        """The agent's exit code."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job hangs:\n{self.out()}\n{self.err()}") from None

    def line(self, start: str, seconds: float = 120.0) -> str:
        """The first line with this beginning that a rank prints, once it is there."""
        pause = threading.Event()  # nothing tells of a file that grows
        for _ in range(int(seconds * 20)):
            ended = self._process.poll() is not None
            whole = self.out().rpartition("\n")[0]
            for line in whole.splitlines():
                if line.startswith(start):
                    return line
            if ended:
                break
            pause.wait(0.05)
        raise AssertionError(f"no rank printed {start!r}:\n{self.out()}\n{self.err()}")

    def out(self) -> str:
        """What the ranks printed so far."""
        return self._out.read_text(errors="replace")

    def err(self) -> str:
        """What agent and ranks wrote to stderr so far."""
        return self._err.read_text(errors="replace")

    def results(self) -> dict[int, Any]:
        """What torchrun_script.report was given, by rank; the last word of each."""
        lines = [line.split(" ", 2) for line in self.out().splitlines() if line.startswith("result ")]
        return {int(rank): json.loads(value) for _, rank, value in lines}

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(40)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._folder.cleanup()
