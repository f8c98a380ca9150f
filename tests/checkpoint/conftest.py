from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoint.runs import data_folder
from tests.comm.pool import Pool


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    workers = Pool()
    yield workers
    workers.close()
