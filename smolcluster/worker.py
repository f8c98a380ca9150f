"""`python -m smolcluster.worker NODE_YAML --rank R`: one rank of a run, a child of its node's supervisor.

Its stdin is a pipe that the supervisor holds: the line "stop" asks for a graceful end, end of file means that the
supervisor is gone. What happened is in result.json and in the exit code (errors.py); the log has the rest. A rank
imports only what its part needs: one that serves nothing of training, and the other way round.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from smolcluster.comm.allocator import keep_freed_memory
from smolcluster.errors import ConfigError, InterruptedRun, Problem, SmolError
from smolcluster.jobs.nodefile import load_node, load_plan
from smolcluster.plan.types import NodeConfig, Plan, ProfilePlan, RankPlan, ServePlan
from smolcluster.runtime.failures import DONE, SERVE_SMALLER, Failure, understand
from smolcluster.runtime.process import Stop, die_with_parent, log_to_stdout, peak_rss_mb
from smolcluster.runtime.results import leave_result
from smolcluster.runtime.runfolder import RankResult, RunFolder

log = logging.getLogger("smolcluster.worker")

# Python hands the interpreter over this often. The default of 5 ms would add to every hop of a small message.
SWITCH_INTERVAL_S = 0.0005
# Machines are told to stop one by one, or lose their leases so: who sees another leave may be told a moment later. A
# head that died needs longer than this to be there again.
PARTING_S = 4.0


def run_rank(config: NodeConfig, plan: Plan | ServePlan, me: RankPlan, stop: Stop) -> int:
    """Take a rank's part in a run and write its result.json. The exit code; only bugs of result writing raise."""
    if isinstance(plan, ProfilePlan):
        from smolcluster.train.measuring import measure_part

        return measure_part(config, plan, me, stop)
    if isinstance(plan, Plan):
        from smolcluster.train.part import train_part

        return train_part(config, plan, me, stop)
    return serve_part(config, plan, me, stop)


def serve_part(config: NodeConfig, plan: ServePlan, me: RankPlan, stop: Stop) -> int:
    """A stage of a served model, or its API, until it is told to stop. The exit code."""
    began = time.monotonic()
    try:
        _serve(plan, me)(config, plan, me, stop)
        ending = DONE if stop() else Failure(SmolError.exit_code, "ended although nobody asked", ours=True, bug=True)
    except BaseException as error:
        ending = understand(error, SERVE_SMALLER)
        log.error("%s", ending.reason, exc_info=error if ending.bug else None)
        if not ending.ours and not ending.bug and stop.wait(PARTING_S):
            ending = DONE
    if ending is DONE:
        ending = replace(DONE, exit_code=InterruptedRun.exit_code, reason="stopped as asked")
    status = "stopped" if ending.exit_code == InterruptedRun.exit_code else "failed"
    result = RankResult(
        rank=me.rank,
        node=me.node,
        status=status,
        exit_code=ending.exit_code,
        reason=ending.reason,
        root_cause=ending.ours and status == "failed",
        seconds=time.monotonic() - began,
        peak_rss_mb=peak_rss_mb(),
        transport="smol",
        generation=config.generation,
        final=ending.final,
    )
    leave_result(RunFolder(Path(config.run_dir)), result)
    return ending.exit_code


def _serve(plan: ServePlan, me: RankPlan) -> Callable[[NodeConfig, ServePlan, RankPlan, Stop], None]:
    if me.role == "api":
        from smolcluster.chat.backend.rank import run_api

        return run_api
    if me.rank in plan.tablets:
        from smolcluster.tablet.rank import run_tablet

        return run_tablet
    from smolcluster.infer.rank import run_stage

    return run_stage


class StopRequests:
    """Listens to the supervisor on a pipe, from a thread of its own. Calling it answers: was a stop asked for?

    `wait` is for those who have nothing else to do.
    """

    def __init__(self, pipe: int) -> None:
        self._asked = threading.Event()
        # os.read, not sys.stdin: a daemon thread inside a buffered reader aborts the interpreter when it shuts down.
        threading.Thread(target=self._listen, args=(pipe,), name="supervisor-pipe", daemon=True).start()

    def __call__(self) -> bool:
        """Whether somebody asked this rank to stop."""
        return self._asked.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until somebody asked, at most so many seconds. Whether somebody did."""
        return self._asked.wait(timeout_s)

    def _listen(self, pipe: int) -> None:
        pending = b""
        while data := os.read(pipe, 256):
            *lines, pending = (pending + data).split(b"\n")
            if b"stop" in (line.strip() for line in lines):
                self._asked.set()
        # The supervisor is gone and nobody holds this rank to its lease any more: leave without another word.
        os._exit(InterruptedRun.exit_code)


def main(arguments: list[str] | None = None) -> int:
    """Run a rank as a process. The exit code."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m smolcluster.worker", description="One rank of a run.")
    parser.add_argument("node_yaml", type=Path)
    parser.add_argument("--rank", type=int, required=True)
    options = parser.parse_args(arguments)
    log_to_stdout()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    stop = StopRequests(sys.stdin.fileno())
    try:
        config = load_node(options.node_yaml)
        plan = load_plan(config)
        me = plan.ranks[options.rank] if 0 <= options.rank < plan.world_size else None
        if me is None or me.node != config.node:
            what = f"rank {options.rank} is not one of {config.node}'s"
            raise ConfigError([Problem(str(options.node_yaml), 0, "ranks", what, "let the supervisor start workers")])
    except SmolError as error:
        log.error("%s", error)
        return error.exit_code
    if isinstance(plan, Plan):
        keep_freed_memory()
    torch.set_num_threads(me.threads)
    return run_rank(config, plan, me, stop)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # After a failure a backend may have threads that wait for a peer that is gone: nothing is left to wait for.
    os._exit(code)
