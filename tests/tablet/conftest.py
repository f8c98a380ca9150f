from collections.abc import Callable

import pytest
import torch

from tests.infer import infer_models


@pytest.fixture(scope="package")
def models(tmp_path_factory) -> Callable:
    """models("llama") -> (transformers' model, its folder), made once."""
    torch.set_num_threads(1)
    made: dict = {}

    def model(kind: str):
        if kind not in made:
            made[kind] = infer_models.save(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return model
