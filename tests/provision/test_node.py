"""node.py on this machine: what it finds, what it takes in, and what an install that fails leaves."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smolcluster.provision import node
from smolcluster.provision.facts import Found

SCRIPT = Path(node.__file__)
PYTHON = Path(sys.base_prefix, "bin", "python3")


def call(verb: str, order: dict[str, Any], as_file: Path | None = None) -> subprocess.CompletedProcess[str]:
    given = json.dumps(order)
    if as_file is not None:
        as_file.write_text(given)
        given = f"@{as_file}"
    command = [str(PYTHON), "-I", "-", verb, given]
    return subprocess.run(command, input=SCRIPT.read_text(), capture_output=True, text=True, timeout=170, check=False)


def test_it_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a-1-py3-none-any.whl").write_bytes(b"a")
    for as_file in (None, tmp_path / "order.json"):
        done = call("look", {"root": str(tmp_path), "python": str(PYTHON)}, as_file)
        assert done.returncode == 0, done.stderr
        found = Found.model_validate_json(done.stdout)
        assert [Path(one.python) for one in found.interpreters] == [PYTHON.resolve()]
        assert found.interpreters[0].version == sys.version_info[:3]
        assert found.wheels == {"a-1-py3-none-any.whl": hashlib.sha256(b"a").hexdigest()}
        assert (found.root, found.note) == (str(tmp_path), {})


def test_a_python_that_is_none_is_not_offered(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho '{\"version\": [3, 9, 6]}'\n")
    old.chmod(0o755)
    done = call("look", {"root": str(tmp_path), "python": str(old)})
    assert Found.model_validate_json(done.stdout).interpreters == ()
    old.write_text("#!/bin/sh\nexit 1\n")
    assert (
        Found.model_validate_json(call("look", {"root": str(tmp_path), "python": str(old)}).stdout).interpreters == ()
    )


def test_a_note_without_its_environment_is_none(tmp_path: Path) -> None:
    (tmp_path / "runtime.json").write_text('{"fingerprint": "x"}')
    assert not json.loads(call("look", {"root": str(tmp_path)}).stdout)["note"]


@pytest.fixture
def order(tmp_path: Path) -> dict[str, Any]:
    files = {}
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    for name in ("a-1-py3-none-any.whl", "smolcluster-0-py3-none-any.whl"):
        (incoming / name).write_bytes(name.encode())
        files[name] = hashlib.sha256(name.encode()).hexdigest()
    return {
        "root": str(tmp_path), "python": str(PYTHON), "keep_venv": False, "wheel": "smolcluster-0-py3-none-any.whl",
        "files": files, "extras": [], "pins": "", "offline": True, "pip_args": [], "pip_wheel": "", "note": {},
    }  # fmt: skip


def test_what_arrived_broken_is_named_and_sent_again(tmp_path: Path, order: dict[str, Any]) -> None:
    (tmp_path / "incoming" / "a-1-py3-none-any.whl").write_bytes(b"half")
    done = call("install", order)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "did not arrive whole: a-1-py3-none-any.whl; call setup.yml again\n"
    # What was whole is kept, what was not is gone.
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == ["smolcluster-0-py3-none-any.whl"]
    assert not list((tmp_path / "incoming").iterdir())


@pytest.mark.slow
@pytest.mark.core
def test_an_install_that_fails_is_told_in_pips_words_and_leaves_no_note(tmp_path: Path, order: dict[str, Any]) -> None:
    (tmp_path / "runtime.json").write_text("{}")
    done = call("install", order)
    assert done.returncode == 2
    assert done.stderr.startswith("pip ended with 1:\nERROR: ")
    assert "smolcluster-0-py3-none-any.whl" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runtime.json").exists()
