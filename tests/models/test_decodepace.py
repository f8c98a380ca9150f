"""How fast a machine computes the layers of a served model: every family's, alone and in turn with others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smolcluster.models import decodepace
from smolcluster.models.decodepace import ROWS, measure_decoding
from smolcluster.plan.predict_serving import decoder_of
from smolcluster.spec.run import GPTSpec

SIZES = {
    "type": "gpt", "model_dim": 32, "num_layers": 3, "num_heads": 4, "ff_dim": 64, "max_seq_len": 16, "dropout": 0.0,
    "vocab_size": 97,
}  # fmt: skip
QWEN = {
    "kind": "qwen3", "kv_heads": 2, "head_dim": 8, "norm_eps": 1e-6, "qkv_bias": False, "out_bias": False,
    "mlp_bias": False, "qk_norm": True, "rope": {"theta": 10000.0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decodepace, "_LEAST_S", (0.0,) * len(ROWS))
    monkeypatch.setattr(decodepace, "_WORDS_S", 0.0)


class Others:
    """All that this machine shares the layers with; it has two thirds of them, which take it 2 s."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def part(self, seconds: float) -> float:
        self.asked.append(seconds)
        return 2 / 3

    def mean_s(self, work: Callable[[], object], least_s: float) -> float:
        work()
        return 2.0


@pytest.mark.parametrize("llama", [None, QWEN])
def test_layers_and_words_are_timed_for_every_number_of_rows(llama: dict[str, object] | None) -> None:
    shape = decoder_of(GPTSpec.model_validate({**SIZES, "llama": llama}))
    pace = measure_decoding(shape)
    assert pace.rows == ROWS
    assert len(pace.layer_s) == len(pace.head_s) == len(ROWS)
    assert min(*pace.layer_s, *pace.head_s) > 0
    assert (pace.layer_params, pace.table_params) == (shape.layer_params, shape.table_params)
    assert (pace.rested, pace.rest(1)) == ((), 1.0)


def test_in_turn_it_computes_its_part_of_the_layers() -> None:
    shape = decoder_of(GPTSpec.model_validate(SIZES))
    others = Others()
    pace = measure_decoding(shape, others)
    assert others.asked == [pace.layer_s[0]]
    # Two of three layers took 2 s.
    assert [rest * busy_s for rest, busy_s in zip(pace.rested, pace.layer_s, strict=True)] == pytest.approx(
        [1.0] * len(ROWS)
    )
    assert pace.rest(1) == pace.rested[0]
