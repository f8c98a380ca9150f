"""`python -m smolcluster.supervisor NODE_YAML`: one per node and run. Thin: the job's life is in jobs/supervise.py.

Started by `python -m smolcluster job start`, which claims the node first and passes the claim on. Started by hand it
claims the node itself and runs in the foreground; Ctrl-C stops the job in order. Started by the system with the machine
(`--boot`) it serves a model again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from smolcluster.errors import SmolError
from smolcluster.jobs import schtasks
from smolcluster.jobs.booting import Stopped, serve_from_boot
from smolcluster.jobs.nodefile import load_node, load_plan, ranks_of
from smolcluster.jobs.registry import Registry
from smolcluster.jobs.supervise import Supervisor
from smolcluster.jobs.supervise_each import EachSupervisor
from smolcluster.jobs.supervise_together import TogetherSupervisor
from smolcluster.jobs.types import JobError
from smolcluster.jobs.winjob import tie_children_to_me
from smolcluster.plan.types import ServePlan
from smolcluster.runtime.process import log_to_stdout

_WORKER = ("-m", "smolcluster.worker")


def main(arguments: Sequence[str] | None = None, worker: tuple[str, ...] = _WORKER) -> int:
    """Run one job in this process; the exit code of errors.py. `worker`: what follows the node's python."""
    parser = argparse.ArgumentParser(prog="python -m smolcluster.supervisor", description=__doc__)
    parser.add_argument("node_yaml", type=Path, help="this host's node.yaml")
    parser.add_argument("--claim", default="", help="the claim of the process that started this one")
    parser.add_argument("--log", type=Path, help="the file that takes all output, for a starter that has none")
    parser.add_argument("--task", default="", help="the scheduled task of this very job, deleted when it ends")
    parser.add_argument("--boot", action="store_true", help="started with the machine: serve again, and go on trying")
    given = parser.parse_args(arguments)
    if given.log is not None:
        _write_to(given.log)
    log_to_stdout()
    try:
        if given.boot:
            return _serve_from_boot(given.node_yaml.absolute(), worker)
        return supervise(given.node_yaml.absolute(), given.claim, worker)
    except SmolError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        if given.task:
            _forget_task(given.task)


def supervise(node_file: Path, claim_nonce: str, worker: tuple[str, ...]) -> int:
    """Claim the node (or take the claim over), run the job, and give its exit code. SmolError if it cannot start."""
    config = load_node(node_file)
    plan = load_plan(config)
    ranks_of(config, plan)  # before anything is claimed
    registry = Registry.of_run(config.run_dir, config.node)
    nonce = claim_nonce or registry.claim(config.run_id, config.run_dir).nonce
    claim = registry.take_over(config.run_dir, nonce)
    tie_children_to_me()
    supervisor: Supervisor
    if isinstance(plan, ServePlan) or plan.shape == "STAR":
        supervisor = EachSupervisor(node_file, config, plan, registry, claim, os.environ, worker)
    else:
        supervisor = TogetherSupervisor(node_file, config, plan, registry, claim, os.environ, worker)
    _stop_on_signals(supervisor)
    return supervisor.run()


def _serve_from_boot(node_file: Path, worker: tuple[str, ...]) -> int:
    stopped = Stopped()

    def wait(seconds: float) -> bool:
        # A supervisor that has run took the signals for itself.
        _on_signals(lambda _: stopped.ask())
        return stopped.wait(seconds)

    def attempt() -> int:
        return supervise(node_file, "", worker)

    return serve_from_boot(node_file, attempt, wait)


def _write_to(log: Path) -> None:
    """From now on this process's output, and that of whatever it starts without one of its own, goes to the file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _forget_task(name: str) -> None:
    try:
        schtasks.delete(name)
    except JobError as error:
        print(error, file=sys.stderr)


def _stop_on_signals(supervisor: Supervisor) -> None:
    _on_signals(lambda name: supervisor.request_stop(f"the supervisor was asked to stop ({name})"))


def _on_signals(do: Callable[[str], None]) -> None:
    """Call this from now on, with the signal's name, when somebody wants the process to end."""

    def stop(number: int, _frame: FrameType | None) -> None:
        do(signal.Signals(number).name)

    # SIGBREAK is what Windows sends to a process group.
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, stop)


if __name__ == "__main__":
    sys.exit(main())
