"""Few rows with a tall matrix: both ways give the same, and the faster one is taken."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from smolcluster.models import dense as module
from smolcluster.models.dense import dense

FEW = frozenset(range(1, 6))


@pytest.mark.parametrize("turned", [frozenset(), frozenset({2}), FEW])
@pytest.mark.parametrize("bias", [True, False])
def test_either_way_it_is_the_same(monkeypatch: pytest.MonkeyPatch, turned: frozenset[int], bias: bool) -> None:
    monkeypatch.setattr(module, "rows_turned", lambda: turned)
    weight, shift = torch.randn(96, 48), torch.randn(96) if bias else None
    layer = dense(weight, shift, "fp32")
    for rows in range(1, 8):
        x = torch.randn(rows, 48)
        torch.testing.assert_close(layer(x), functional.linear(x, weight, shift), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "shape"), [("bf16", (96, 48)), ("fp32", (48, 96)), ("int8", (96, 48))])
def test_others_are_not_tried(monkeypatch: pytest.MonkeyPatch, precision: str, shape: tuple[int, int]) -> None:
    def tried() -> frozenset[int]:
        raise AssertionError

    monkeypatch.setattr(module, "rows_turned", tried)
    dense(torch.randn(shape), None, precision)  # type: ignore[arg-type]


@pytest.mark.parametrize(("share", "pays"), [(2.0, False), (1.0, False), (0.95, False), (0.8, True)])
def test_it_has_to_be_worth_it(monkeypatch: pytest.MonkeyPatch, share: float, pays: bool) -> None:
    """By the best of several: the first calls are the slowest here."""
    now, calls = 0.0, {"plain": 0, "turned": 0}

    def way(name: str, takes: float) -> torch.Tensor:
        nonlocal now
        calls[name] += 1
        now += takes if calls[name] > 2 else 50.0 / takes
        return torch.zeros(1)

    monkeypatch.setattr("smolcluster.models.dense.time.perf_counter", lambda: now)
    assert module._pays(lambda: way("plain", 1.0), lambda: way("turned", share)) is pays
    assert calls["plain"] == calls["turned"] > 2


def test_what_is_tried_is_tried_once() -> None:
    assert module.rows_turned() <= FEW
    assert module.rows_turned() is module.rows_turned()
