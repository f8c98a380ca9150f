"""train.yml on a lab's controller: what it printed and left behind, how much went over which cable, what listened.

The hosts share this machine's Python environment and the project, read through an overlay of their own (what they write
stays in the lab): how a machine gets those is setup.yml's business, not the network's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smolcluster.runtime.metricsfile import StepRecord
from smolcluster.runtime.runfolder import RankResult, RunFolder
from tests.steps import read_metrics

from .disk import USER
from .host import Host
from .lab import Lab
from .link import Link
from .listening import Listener, Watch

ROOT = Path(__file__).parents[2]
# The documentation's YAML blocks, word for word.
BLOCKS = ROOT / "tests" / "configs" / "fixtures"
STEPS = 8
# A model that three stages can share, and that two cores train in milliseconds a step.
SMALL = (
    "model.num_layers=3",
    "model.model_dim=64",
    "model.num_heads=2",
    "model.ff_dim=128",
    "model.max_seq_len=32",
    "model.dropout=0",
    "training.eval_steps=4",
    "lr_schedule.warmup_iters=2",
    "data.tokenizer=bpe:300",
    f"training.max_steps={STEPS}",
)
_BIN = Path(sys.executable).parent
# A busy machine's nodes are waited for.
_PATIENCE = ("ship_lease_s=150", "follow_answer_s=150")
# Which of a lab's cables and Wi-Fi links are counted.
Ends = tuple[str, ...]


@dataclass
class Trained:
    """A finished run: what was printed, its folder as this process sees it, bytes by cable (or by a host's place on the
    Wi-Fi), packets that hosts passed on, what listened. `nodes` in the order of ranks."""

    text: str
    folder: Path
    nodes: tuple[str, ...]
    carried: dict[Ends, int]
    forwarded: dict[str, int]
    listeners: dict[str, set[Listener]]

    def results(self) -> list[RankResult]:
        run = RunFolder(self.folder)
        return [
            RankResult.model_validate_json(run.result(node, rank).read_bytes()) for rank, node in enumerate(self.nodes)
        ]

    def steps(self, rank: int = 0) -> tuple[StepRecord, ...]:
        return read_metrics(RunFolder(self.folder).metrics(self.nodes[rank], rank))[0]


def inventory_of(lab: Lab) -> str:
    """Where the lab's inventory lies on its controller."""
    return f"{lab.controller.home}/lab.smol.yml"


def inside(lab: Lab, path: Path) -> Path:
    """A file of the controller as this process sees it."""
    return Path(f"/proc/{lab.controller.pid}/root{path}")


def cables(lab: Lab, network: str) -> list[Link]:
    """The links of a network."""
    return [link for link in lab.links if link.segment.network == network]


def call(lab: Lab, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of the project, called in its folder on the controller by its user."""
    environment = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    full = ["env", "-C", str(ROOT), str(_BIN / command[0]), *command[1:]]
    return lab.controller.run(full, user=USER, check=False, timeout=600, environment=environment)


def train(
    lab: Lab,
    nodes: tuple[str, ...],
    strategy: str,
    *variables: str,
    settings: Sequence[str],
    fails: bool = False,
) -> Trained:
    """train.yml to its end, on those nodes in the order of their ranks; the end is a failure where it `fails`.

    `variables` as after -e.
    """
    links = {tuple(port.host for port in link.ports): link for link in lab.links}
    # What is given last counts.
    given = (f"strategy={strategy}", "dataset=pydoc", *_PATIENCE, *variables, f"override={','.join(settings)}")
    flags = [part for each in given for part in ("-e", each)]
    before = {ends: link.carried_bytes() for ends, link in links.items()}
    forwarded = {name: _forwarded(host) for name, host in lab.hosts.items()}
    with Watch([lab.host(name) for name in nodes]) as watch:
        done = call(lab, "ansible-playbook", "train.yml", "-i", inventory_of(lab), *flags)
    assert done.returncode == (2 if fails else 0), done.stdout + done.stderr
    match = re.search(r"^Run (\S+)$", done.stdout, re.MULTILINE)
    assert match, done.stdout
    return Trained(
        done.stdout,
        inside(lab, ROOT / "runs" / match[1]),
        nodes,
        {ends: link.carried_bytes() - before[ends] for ends, link in links.items()},
        {name: _forwarded(host) - forwarded[name] for name, host in lab.hosts.items()},
        watch.seen,
    )


def _forwarded(host: Host) -> int:
    """IP packets that a host has passed on for others."""
    names, values = (
        line.split() for line in Path(f"/proc/{host.pid}/net/snmp").read_text().splitlines() if line[:4] == "Ip: "
    )
    return int(dict(zip(names, values, strict=True))["ForwDatagrams"])
