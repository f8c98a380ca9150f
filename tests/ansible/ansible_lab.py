"""A cluster of a test's own: an inventory, a runs folder, and the playbooks called on them as a person would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# A GPT that takes milliseconds a step; what is tested is the way there and back.
TINY = (
    "model.num_layers=1",
    "model.model_dim=32",
    "model.num_heads=2",
    "model.ff_dim=64",
    "model.max_seq_len=32",
    "training.batch_size=2",
    "training.eval_steps=4",
    "lr_schedule.warmup_iters=2",
    "data.tokenizer=bpe:300",
)
SHORT = (*TINY, "training.max_steps=8")
# As long as a test may need it; if that is killed, what it started ends by itself.
ALONE = (*TINY, "training.max_steps=60000", "training.eval_steps=60000")
# The same on several nodes. Rank 0 takes its time, and the others wait for it: so small a model would keep every core
# busy for as long as the test looks at something else.
LONG = (*ALONE, "faults=[{kind: slow, rank: 0, step: 1, factor: 10}]")


@dataclass
class Outcome:
    """A finished command: its exit code and everything it printed, colours and all warnings included."""

    code: int
    text: str

    @property
    def run_id(self) -> str:
        match = re.search(r"^Run (\S+)$", self.text, re.MULTILINE)
        assert match, self.text
        return match[1]


@dataclass
class Cluster:
    """`inventory` describes the machines; `runs` is the controller's folder of runs."""

    folder: Path
    inventory: Path
    cache: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def command(self, playbook: str, *variables: str, override: Sequence[str] = ()) -> list[str]:
        """The command line of a playbook of the root, or a path; `variables` as after -e, or --limit or --tags
        and its value."""
        caches = [f"run_folder_cache={self.cache}", f"plan_cache={self.cache}"]
        extra = [f"smol_runs={self.runs}", *caches, "follow_every_s=0.5", *variables]
        if override:
            # Ansible cuts key=value at spaces.
            spaced = any(" " in setting for setting in override)
            text = json.dumps({"override": list(override)}) if spaced else f"override={','.join(override)}"
            extra.append(text)
        options: list[str] = []
        for option in ("--limit", "--tags"):
            if option in extra:
                at = extra.index(option)
                options += extra[at : at + 2]
                extra = extra[:at] + extra[at + 2 :]
        flags = [part for each in extra for part in ("-e", each)]
        file = ROOT / f"{playbook}.yml" if "/" not in playbook else playbook
        return [str(BIN / "ansible-playbook"), str(file), "-i", str(self.inventory), *options, *flags]

    def play(self, playbook: str, *variables: str, override: Sequence[str] = (), timeout: float = 300) -> Outcome:
        """Call a playbook and wait for its end."""
        done = subprocess.run(
            self.command(playbook, *variables, override=override),
            **self._surroundings(),  # type: ignore[call-overload]
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)

    def begin(self, playbook: str, *variables: str, override: Sequence[str] = ()) -> Playing:
        """Call a playbook and go on."""
        # A test run in the background ignores Ctrl-C, and so would its children.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(
                self.command(playbook, *variables, override=override),
                **self._surroundings(),  # type: ignore[call-overload]
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        return Playing(process)

    def _surroundings(self) -> dict[str, object]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        here = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(self.folder / "ansible")}
        return {"cwd": self.folder, "env": {**kept, **here, "OMP_NUM_THREADS": "1", **self.env}}

    def processes(self) -> list[psutil.Process]:
        """Every process that works for this cluster's runs: its command line names the folder."""
        return list(running_with(self.folder.name))


class Playing:
    """A playbook that is being played. Its output is read all the time, so that it never waits for its reader."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, pattern: str, timeout: float = 120) -> re.Match[str]:
        """Wait for a line that matches."""
        deadline = time.monotonic() + timeout
        seen = 0
        with self._more:
            while True:
                for line in self.lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self.lines)
                ended = not self._reader.is_alive()
                left = deadline - time.monotonic()
                if left <= 0 or ended:
                    raise AssertionError(f"no line like {pattern!r} in:\n{''.join(self.lines)}")
                self._more.wait(min(left, 0.5))

    def end(self, timeout: float = 300) -> Outcome:
        """Wait for the end."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return Outcome(code, "".join(self.lines))

    def interrupt(self) -> None:
        """Ctrl-C: what a terminal sends to the whole foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.lines.append(line)
                self._more.notify_all()
        with self._more:
            self._more.notify_all()


def running_with(text: str) -> Iterator[psutil.Process]:
    """Processes whose command line holds the text, this one and its parents excepted."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter(["cmdline"]):
        if process.pid not in mine and any(text in part for part in process.info["cmdline"] or ()):
            yield process


def checkpointed(run_folder: Path, seconds: float = 300) -> None:
    """Wait until a run has a checkpoint; `run_folder` is the one of rank 0's machine."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not list(run_folder.glob("checkpoints/step-*.json")):
        assert time.monotonic() < deadline, f"{run_folder} has no checkpoint after {seconds:g} s"
        pause.wait(0.05)


def gone_within(cluster: Cluster, seconds: float) -> float:
    """Wait until nothing of the cluster runs any more; gives how long it took. AssertionError if it takes longer."""
    start = time.monotonic()
    pause = threading.Event()
    while left := cluster.processes():
        elapsed = time.monotonic() - start
        assert elapsed < seconds, f"still there after {elapsed:.1f} s: {[process.cmdline() for process in left]}"
        pause.wait(0.1)
    return time.monotonic() - start
