"""No sleep while a run is active: the supervisor holds what its system has for that, and lets it go with the run.

Nothing of the machine's settings is changed, so nothing has to be taken back, however the supervisor ends. A system
that refuses is told in the supervisor's log; the run goes on.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

_log = logging.getLogger("smolcluster.supervisor")


class CannotKeepAwakeError(Exception):
    """The system refuses, or has nothing for it. Carries its words, or none where sleeping is not known."""


@contextmanager
def kept_awake(why: str) -> Iterator[None]:
    """Keep this machine from sleeping as long as the context is open. Called on the thread that keeps it open."""
    try:
        hold = _hold(why)
    except (CannotKeepAwakeError, OSError) as error:
        if str(error):
            _log.info("this machine may fall asleep during the run: %s", error)
        yield
        return
    with hold:
        yield


def _hold(why: str) -> AbstractContextManager[object]:
    if sys.platform == "darwin":
        from smolcluster.jobs.awake.macos import hold
    elif sys.platform == "win32":
        from smolcluster.jobs.awake.windows import hold
    else:
        from smolcluster.jobs.awake.linux import hold
    return hold(why)
