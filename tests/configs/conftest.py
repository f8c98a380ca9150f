"""Small inventories and configs written for one test, and the report they lead to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smolcluster.errors import ConfigError
from smolcluster.plan.make import make_plan
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve

from .model_folders import GPT2, SMOLLM2, model_folder

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "inventory" / "home.smol.yml"
LOCAL = ROOT / "inventory" / "local.smol.yml"
FIXTURES = Path(__file__).parent / "fixtures"

LAN = """\
schema: 1
name: lan
machines:
  mini1: {}
  pi5: {}
networks:
  lan:
    medium: ethernet
    subnet: 10.0.0.0/24
    private: true
    members: {mini1: 10.0.0.1, pi5: 10.0.0.2}
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Write a file below a folder of the test's own, which is also the current one: messages name it relatively."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return Path(name)

    return write


def report(request: Request) -> str:
    """What a person would read; the request must be refused."""
    with pytest.raises(ConfigError) as refused:
        _resolve_and_plan(request)
    return str(refused.value)


def _resolve_and_plan(request: Request) -> None:
    resolved = resolve(request)
    make_plan(resolved.cluster, resolved.run, resolved.notes, resolved.inputs)


def only_problem(request: Request) -> str:
    """The report's one problem, without the title and the number."""
    title, _, rest = report(request).partition("\n")
    assert title == "1 problem in the configuration; nothing was started.", rest
    return rest.removeprefix("  1. ").replace("\n       fix: ", " | ")


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "gpt2", GPT2)


@pytest.fixture
def smollm2(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "smollm2", SMOLLM2)
