from collections.abc import Callable

import pytest

from smolcluster.spec.run import GPTSpec


@pytest.fixture
def gpt_spec() -> Callable[..., GPTSpec]:
    """A small GPT in which every width differs from every other, so that a mixed-up axis shows."""

    def make(**changed: object) -> GPTSpec:
        values = {
            "model_dim": 24, "num_layers": 3, "num_heads": 4, "ff_dim": 40, "dropout": 0.0, "max_seq_len": 17,
            "vocab_size": 101,
        }  # fmt: skip
        return GPTSpec.model_validate(values | changed)

    return make
