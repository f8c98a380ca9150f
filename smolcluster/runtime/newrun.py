"""What a run's folder holds before anybody starts: plan, secret, key, links. Commands and playbooks make it by this."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from smolcluster.files import make_folder
from smolcluster.runtime.access import only_for_user
from smolcluster.runtime.runfolder import RunFolder, run_at, write_atomic
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.topology import note_topology

SECRET_BYTES = 32
# 256 bits of letters and digits: a key stands in a link, and a double click selects it whole.
KEY_CHARACTERS = 43


def fill_folder(folder: RunFolder, plan_json: str, asks_for_key: bool = False) -> None:
    """Write plan.json, a new secret and, where its API asks for one, a new key. Makes the folder. OSError."""
    make_folder(folder.path)
    only_for_user(folder.path)
    write_atomic(folder.plan, plan_json)
    write_atomic(folder.path / "secret", secrets.token_hex(SECRET_BYTES), mode=0o600)
    if asks_for_key:
        letters = string.ascii_letters + string.digits
        key = "".join(secrets.choice(letters) for _ in range(KEY_CHARACTERS))
        write_atomic(folder.path / "api_key", key, mode=0o600)


def keep_topology(folder: RunFolder, cluster: ClusterSpec, nodes: Sequence[str]) -> None:
    """Write topology.json of the machines that take part. OSError."""
    write_atomic(folder.topology, note_topology(cluster, nodes).model_dump_json(by_alias=True, indent=2) + "\n")


def link_model(folder: RunFolder, model: Path) -> None:
    """So that runs/latest/model is a model still, when one is served. Some systems have no such links."""
    with suppress(OSError):
        folder.model.symlink_to(model)


def point_latest(folder: Path) -> bool:
    """Make runs/latest lead to a run; whether it does. It does not where a folder has that name."""
    latest, fresh = folder.parent / "latest", folder.parent / f".latest-{folder.name}"
    try:
        fresh.symlink_to(folder.name)
    except OSError:  # a file system, or a Windows account, without symbolic links: a file that holds the name
        with suppress(OSError):
            write_atomic(latest, folder.name + "\n")
    else:
        try:
            fresh.replace(latest)
        except OSError:
            fresh.unlink()
    return run_at(latest) == folder.resolve()
