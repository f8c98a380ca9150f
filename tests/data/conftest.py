from collections.abc import Callable

import pytest

from smolcluster.spec.run import CommSpec, DataSpec, GPTSpec, Participant, RunSpec, ScheduleSpec, TrainingSpec


@pytest.fixture
def make_run() -> Callable[..., RunSpec]:
    """A run that trains a GPT of 32 tokens on `dataset`, two samples a rank, three ranks."""

    def make(dataset: str = "pydoc", path: object = None, tokenizer: str = "bpe:300", seq_len: int = 32, **changed):
        values = {
            "strategy": "fsdp",
            "participants": tuple(Participant(node=f"n{i}", port=0) for i in range(3)),
            "model": GPTSpec(
                model_dim=8, num_layers=1, num_heads=1, ff_dim=8, dropout=0, max_seq_len=seq_len, vocab_size=300
            ),
            "training": TrainingSpec(batch_size=2, epochs=1, learning_rate=1e-3),
            "schedule": ScheduleSpec(warmup_iters=1, min_lr=1e-4),
            "data": DataSpec(dataset=dataset, path=None if path is None else str(path), tokenizer=tokenizer),
            "comm": CommSpec(),
            "seed": 1,
            "project_name": "test",
        }
        return RunSpec.model_validate(values | changed)

    return make
