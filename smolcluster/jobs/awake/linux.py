"""Linux: an inhibitor of systemd-logind. Without systemd a machine does not fall asleep by itself.

logind asks polkit whether the user may, and over SSH polkit says no unless it was told otherwise: the role awake does.
"""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from smolcluster.jobs import systemd
from smolcluster.jobs.awake import CannotKeepAwakeError

_ANSWER_S, _END_S = 10.0, 5.0
# The lid of a laptop is asked for apart: a user who may do the rest may lack that.
_WHATS = ("sleep:idle:handle-lid-switch", "sleep:idle")


def hold(why: str) -> AbstractContextManager[object]:
    """Suspend, idle actions and the lid are held off. CannotKeepAwakeError with logind's words where it refuses."""
    if not systemd.present():
        raise CannotKeepAwakeError
    words = ""
    for what in _WHATS:
        process = _start(what, why)
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], _ANSWER_S)
        if readable and process.stdout.readline():
            return _held(process)
        words = _end(process)
    raise CannotKeepAwakeError(f"systemd-inhibit: {words or 'no answer'}. Fix: ansible-playbook setup.yml --tags awake")


def _start(what: str, why: str) -> subprocess.Popen[bytes]:
    # What it runs says that the inhibitor is held, and ends with our end of the pipe, however this process ends.
    command = ["systemd-inhibit", f"--what={what}", "--who=smolcluster", f"--why={why}", "--mode=block"]
    command += ["sh", "-c", "echo held; exec cat >/dev/null"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)


@contextmanager
def _held(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> str:
    """Let it go; what it said on standard error."""
    try:
        _, said = process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = process.communicate()
    return said.decode(errors="replace").strip()
