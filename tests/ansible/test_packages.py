"""What apt put there for setup.yml and teardown.yml takes off again, with the real apt and Ansible's module of it: on a
root of its own, laid over this machine's, which never sees any of it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_lab import ROOT

from tests.lab.allowed import why_no_namespaces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEPENDS = {"smoltest-venv": "smoltest-whl", "smoltest-whl": "", "smoltest-other": "smoltest-whl"}
# Nothing outside the mount namespace changes: all writing goes to a memory that dies with it.
_INSIDE = """\
set -e
own=$1; shift
mount -t tmpfs tmpfs "$own/memory"
cd "$own/memory"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" root
for each in /proc /dev "$@" "$own/shown"; do mkdir -p "root$each"; mount --bind "$each" "root$each"; done
exec chroot root sh "$own/shown/play.sh"
"""
_PLAY = """\
set -e
cd {root}
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/* /var/lib/apt/periodic/*
echo 'deb [trusted=yes] file:{shown} ./' > /etc/apt/sources.list
touch -d '3 days ago' /var/lib/apt/lists
echo 'APT::Sandbox::User "root";' > /etc/apt/apt.conf.d/99test
for other in false true; do
  {python} -m ansible.cli.playbook -i localhost, {shown}/play.yml -e {packages} -e other=$other
  dpkg-query --show --showformat '${{Package}} ${{db:Status-Status}}\\n' 'smoltest-*' > {shown}/left-$other || true
done
"""


def why_not() -> str:
    """Why this cannot be played here; empty where it can."""
    apt = subprocess.run(["/usr/bin/python3", "-c", "import apt"], capture_output=True, check=False).returncode
    needed = {"apt-get": "apt", "dpkg-deb": "dpkg", "unshare": "util-linux"}
    return why_no_namespaces(needed) or ("no python3-apt here" if apt else "")


def repository(folder: Path) -> None:
    """Packages that hold nothing, and their list."""
    listed = []
    for name, needs in DEPENDS.items():
        control = folder / name / "DEBIAN" / "control"
        control.parent.mkdir(parents=True)
        text = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: d\n"
        control.write_text(text + (f"Depends: {needs}\n" if needs else ""))
        deb = folder / f"{name}.deb"
        subprocess.run(["dpkg-deb", "--build", str(folder / name), str(deb)], check=True, capture_output=True)
        hashed = subprocess.run(["sha256sum", str(deb)], check=True, capture_output=True, text=True).stdout.split()[0]
        listed.append(f"{control.read_text()}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {hashed}\n")
    (folder / "Packages").write_text("\n".join(listed))


def role(tasks: str) -> dict[str, object]:
    return {"ansible.builtin.include_role": {"name": "runtime", "tasks_from": tasks}}


def test_what_came_along_goes_again_and_what_others_need_stays(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    shown = tmp_path / "shown"
    (tmp_path / "memory").mkdir()
    repository(shown)
    mine = {
        "smol_root": str(ROOT), "smol_kind": "linux", "smol_workdir": "/nowhere", "runtime_root": "/root/.smoltest",
        "smol_python": "~/.smolcluster/venv/bin/python", "smol_device": "cpu",
        "runtime_looked": {"stdout": '{"debian": true}'},
    }  # fmt: skip
    keep = f"cp /root/.smoltest/packages.json {shown}/noted"
    tasks = [
        # What it looks for after that is nothing of apt's.
        {"block": [role("linux.yml")], "rescue": [{"ansible.builtin.command": keep}]},
        {"ansible.builtin.command": f"dpkg -i {shown}/smoltest-other.deb", "when": "other | bool"},
        role("remove_unix.yml"),
    ]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": mine, "tasks": tasks}
    (shown / "play.yml").write_text(yaml.safe_dump([play]))
    packages = shlex.quote(json.dumps({"runtime_packages": ["smoltest-venv"]}))
    script = _PLAY.format(root=ROOT, shown=shown, python=sys.executable, packages=packages)
    (shown / "play.sh").write_text(script)
    bound = sorted({str(ROOT), sys.prefix, sys.base_prefix})
    environment = {
        **os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_INVENTORY_ENABLED": "host_list",
        "HOME": "/root", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _INSIDE, "inside", str(tmp_path), *bound]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((shown / "noted").read_text()) == ["smoltest-venv", "smoltest-whl"]
    assert not (shown / "left-false").read_text().strip(), done.stdout
    assert (shown / "left-true").read_text().split() == ["smoltest-other", "installed", "smoltest-whl", "installed"]
    assert "localhost  the package smoltest-whl stays: smoltest-other needs it now" in done.stdout
