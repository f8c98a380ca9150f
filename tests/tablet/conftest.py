from collections.abc import Callable

import pytest
import torch

from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.tablet.remote import TabletStage
from tests.infer import infer_models
from tests.infer.conftest import stages
from tests.tablet.tablets import PATIENT

__all__ = ["stages"]


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


@pytest.fixture(scope="package")
def decoder(models):
    return load_stage(models("llama")[1], LayerRange(1, 3, infer_models.LAYERS))


@pytest.fixture
def stage_of():
    """stage_of(connect, assign, waits, packages) -> a TabletStage that is closed at the end."""
    made = []

    def make(connect, assign, waits=PATIENT, packages=None):
        made.append(TabletStage(connect, assign, waits, packages))
        return made[-1]

    yield make
    for stage in made:
        stage.close()
