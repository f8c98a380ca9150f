"""`encrypt: always` over loopback: the numbers of the clear, for every way in which ranks talk to each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certs.cluster import Certified
from tests.steps import read_metrics
from tests.train.test_command import ROOT, SMALL, text_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NODES = ("node1", "node2", "node3")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "inventory").mkdir()
    shutil.copy(ROOT / "inventory" / "local.smol.yml", tmp_path / "inventory")
    text_of(tmp_path)
    return tmp_path


def certify(project: Path, *nodes: str) -> Certified:
    """A home with an authority, and certificates where certificates.yml puts them."""
    home = project / "home" / ".smolcluster"
    made = Certified(home)
    for node in nodes:
        made.add(node)
        (home / "certs").mkdir(exist_ok=True)
        shutil.move(home / node, home / "certs" / node)
    return made


def train(project: Path, strategy: str, *settings: str) -> subprocess.CompletedProcess[str]:
    both = ",".join((*SMALL, "training.max_steps=6", "model.num_layers=3", *settings))
    return subprocess.run(
        [sys.executable, "-m", "smolcluster.train", "--strategy", strategy, "--dataset", "book.txt",
         "--override", both],
        cwd=project, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "HOME": str(project / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "110"},
    )  # fmt: skip


def losses(project: Path) -> list[float]:
    return [record.loss for record in read_metrics(project / "runs/latest/nodes/node1/rank-0/metrics.jsonl")[0]]


def bytes_of(project: Path) -> float:
    return json.loads((project / "runs/latest/summary.json").read_text())["wire_bytes_per_step"]


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        # A mesh and a star; the others are of the same links.
        pytest.param("classicdp", ("staleness_bound=0",), marks=pytest.mark.soak, id="classicdp"),
        pytest.param("fsdp", ("fsdp_stage=3", "staleness_bound=0"), id="fsdp3"),
        pytest.param("mp", (), marks=pytest.mark.soak, id="mp"),
        pytest.param("diloco", ("outer_warmup=1", "outer_every=2"), marks=pytest.mark.soak, id="diloco"),
        pytest.param("syncps", ("timeout=300",), id="syncps"),
        pytest.param("classicdp", ("staleness_bound=0", "recovery.elastic=true"), marks=pytest.mark.soak, id="elastic"),
    ],
)
def test_the_same_losses_as_in_the_clear(project: Path, strategy: str, settings: tuple[str, ...]) -> None:
    plain = train(project, strategy, *settings)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    wanted, moved = losses(project), bytes_of(project)
    certify(project, *NODES)
    safe = train(project, strategy, *settings, "encrypt=always")
    assert safe.returncode == 0, safe.stdout + safe.stderr
    plan = json.loads((project / "runs/latest/plan.json").read_text())
    assert all(rank["encrypt"] and all(rank["encrypt"].values()) for rank in plan["ranks"])
    assert len(plan["ca"]) == 64
    if strategy != "diloco":  # its slots go by the clock
        assert losses(project) == wanted
    assert len(losses(project)) == len(wanted)
    if strategy in ("classicdp", "fsdp", "mp"):
        assert bytes_of(project) == pytest.approx(moved, rel=0.01)  # frames are counted, what TLS adds is not
    logs = [path.read_text() for path in (project / "runs/latest").glob("nodes/*/rank-*/log.txt")]
    assert len(logs) == 3
    assert not any("refused" in text for text in logs)


def test_nodes_without_certificates_are_named_before_anything_is_written(project: Path) -> None:
    none = train(project, "classicdp", "encrypt=always")
    assert none.returncode == 2
    assert "always needs certificates, and the cluster has none yet" in none.stderr
    certify(project, "node1", "node2")
    two = train(project, "classicdp", "encrypt=always")
    assert two.returncode == 2
    assert "node3 has no certificate of this cluster yet" in two.stderr
    made = certify(project, "node3")
    (project / "home/.smolcluster/certs/node2/node.key").chmod(0o644)
    readable = train(project, "classicdp", "encrypt=always")
    assert readable.returncode == 2
    assert "node2: its key can be read by others" in readable.stderr
    made.at().revoke("node1")
    revoked = train(project, "classicdp", "encrypt=always")
    assert re.search(r"node1 was revoked on \d{4}-\d\d-\d\d", revoked.stderr)
    assert not (project / "runs").exists()
    # In the clear nobody asks for them.
    assert train(project, "classicdp").returncode == 0
