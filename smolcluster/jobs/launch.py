"""Starting a supervisor that outlives whoever started it."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smolcluster.jobs import launchd, schtasks, systemd
from smolcluster.jobs.identity import wait_gone
from smolcluster.jobs.nodefile import load_node, load_plan, ranks_of
from smolcluster.jobs.registry import Active, Registry
from smolcluster.jobs.state import earlier_state, read_state, write_state
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.tail import last_lines
from smolcluster.jobs.types import (
    ACTIVE_STATES,
    CONTROL_DEADLINE_S,
    START_DEADLINE_S,
    TAIL_LINES,
    JobError,
    JobMissing,
    JobRefused,
    Launcher,
)
from smolcluster.plan.types import NodeConfig, RankPlan
from smolcluster.runtime.runfolder import JobState, RunFolder

# What `auto` becomes.
Way = Literal["child", "systemd", "launchd", "schtasks"]
_SUPERVISOR = ("-m", "smolcluster.supervisor")
# A supervisor that was claimed for takes over or ends; between two looks at job.json.
_LOOK_UP_S = 0.05
# Windows: subprocess has these names only there.
_DETACHED_PROCESS = 0x00000008
_NEW_GROUP = 0x00000200
_BREAKAWAY = 0x01000000


@dataclass(frozen=True)
class _Launch:
    node_file: Path
    config: NodeConfig
    claim: Active
    command: tuple[str, ...]
    log: Path


def start_job(
    node_file: Path,
    replace: bool = False,
    launcher: Launcher = "auto",
    supervisor: Sequence[str] = _SUPERVISOR,
    deadline_s: float = START_DEADLINE_S,
) -> JobState:
    """Start this host's part of a run and wait until it runs, or has failed: the state says which.

    `supervisor` is what follows this interpreter on the command line. ConfigError for a node.yaml or plan that cannot
    be used and JobRefused while another run is active (`replace` stops that one first): then nothing was started.
    JobError if the supervisor could not be started or said nothing within deadline_s.
    """
    node_file = node_file.absolute()
    config = load_node(node_file)
    ranks = ranks_of(config, load_plan(config))
    registry = Registry.of_run(config.run_dir, config.node)
    claim = _claim(registry, config, replace)
    folder = RunFolder(Path(config.run_dir))
    log = folder.supervisor_log(config.node)
    command = (sys.executable, *supervisor, str(node_file), "--claim", claim.nonce)
    launch = _Launch(node_file, config, claim, command, log)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        _begin_anew(folder, config)
        ended = _start(launch, _choose(launcher, ranks))
        return _await(launch, folder, ended, deadline_s)
    except BaseException:
        # Also on Ctrl-C: a supervisor that has not taken over yet finds no claim and starts nothing. One that has
        # is left to the lease, or to a stop.
        registry.withdraw(claim)
        raise


def _begin_anew(folder: RunFolder, config: NodeConfig) -> None:
    """What an earlier start of this run left is no answer of the new one, which counts on from it."""
    before = earlier_state(folder, config.run_id, config.node)
    if before is None:
        folder.job_state(config.node).unlink(missing_ok=True)
    else:
        write_state(folder, before.model_copy(update={"state": "starting", "lost": False}))


def _claim(registry: Registry, config: NodeConfig, replace: bool) -> Active:
    try:
        return registry.claim(config.run_id, config.run_dir)
    except JobRefused:
        other = registry.active()
        if other is not None and not _is_ending(other, config.node):
            if not replace:
                raise
            stop_job(Path(other.run_dir), config.node, f"replaced by the run {config.run_id}")
    # If somebody else was quicker the refusal stands.
    return registry.claim(config.run_id, config.run_dir)


def _is_ending(other: Active, node: str) -> bool:
    """Whether a run has said its last word and its supervisor is just leaving; waits until it has."""
    try:
        ended = read_state(RunFolder(Path(other.run_dir)), node).state not in ACTIVE_STATES
    except JobMissing:
        return False
    return ended and wait_gone(other.owner, CONTROL_DEADLINE_S)


def _choose(launcher: Launcher, ranks: Sequence[RankPlan]) -> Way:
    if launcher != "auto":
        return launcher
    # The local default needs no unit: its controller is this machine. Not every rank is dialled by another.
    if all(_is_loopback(address) for rank in ranks for address in (*rank.listen, *rank.peers.values())):
        return "child"
    if schtasks.usable():
        return "schtasks"
    # A Mac's runs are children: launchd.py says why.
    return "systemd" if systemd.usable() else "child"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return address == "localhost"


def _start(launch: _Launch, way: Way) -> Callable[[], bool]:
    """Start the supervisor; gives a question: has it ended already?"""
    config, folder = launch.config, Path(launch.config.run_dir)
    name = (config.run_id, config.node, config.generation)
    if way == "systemd":
        systemd.start(systemd.unit_name(*name), launch.log, folder, launch.command)
        return lambda: False
    if way == "launchd":
        plist = RunFolder(folder).node(config.node) / "smolcluster.plist"
        launchd.start(launchd.label(*name), plist, launch.log, folder, launch.command)
        return lambda: False
    if way == "schtasks":
        xml = RunFolder(folder).node(config.node) / "smolcluster-task.xml"
        # We hold the node's claim in this work folder: what was started there before has ended.
        schtasks.forget(sorted(folder.resolve().parent.glob(f"*/nodes/{config.node}/{xml.name}")))
        about = f"smolcluster {config.run_id} on {config.node}"
        # A task's output goes nowhere by itself.
        command = (*launch.command, "--log", str(launch.log))
        schtasks.start(schtasks.task_name(*name), about, xml, folder, command)
        return lambda: False
    child = _spawn(launch)
    # If this process stays (a controller that starts local nodes itself), its child must not stay as a zombie.
    reaper = threading.Thread(target=child.wait, name=f"reap-{config.node}", daemon=True)
    reaper.start()
    return lambda: not reaper.is_alive()


def _spawn(launch: _Launch) -> subprocess.Popen[bytes]:
    """A child in a session of its own: it has no terminal and no pipe that ends with its starter."""

    def popen(flags: int) -> subprocess.Popen[bytes]:
        with launch.log.open("ab") as output:
            return subprocess.Popen(
                list(launch.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A folder that stays: the starter's may be a temporary one.
                cwd=launch.config.run_dir,
                start_new_session=sys.platform != "win32",
                creationflags=flags,
            )

    if sys.platform != "win32":
        return popen(0)
    # Windows' sshd puts a session into a job object that ends with it (schtasks.py). Leaving it may be forbidden.
    # Untested there.
    try:
        return popen(_DETACHED_PROCESS | _NEW_GROUP | _BREAKAWAY)
    except PermissionError:
        return popen(_DETACHED_PROCESS | _NEW_GROUP)


def _await(launch: _Launch, folder: RunFolder, ended: Callable[[], bool], deadline_s: float) -> JobState:
    node = launch.config.node
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while True:
        # In this order: a supervisor that ended wrote its last state before.
        gone = ended()
        try:
            state = read_state(folder, node)
        except JobMissing:
            state = None
        if state is not None and state.state != "starting":
            return state
        if gone:
            raise JobError(f"{node}: the supervisor ended before it had started anything.\n{_said(launch)}")
        if time.monotonic() > end:
            _give_up(launch, folder)
            raise JobError(f"{node}: the supervisor did not start within {deadline_s:g} s.\n{_said(launch)}")
        pause.wait(_LOOK_UP_S)


def _give_up(launch: _Launch, folder: RunFolder) -> None:
    """Nothing may start after we said it did not: withdraw the claim, and stop what took it over after all."""
    if not Registry.of_run(launch.config.run_dir, launch.config.node).withdraw(launch.claim):
        stop_job(folder.path, launch.config.node, reason="it did not start in time")


def _said(launch: _Launch) -> str:
    lines = last_lines(launch.log, TAIL_LINES) or ("(it wrote nothing)",)
    return "\n".join([f"    {launch.log}:", *(f"    | {line}" for line in lines)])
