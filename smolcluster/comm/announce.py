"""How ranks of one machine find rank 0 when its port was chosen by the system: a small file beside the run.

It names the run and its generation, so that a file an earlier start left behind is not believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from pathlib import Path

from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint, endpoint_of
from smolcluster.errors import DeadlineError
from smolcluster.files import move_over

_LOOK_AGAIN_S = 0.02


def announce(file: Path, where: Endpoint, run_id: str, generation: int) -> None:
    """Write the endpoint so that a reader sees all of it or nothing."""
    text = json.dumps({"host": where.host, "port": where.port, "run_id": run_id, "generation": generation})
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            opened.write(text)
        move_over(Path(temporary), file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def find(file: Path, run_id: str, generation: int, deadline: Deadline, or_later: bool = False) -> Endpoint:
    """Wait for rank 0's announcement of this start, or a later one. DeadlineError if it does not come."""
    # A file cannot be waited for on every system; looking costs microseconds.
    pause = threading.Event()
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            fields = json.loads(file.read_text(encoding="utf-8"))
            found = fields["generation"]
            if fields["run_id"] == run_id and (found == generation or (or_later and found > generation)):
                return endpoint_of(fields)
        if deadline.expired:
            raise DeadlineError(
                f"rank 0 did not announce its port in {file} within {deadline.seconds:g} s. "
                "Fix: look at rank 0's log; ranks on other machines need a fixed `port`."
            )
        pause.wait(_LOOK_AGAIN_S)
