"""A run on this machine without a playbook: its folder, and its ranks in this process or in processes of their own.

What Ansible does for machines that are elsewhere, in a few lines for those that are not: plan.json, secret, data and
node.yaml are put where a supervisor looks for them, and the folder they leave is the same.
"""

from __future__ import annotations

import datetime
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import yaml

from smolcluster.data.prepare import prepare_data
from smolcluster.data.weights import prepare_weights
from smolcluster.errors import ConfigError, Problem
from smolcluster.jobs import poll_job, start_job, stop_job
from smolcluster.jobs.types import ACTIVE_STATES, ASKED_GRACE_S, JobError, PollResult
from smolcluster.observe.progress import Mark, progress_line, slowest, time_left_s
from smolcluster.plan.render import LEASE_S
from smolcluster.plan.types import NodeConfig, Plan
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.spec.request import Resolved

SECRET_BYTES = 32
# Often enough to renew a lease of 12 s many times, seldom enough to cost nothing.
POLL_EVERY_S = 2.0


@dataclass(frozen=True)
class Run:
    """A run whose folder is laid out: by node, the node.yaml that starts its part."""

    folder: RunFolder
    plan: Plan
    node_files: dict[str, Path]


def require_local(resolved: Resolved, plan: Plan) -> None:
    """ConfigError unless every node of the plan is this machine."""
    away = [
        node
        for node in dict.fromkeys(rank.node for rank in plan.ranks)
        if resolved.cluster.node(node).connection != "local"
    ]
    if away:
        what = f"{', '.join(away)} is reached over the network, and this command only trains on this machine"
        fix = f"ansible-playbook train.yml -e strategy={plan.run.strategy}, with the same -i and settings"
        raise ConfigError([Problem("", 0, "nodes", what, fix)])


def lay_out(resolved: Resolved, plan: Plan, resume_from: Path | None = None) -> Run:
    """Prepare the data and write the run's folder in the workdir of its first node; runs/latest then points to it."""
    workdir = Path(resolved.cluster.node(plan.ranks[0].node).workdir).expanduser().absolute()
    cache = workdir.parent / ".cache" / "data"
    data = prepare_data(plan.run, cache, lambda line: print(line, file=sys.stderr), plan.global_batch)
    weights = prepare_weights(plan.run, data, cache, lambda line: print(line, file=sys.stderr))
    now = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder = RunFolder(workdir / f"{now}-{plan.run.strategy}-{secrets.token_hex(2)}")
    write_atomic(folder.plan, plan.to_json())
    secret = folder.path / "secret"
    write_atomic(secret, secrets.token_hex(SECRET_BYTES), mode=0o600)
    files = {}
    for node in dict.fromkeys(rank.node for rank in plan.ranks):
        config = NodeConfig(
            run_id=folder.path.name,
            node=node,
            generation=0,
            run_dir=str(folder.path),
            plan_file=str(folder.plan),
            plan_digest=plan.digest(),
            secret_file=str(secret),
            data_dir=str(data),
            init_dir=str(weights) if weights and node == plan.ranks[0].node else None,
            python=sys.executable,
            lease_s=LEASE_S,
            ranks=tuple(rank.rank for rank in plan.ranks if rank.node == node),
            resume_from=str(resume_from) if resume_from is not None else None,
        )
        files[node] = folder.node(node) / "node.yaml"
        write_atomic(files[node], yaml.safe_dump(config.model_dump(by_alias=True, mode="json"), sort_keys=False))
    _point_latest(folder.path)
    return Run(folder, plan, files)


def run_in_this_process(run: Run) -> int:
    """Train the run's only rank here. Its exit code; Ctrl-C ends it after its step, with the model saved."""
    import torch

    from smolcluster.comm.allocator import keep_freed_memory
    from smolcluster.jobs.nodefile import load_node
    from smolcluster.runtime.process import log_to_stdout
    from smolcluster.worker import run_rank

    [me] = run.plan.ranks
    log_to_stdout(run.folder.log(me.node, me.rank))
    keep_freed_memory()
    torch.set_num_threads(me.threads)
    asked = threading.Event()
    with _interrupts(asked):
        return run_rank(load_node(run.node_files[me.node]), run.plan, me, asked.is_set)


def run_in_processes(run: Run) -> int:
    """Start every node's supervisor, print their progress, renew their leases, until all have ended. An exit code.

    Ctrl-C asks all of them to stop; a second one leaves them to their leases.
    """
    asked = threading.Event()
    pause = threading.Event()
    watches = {node: _Watch(node) for node in run.node_files}
    with _interrupts(asked):
        for file in run.node_files.values():
            start_job(file)
        while True:
            answers = [watch.look(run.folder.path) for watch in watches.values()]
            if not asked.is_set() and _start_again(run, answers):
                continue
            if all(answer.job.state not in ACTIVE_STATES for answer in answers):
                break
            if asked.is_set():
                # All ranks agree to end after the same step, so that the others are done when the first is.
                for node in run.node_files:
                    stop_job(run.folder.path, node, "interrupted", ASKED_GRACE_S)
            pause.wait(POLL_EVERY_S)
    states = {answer.job.state for answer in answers}
    return 3 if "failed" in states else 130 if "stopped" in states else 0


def _start_again(run: Run, answers: list[PollResult]) -> bool:
    """Start the supervisors that died without a word, as often as the run allows restarts. Whether there were any."""
    recovery = run.plan.run.recovery
    over = any(each.job.state in ("failed", "stopped") and not each.job.lost for each in answers)
    if over and not recovery.elastic:
        return False
    dead = [each.job for each in answers if each.job.lost and each.job.restarts < recovery.max_restarts]
    for job in dead:
        print(f"{job.node}  its supervisor died; starting it again", flush=True)
        try:
            start_job(run.node_files[job.node])
        except JobError as error:  # the other nodes still have to be followed
            print(f"{job.node}  {error}", file=sys.stderr, flush=True)
            return False
    return bool(dead)


class _Watch:
    """Follows one node, with a line whenever it has got on."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._start: Mark | None = None
        self._shown = 0

    def look(self, run_dir: Path) -> PollResult:
        """Poll the node, which renews its lease."""
        answer = poll_job(run_dir, self._node)
        record = slowest(answer.progress) if answer.progress else None
        if record is not None and record.step > self._shown:
            now = Mark(record.step, time.monotonic())
            self._start = self._start or now
            self._shown = record.step
            left_s = time_left_s(self._start, now, record.total_steps)
            print(progress_line(self._node, answer.progress, left_s), flush=True)
        return answer


@contextmanager
def _interrupts(asked: threading.Event) -> Iterator[None]:
    """While inside, the first Ctrl-C sets `asked`; the next one is an ordinary KeyboardInterrupt."""

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            signal.default_int_handler(number, frame)
        asked.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _point_latest(folder: Path) -> None:
    latest, fresh = folder.parent / "latest", folder.parent / f".latest-{folder.name}"
    try:
        fresh.symlink_to(folder.name)
    except OSError:  # a file system, or a Windows account, without symbolic links: a file that holds the name
        write_atomic(latest, folder.name + "\n")
        return
    with suppress(OSError):
        fresh.replace(latest)
