"""A run on this machine without a playbook: its folder, as Ansible lays it out for machines that are elsewhere.

plan.json, secret and every node's node.yaml are put where a supervisor looks for them, and the folder they leave is the
same. Training here is in _train_here.py, serving in _serve_here.py.
"""

from __future__ import annotations

import datetime
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import yaml

from smolcluster.certs.checking import check_node
from smolcluster.certs.places import authority_folder, node_folder
from smolcluster.errors import ConfigError, Problem
from smolcluster.files import hash_of
from smolcluster.jobs.launch import start_job
from smolcluster.jobs.restarts import SupervisorRestarts
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import JobError, JobRefused, PollResult
from smolcluster.plan.render import LEASE_S
from smolcluster.plan.types import NodeConfig, Plan, ServePlan
from smolcluster.runtime.newrun import fill_folder, keep_topology, point_latest
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.runtime.scraping import write_scraping
from smolcluster.spec.cluster import ClusterSpec

# Often enough to renew a lease of 12 s many times, seldom enough to cost nothing.
POLL_EVERY_S = 2.0


@dataclass(frozen=True)
class Run:
    """A run whose folder is laid out: by node, the node.yaml that starts its part."""

    folder: RunFolder
    node_files: dict[str, Path]


def require_local(cluster: ClusterSpec, plan: Plan | ServePlan, only: str, playbook: str) -> None:
    """ConfigError unless every node of the plan is this machine. `only`: what the command does here alone."""
    away = [node for node in nodes_of(plan) if cluster.node(node).connection != "local"]
    if away:
        what = f"{', '.join(away)} is reached over the network, and this command only {only} on this machine"
        fix = f"ansible-playbook {playbook}, with the same -i and settings"
        raise ConfigError([Problem("", 0, "nodes", what, fix)])


def nodes_of(plan: Plan | ServePlan) -> tuple[str, ...]:
    """The plan's machines, in rank order."""
    return tuple(dict.fromkeys(rank.node for rank in plan.ranks))


def workdir_of(cluster: ClusterSpec, plan: Plan | ServePlan) -> Path:
    """Where runs lie: the workdir of the plan's first node."""
    return Path(cluster.node(plan.ranks[0].node).workdir).expanduser().absolute()


def new_folder(workdir: Path, kind: str) -> RunFolder:
    """The folder of a run that begins now. Nothing is made yet."""
    now = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return RunFolder(workdir / f"{now}-{kind}-{secrets.token_hex(2)}")


def lay_out(
    folder: RunFolder,
    plan: Plan | ServePlan,
    data_dir: Path,
    cluster: ClusterSpec,
    own: Callable[[str], dict[str, str | None]],
) -> Run:
    """Write the run's folder. `own`: fields of node.yaml that differ by node. InputError, before anything is written:
    a node without the certificate that its links want.
    """
    if plan.ca:
        newest = hash_of(authority_folder().crl)
        for node in nodes_of(plan):
            check_node(node_folder(node), node, plan.ca, newest)
    fill_folder(folder, plan.to_json(), isinstance(plan, ServePlan) and plan.api.asks_for_key)
    keep_topology(folder, cluster, nodes_of(plan))
    write_scraping(folder, plan)
    files = {}
    for node in nodes_of(plan):
        config = NodeConfig(
            run_id=folder.path.name,
            node=node,
            generation=0,
            run_dir=str(folder.path),
            plan_file=str(folder.plan),
            plan_digest=plan.digest(),
            secret_file=str(folder.path / "secret"),
            data_dir=str(data_dir),
            python=sys.executable,
            lease_s=LEASE_S,
            ranks=tuple(rank.rank for rank in plan.ranks if rank.node == node),
            certificates=str(node_folder(node).path) if plan.ca else None,
        ).model_copy(update=own(node))
        files[node] = folder.node(node) / "node.yaml"
        write_atomic(files[node], yaml.safe_dump(config.model_dump(by_alias=True, mode="json"), sort_keys=False))
    return Run(folder, files)


def start_all(run: Run, latest: bool = True) -> None:
    """Start every node's supervisor; runs/latest then points to the run, unless it is not to.

    Of a run that is refused, as another one is active, nothing stays; of one that fails to start somewhere, no process.
    """
    started: list[str] = []
    try:
        for node, file in run.node_files.items():
            start_job(file)
            started.append(node)
    except BaseException as error:
        for node in started:
            stop_job(run.folder.path, node, "another node's part could not be started")
        if isinstance(error, JobRefused) and not started:
            shutil.rmtree(run.folder.path, ignore_errors=True)
        raise
    if latest:
        point_latest(run.folder.path)


def restarts_of(run: Run, most: int, serves: bool) -> dict[str, SupervisorRestarts]:
    """By node: how often its supervisor is started again, as many times as the run allows restarts."""
    return {node: SupervisorRestarts(most, serves) for node in run.node_files}


def start_lost(run: Run, answers: Sequence[PollResult], restarts: Mapping[str, SupervisorRestarts]) -> bool:
    """Start the supervisors that died without a word, as often as `restarts` allows. Whether there were any."""
    now = time.monotonic()
    dead = [each.job for each in answers if restarts[each.job.node].due(each.job, now)]
    for job in dead:
        print(f"{job.node}  its supervisor died; starting it again", flush=True)
        try:
            start_job(run.node_files[job.node])
        except JobError as error:  # the other nodes still have to be followed
            print(f"{job.node}  {error}", file=sys.stderr, flush=True)
            return False
    return bool(dead)


@contextmanager
def interrupts(asked: threading.Event) -> Iterator[None]:
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
