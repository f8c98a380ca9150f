from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.comm.pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Workers that live as long as the session; a test that kills one gets a new one next time."""
    made = Pool()
    yield made
    made.close()
