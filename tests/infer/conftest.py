from collections.abc import Callable, Iterator

import pytest
import torch

from tests.infer import infer_models
from tests.infer.stage_pool import StagePool


@pytest.fixture(scope="package")
def stages() -> Iterator[StagePool]:
    torch.set_num_threads(1)
    pool = StagePool()
    yield pool
    pool.close()


@pytest.fixture(scope="package")
def models(tmp_path_factory) -> Callable:
    """models("llama") -> (transformers' model, its folder), made once."""
    made: dict = {}

    def model(kind: str):
        if kind not in made:
            made[kind] = infer_models.save(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return model
