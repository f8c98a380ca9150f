"""Where there can be no lab, its tests skip and say why; in CI that is a failure."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from . import Lab, LabError, allowed
from .outside import Outside


def test_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "need root" in allowed.why_not()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program, path: None if program == "NetworkManager" else program)
    assert allowed.why_not() == "missing here: network-manager (Debian: sudo tests/lab/packages.sh)"


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("", False)])
def test_ci_requires_it(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("CI", value)
    assert allowed.required() is expected


def test_its_memory_is_never_laid_over_the_project() -> None:
    assert allowed.place(("/home/somebody/smolcluster",)) == "/srv"
    assert allowed.place(("/srv/smolcluster",)) == "/media"
    with pytest.raises(RuntimeError, match="needs one of"):
        allowed.place(("/srv/a", "/media/b", "/mnt/c"))


def test_namespaces_that_fail_to_open_leave_nothing(namespaces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed, "place", lambda shown: "/no/such/folder")
    with pytest.raises(LabError, match="could not be made"):
        Outside(())


def test_hosts_have_packages_that_the_machine_has_not(
    namespaces: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "usr/sbin/lab-packaged"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho unpacked\n")
    program.chmod(0o755)
    monkeypatch.setattr(allowed, "LAYER", tmp_path)
    assert allowed.why_no_namespaces({"lab-packaged": "packaged"}) == ""
    with Lab(only=["macbook"]) as lab:
        assert lab.controller.run(["lab-packaged"]).stdout == "unpacked\n"
        # The machine's own are there as before.
        lab.controller.run(["sh", "-c", "id && env"])
    assert shutil.which("lab-packaged") is None
