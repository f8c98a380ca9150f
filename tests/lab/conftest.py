"""Fixtures: a lab for the tests of a file, and whether there can be one at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import Lab, required, why_not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of it is the lab's: `-m lab`."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker("lab")


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip, with the reason, where this machine allows no lab; in CI that is a failure."""
    reason = why_not()
    if reason and required():
        pytest.fail(f"the lab is required in CI: {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def lab(namespaces: None) -> Iterator[Lab]:
    """The whole home cluster, bare. The tests of a file share it."""
    with Lab() as running:
        yield running


@pytest.fixture(scope="module")
def minis(namespaces: None) -> Iterator[Lab]:
    """Two minis with a cable between them, and the MacBook."""
    with Lab(only=["macbook", "mini1", "mini2"]) as running:
        yield running
