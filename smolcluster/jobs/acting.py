"""What the playbooks' module `smolcluster_job` does on a node. Where Ansible runs no Python (Windows) the module's twin
in PowerShell calls `python -m smolcluster job act` instead, with the same options and the same answer.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import smolcluster
from smolcluster.certs.checking import check_node
from smolcluster.certs.places import node_folder
from smolcluster.codehash import code_hash
from smolcluster.errors import InputError
from smolcluster.jobs.launch import start_job
from smolcluster.jobs.poll import list_runs, poll_job
from smolcluster.jobs.served import served_here
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.types import Launcher
from smolcluster.runtime.runfolder import write_atomic
from smolcluster.spec.base import Frozen


class Action(Frozen):
    """The module's options. Which of them a state needs is the module's to ask; folders may start with ~."""

    state: Literal["checked", "started", "stopped", "polled", "listed"]
    workdir: str = ""
    node: str = ""
    node_file: str = ""
    node_config: str = ""
    run_dir: str = ""
    ca: str = ""
    crl: str = ""
    replace: bool = False
    launcher: Launcher = "auto"


def act(action: Action) -> dict[str, Any]:
    """Do what `state` asks; the module's result. SmolError and OSError are the caller's."""
    if action.state in ("checked", "listed"):
        found = jobs_here(action.workdir, action.node) | certificates_here(action)
        if action.state == "checked":
            found |= {"code": code_hash()}
        return {"changed": False, "version": smolcluster.__version__, "python": sys.executable, **found}
    if action.state == "started":
        node_file = Path(action.node_file).expanduser()
        if action.node_config:
            write_atomic(node_file, action.node_config)
        job = start_job(node_file, replace=action.replace, launcher=action.launcher)
        return {"changed": True, "job": _plain(job)}
    run_dir = Path(action.run_dir).expanduser()
    if action.state == "stopped":
        job = stop_job(run_dir, action.node)
        return {"changed": True, "job": _plain(job)}
    answer = poll_job(run_dir, action.node, renew=False)
    served = served_here(run_dir, action.node, answer.serving)
    return {"changed": False, "served": served, **_plain(answer)}


def jobs_here(workdir: str, node: str) -> dict[str, Any]:
    """Every run that the work folder knows of this node; the active ones are marked."""
    folder = Path(workdir).expanduser().absolute()
    entries = [_plain(entry) for entry in list_runs(folder)]
    mine = [entry for entry in entries if entry["job"]["node"] == node]
    return {"workdir": str(folder), "jobs": mine}


def certificates_here(action: Action) -> dict[str, str]:
    """The folder of this node's certificates and why other nodes would refuse them, where there is an authority."""
    if not action.ca:
        return {"certificates": "", "certificate_problem": ""}
    folder = node_folder(action.node)
    try:
        check_node(folder, action.node, action.ca, action.crl)
    except InputError as error:
        told = "\n".join(f"{each.what} ({each.file})\n    fix: {each.fix}" for each in error.problems)
        return {"certificates": str(folder.path), "certificate_problem": told}
    return {"certificates": str(folder.path), "certificate_problem": ""}


def _plain(value: Frozen) -> dict[str, Any]:
    plain: dict[str, Any] = value.model_dump(mode="json", by_alias=True)
    return plain
