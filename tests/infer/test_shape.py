"""A shape's arithmetic against the models themselves."""

import pytest

from smolcluster.spec.shape import read_shape
from tests.infer.infer_models import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_parameters(models, kind):
    model, folder = models(kind)
    assert read_shape(folder).params == sum(parameter.numel() for parameter in model.parameters())
