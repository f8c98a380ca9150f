"""How a rank ended, in words, and what result.json it gets when it could not write one itself."""

from __future__ import annotations

import signal
import sys

from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.runfolder import JobState, RankResult, Status

_SIGNALS = {
    "SIGKILL": "killed from outside, or by the system for want of memory",
    "SIGTERM": "ended from outside",
    "SIGINT": "interrupted from outside",
    "SIGHUP": "its terminal went away",
    "SIGSEGV": "crashed: it touched memory that is not its own",
    "SIGBUS": "crashed: it touched memory that is not there",
    "SIGABRT": "crashed: it, or a library in it, gave up",
    "SIGILL": "crashed: an instruction this processor does not have (a torch built for another one?)",
    "SIGFPE": "crashed: an impossible calculation",
    "SIGXCPU": "used up its CPU time limit",
    "SIGSYS": "crashed: a system call that is forbidden here",
}
_NTSTATUS = {
    0xC0000005: "crashed: it touched memory that is not its own (access violation)",
    0xC000001D: "crashed: an instruction this processor does not have",
    0xC0000017: "the system had no memory left",
    0xC000013A: "interrupted from outside (Ctrl-C)",
    0xC0000135: "a DLL it needs was not found",
}


def exit_code_of(returncode: int) -> int:
    """A subprocess return code as shells count: 128 + the signal's number where it is negative."""
    return 128 - returncode if returncode < 0 else returncode


def describe(returncode: int) -> str:
    """Words for a return code that is not 0: the signal's name and what it usually means."""
    if returncode < 0:
        number = -returncode
        try:
            name = signal.Signals(number).name
        except ValueError:
            return f"ended by signal {number}"
        return f"ended by signal {number} ({name}): {_SIGNALS.get(name, 'ended from outside')}"
    if sys.platform == "win32" and returncode & 0xFFFFFFFF in _NTSTATUS:
        return _NTSTATUS[returncode & 0xFFFFFFFF]
    return f"ended with exit code {returncode}"


def result_for(rank: int, node: str, returncode: int, ended_by_us: str, last: StepRecord | None) -> RankResult:
    """The result of a rank that left none. `ended_by_us`: why the supervisor ended it, "" if it died of itself.

    Exit code 3 says a peer failed, so it is no root cause; every other death without a word is one.
    """
    status: Status
    if ended_by_us:
        status, code, reason, root = "stopped", 130, ended_by_us, False
    else:
        status, code, root = "failed", exit_code_of(returncode), returncode != 3
        reason = describe(returncode) + ("" if returncode < 0 else " and left no result; its log says more")
    return _result(rank, node, status, code, reason, root, last)


def lost_result(rank: int, job: JobState, last: StepRecord | None) -> RankResult:
    """The result of a rank whose supervisor ended before it could write one; the job's final state tells why."""
    if job.state == "stopped":
        return _result(rank, job.node, "stopped", 130, job.reason, False, last)
    return _result(rank, job.node, "failed", 3, job.reason, True, last)


def _result(
    rank: int, node: str, status: Status, exit_code: int, reason: str, root_cause: bool, last: StepRecord | None
) -> RankResult:
    return RankResult(
        rank=rank,
        node=node,
        status=status,
        exit_code=exit_code,
        reason=reason,
        root_cause=root_cause,
        steps=last.step if last else 0,
        loss_last=last.loss if last else None,
        val_loss=last.val_loss if last else None,
    )
