"""Every YAML block of the user's guide is a fixture, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import FIXTURES, ROOT

COPY = Path(__file__).parent / "guide_blocks.md"
GUIDE = ROOT.parent / "shared" / "documentation" / "configuration.md"


def blocks(text: str) -> dict[str, str]:
    """File name of the heading above -> the block's text."""
    found: dict[str, str] = {}
    heading = ""
    inside: list[str] | None = None
    for line in text.splitlines(keepends=True):
        if line.startswith("### "):
            heading = line
        if inside is None and line.startswith("```yaml"):
            inside = []
        elif inside is not None and line.startswith("```"):
            name = re.match(r"### (\S+\.yaml)", heading)
            assert name is not None, heading
            assert name[1] not in found
            found[name[1]] = "".join(inside)
            inside = None
        elif inside is not None:
            inside.append(line)
    return found


def test_fixtures_are_the_blocks() -> None:
    copied = blocks(COPY.read_text(encoding="utf-8"))
    assert len(copied) == 9
    assert {path.name for path in FIXTURES.glob("*.yaml")} == set(copied)
    for name, text in copied.items():
        assert (FIXTURES / name).read_text(encoding="utf-8") == text, name


def test_the_copy_is_the_guide() -> None:
    if not GUIDE.exists():
        pytest.skip("the user's guide is not beside this checkout")
    assert blocks(GUIDE.read_text(encoding="utf-8")) == blocks(COPY.read_text(encoding="utf-8"))
