#!/usr/bin/python
"""Ansible module: what a node left of a run as one archive, and back. Pure Python, so the same on every system."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: smolcluster_tree
short_description: Pack and unpack what a node left of a run
description:
  - C(packed) writes logs, metrics and results of one node, and the model where it has one, into an archive.
    Secrets (the control link's token, the run's secret) stay on the node.
  - Checkpoints stay too, unless they are asked for. Their manifests come along.
  - C(unpacked) puts such an archive into a run folder; files are replaced one by one, each in one step.
options:
  state: {type: str, required: true, choices: [packed, unpacked], description: What to do.}
  run_dir: {type: path, required: true, description: The run's folder on this machine.}
  node: {type: str, description: The node whose tree is packed.}
  checkpoints: {type: bool, default: false, description: Whether the files of checkpoints are packed as well.}
  archive: {type: path, description: The archive to unpack.}
author: smolcluster
"""

EXAMPLES = r"""
- smolcluster_tree: {state: packed, run_dir: ~/.smolcluster/runs/run-1, node: pi5}
- smolcluster_tree: {state: unpacked, run_dir: runs/run-1, archive: /tmp/pi5.tar.gz}
"""

RETURN = r"""
archive: {description: The archive that was written., type: str, returned: packed}
files: {description: How many files are in it., type: int, returned: always}
"""

# Of the node itself: the token of its control link, and what only means something there.
_STAYS = frozenset({"control.json", "endpoint.json", "node.yaml"})


def pack(run_dir: Path, node: str, checkpoints: bool = False) -> tuple[Path, int]:
    """Archive nodes/<node>, model/ and the manifests of a run folder. A file that grows is taken as it stands."""
    handle, name = tempfile.mkstemp(prefix=f"smolcluster-{node}-", suffix=".tar.gz")
    count = 0
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
        trees = [run_dir / "nodes" / node, run_dir / "model", run_dir / "checkpoints"]
        shards = run_dir / "nodes" / node / "checkpoints"
        for path in sorted(path for tree in trees for path in tree.rglob("*")):
            if path.is_symlink() or path.name in _STAYS or path.name.startswith("."):
                continue
            if shards in path.parents and not checkpoints:
                continue
            # A run that goes on removes old checkpoints meanwhile: what is gone is not packed.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError), path.open("rb") as source:
                info = archive.gettarinfo(arcname=path.relative_to(run_dir).as_posix(), fileobj=source)
                archive.addfile(info, source)
                count += 1
    return Path(name), count


def unpack(run_dir: Path, archive: Path) -> int:
    """Put an archive's files into a run folder. tarfile's data filter refuses paths and links that lead out of it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".collect-", dir=run_dir))
    count = 0
    try:
        with tarfile.open(archive, "r:gz") as packed:
            packed.extractall(scratch, filter="data")
        for path in sorted(scratch.rglob("*")):
            if path.is_file():
                target = run_dir / path.relative_to(scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
                count += 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return count


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "required": True, "choices": ["packed", "unpacked"]},
            "run_dir": {"type": "path", "required": True},
            "node": {"type": "str"},
            "archive": {"type": "path"},
            "checkpoints": {"type": "bool", "default": False},
        },
        required_if=[("state", "packed", ["node"]), ("state", "unpacked", ["archive"])],
    )
    options: dict[str, Any] = module.params
    run_dir = Path(options["run_dir"])
    try:
        if options["state"] == "packed":
            if not (run_dir / "nodes" / options["node"]).is_dir():
                module.fail_json(msg=f"there is nothing of this run: no {run_dir}/nodes/{options['node']}")
            archive, files = pack(run_dir, options["node"], options["checkpoints"])
            module.exit_json(changed=True, archive=str(archive), files=files)
        module.exit_json(changed=True, files=unpack(run_dir, Path(options["archive"])))
    except (OSError, tarfile.TarError) as error:
        module.fail_json(msg=f"{run_dir}: {error}")


if __name__ == "__main__":
    main()
