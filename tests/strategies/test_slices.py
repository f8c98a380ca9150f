"""Flat intervals as boxes, and state that moves between strategies and world sizes by name."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from strategy_jobs import resume, slices_after, train
from strategy_models import model_of
from strategy_pool import Pool

from smolcluster.runtime.slices import Box, Slice, boxes_of, fill, overlap


@pytest.mark.parametrize("shape", [(), (7,), (4, 3), (2, 3, 4), (1, 5), (3, 1, 2)])
def test_boxes_cover_an_interval_exactly_once_in_order(shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    numbers = torch.arange(size).view(shape)
    for start in range(size + 1):
        for stop in range(start, size + 1):
            boxes = list(boxes_of(shape, start, stop))
            whole = Box((0,) * len(shape), shape)
            flat = [n for box in boxes for n in numbers[box.within(whole)].flatten().tolist()]
            assert flat == list(range(start, stop))
            assert len(boxes) <= max(1, 2 * len(shape) - 1)


def test_overlap() -> None:
    assert overlap(Box((0, 0), (2, 3)), Box((1, 2), (5, 5))) == Box((1, 2), (1, 1))
    assert overlap(Box((0, 0), (2, 3)), Box((2, 0), (1, 1))) is None


def cut(value: torch.Tensor, points: list[int]) -> list[Slice]:
    edges = [0, *sorted(points), value.numel()]
    shape = tuple(value.shape)
    whole = Box((0,) * len(shape), shape)
    boxes = [box for a, b in itertools.pairwise(edges) for box in boxes_of(shape, a, b)]
    return [Slice("w", shape, box, value[box.within(whole)]) for box in boxes]


def test_fill_from_another_cut() -> None:
    chance = random.Random(3)
    for _ in range(50):
        source, target = torch.randn(4, 5, 3), torch.zeros(4, 5, 3)
        fill(cut(target, chance.sample(range(60), 3)), cut(source, chance.sample(range(60), 5)))
        assert torch.equal(source, target)


def test_fill_says_what_is_missing() -> None:
    value = torch.zeros(4)
    with pytest.raises(ValueError, match="no values were given for all of w"):
        fill(cut(value, []), cut(value, [2])[:1])
    with pytest.raises(ValueError, match="has shape"):
        fill(cut(value, []), cut(torch.zeros(5), []))


@pytest.mark.parametrize("kind", ["tiny", "chain"])
@pytest.mark.parametrize(("name", "stage"), [("classicdp", 0), ("fsdp", 0), ("fsdp", 1), ("fsdp", 2), ("fsdp", 3)])
def test_state_goes_from_three_ranks_to_one_and_to_two(pool: Pool, name: str, stage: int, kind: str) -> None:
    given = [fields for rank in pool.run("smol", 3, slices_after, name, stage, 5, kind) for fields in rank]
    sizes: dict[str, int] = {}
    for key, _, _, tensor in given:
        sizes[key] = sizes.get(key, 0) + tensor.numel()
    for key, parameter in model_of(kind, 0).named_parameters():
        assert sizes[key] == parameter.numel()
        if parameter.requires_grad:
            assert sizes[f"optim.{key}.exp_avg"] == sizes[f"optim.{key}.exp_avg_sq"] == parameter.numel()
    undisturbed = train(0, 1, "single", 1, (6,), 8, kind)["losses"][5:]
    torch.testing.assert_close(resume(0, 1, "single", 1, (6,), given, 5, 3, kind), undisturbed, rtol=0, atol=1e-5)
    for other in (1, 2, 3):
        for losses in pool.run("smol", 2, resume, "fsdp", other, (4, 2), given, 5, 3, kind):
            torch.testing.assert_close(losses, undisturbed, rtol=0, atol=1e-5)
