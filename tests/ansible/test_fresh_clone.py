"""What a stranger does: clone, `make train`, and the command that its last line proposes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_lab import ROOT, SHORT, running_with

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Ranks say in their logs which package they are made of.
TELL_TALE = """
import sys
if "--rank" in sys.orig_argv:
    print(f"smolcluster is {__file__}", flush=True)
"""


@dataclass
class Clone:
    """A clone of this checkout's HEAD. This test's own environment stands in for the one that make would set up."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MAKE"))}
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        home = str(self.folder.parent / "ansible")
        # PYTHONPATH is before what the environment has installed: the clone's own package runs.
        return {**kept, "PATH": path, "PYTHONPATH": str(self.folder), "ANSIBLE_HOME": home, "OMP_NUM_THREADS": "1"}

    def run(self, *command: str, timeout: float = 600) -> str:
        """Stdout and stderr of a command in the clone that must go well."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def make(self, target: str, arguments: str) -> str:
        """`make target ARGS=arguments` with the environment that is there. Nothing can be installed: PIP fails."""
        venv = Path(sys.prefix)
        return self.run("make", target, f"VENV={venv}", "-o", f"{venv}/.local", "PIP=false", f"ARGS={arguments}")


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    if shutil.which("git") is None or shutil.which("make") is None:
        pytest.skip("git and make are needed")
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode != 0:
        pytest.skip(f"{ROOT} is no git checkout")
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True, timeout=60)
    return Clone(tmp_path / "clone")


@pytest.mark.core
def test_make_train_in_a_fresh_clone(clone: Clone) -> None:
    # Everybody may write here, as on WSL and on shared disks: Ansible finds its settings all the same.
    clone.folder.chmod(clone.folder.stat().st_mode | stat.S_IWOTH)
    package = clone.folder / "smolcluster" / "__init__.py"
    package.write_text(package.read_text() + TELL_TALE)

    said = clone.make("train", f"-e override={','.join(SHORT)}")

    run = (clone.folder / "runs" / "latest").resolve()
    assert run.parent == clone.folder / "runs"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["world_size"], summary["steps"]) == ("completed", 3, 8)
    assert (run / "model" / "model.safetensors").is_file()
    assert {path.suffix for path in (run / "plots").iterdir()} == {".svg", ".png"}
    for rank, name in enumerate(("node1", "node2", "node3")):
        assert f"smolcluster is {package}" in (run / "nodes" / name / f"rank-{rank}" / "log.txt").read_text()

    last = said.strip().splitlines()[-1]
    _, _, proposed = last.partition("try it: ")
    assert proposed.startswith("python -m smolcluster generate runs/latest"), last
    assert "Once upon" in clone.run(*shlex.split(proposed))
    assert not list(running_with(str(clone.folder)))
