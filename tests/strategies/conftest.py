from collections.abc import Iterator

import pytest
from strategy_pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    workers = Pool(4)
    yield workers
    workers.close()
