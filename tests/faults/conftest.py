from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.train_folders import data_folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))
