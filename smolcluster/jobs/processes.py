"""One rank's process: started, watched, told to stop, ended.

Its life hangs on the supervisor's three times over: its stdin is a pipe whose other end the supervisor holds (end of
file means the supervisor is gone), on Linux the worker asks the kernel for a signal when its parent dies, on Windows
both are in one job object.

Trap: the kernel's signal comes when the *thread* that started the process ends. Start ranks from the main thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from smolcluster.jobs.identity import ProcessId, identify

# Libraries size their thread pools from these when they are loaded, so they must be in the environment at start.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def rank_environment(base: Mapping[str, str], threads: int) -> dict[str, str]:
    """The supervisor's environment with this rank's thread count; logs unbuffered, crashes with a traceback."""
    ours = {name: str(threads) for name in THREAD_VARIABLES}
    return {**base, **ours, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "PYTHONUTF8": "1"}


class RankProcess:
    """A running rank. `on_end(rank, returncode)` is called once, from a thread of its own, when it has ended.

    The return code is subprocess's: negative for a signal.
    """

    def __init__(
        self,
        rank: int,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        on_end: Callable[[int, int], None],
    ) -> None:
        """Start it. OSError if the command cannot be run."""
        self.rank = rank
        self._on_end = on_end
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                bufsize=0,
                # A group of its own: a Ctrl-C in a terminal reaches the supervisor only, which stops ranks in order.
                start_new_session=sys.platform != "win32",
                creationflags=_windows_flags(),
            )
        self.identity: ProcessId | None = identify(self._process.pid)
        self._waiter = threading.Thread(target=self._wait, name=f"wait-rank-{rank}", daemon=True)
        self._waiter.start()

    @property
    def pid(self) -> int:
        """The process id; it stays the process's own until `on_end` was called."""
        return self._process.pid

    def ask_to_stop(self) -> None:
        """Write the line "stop" to its stdin. A rank that has ended, or closed it, is past asking."""
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(OSError, ValueError):
            pipe.write(b"stop\n")

    def terminate(self) -> None:
        """Ask the operating system to end it (SIGTERM; on Windows this already kills)."""
        with contextlib.suppress(OSError):
            self._process.terminate()

    def kill(self) -> None:
        """End it and everything it started, now."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def join(self, deadline_s: float) -> bool:
        """Wait until it has ended and `on_end` was called; False if it has not after deadline_s."""
        self._waiter.join(deadline_s)
        return not self._waiter.is_alive()

    def _wait(self) -> None:
        code = self._process.wait()
        if sys.platform != "win32":
            # Helpers the rank left behind. Its pid is the group's; right after the wait nobody else has it yet.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._on_end(self.rank, code)


def _windows_flags() -> int:
    # Written to the documentation of Windows, untested there.
    if sys.platform == "win32":
        return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    return 0
