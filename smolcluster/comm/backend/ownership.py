"""A group that lives on a membership of its own: both end together, also when the script never destroys the group."""

from __future__ import annotations

import atexit
import os
import sys

from smolcluster.comm.membership import FAREWELL_S, Membership


class Ownership:
    """Closes the membership with the group, or when the interpreter exits. Idempotent."""

    def __init__(self, member: Membership) -> None:
        self._member = member
        self._process = os.getpid()
        atexit.register(self._at_exit)

    def close(self) -> None:
        """The group was destroyed."""
        atexit.unregister(self._at_exit)
        self._member.teardown(self._member.farewell_s)

    def abort(self) -> None:
        """The group was aborted: the others learn it."""
        atexit.unregister(self._at_exit)
        self._member.give_up("it aborted its process group")
        self._member.teardown(0.0)

    def _at_exit(self) -> None:
        """The script ended without destroying its group. If by an exception, the others learn which."""
        if os.getpid() != self._process:  # a forked child ends: the connections are its parent's
            return
        error = getattr(sys, "last_value", None)  # set when a traceback was printed
        if error is not None:
            self._member.give_up(f"{type(error).__name__}: {error}")
        self._member.teardown(min(FAREWELL_S, self._member.farewell_s))
