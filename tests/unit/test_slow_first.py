from dataclasses import dataclass

import pytest

from tests.conftest import slow_first


@dataclass(frozen=True)
class Item:
    name: int
    slow: bool

    def get_closest_marker(self, name: str) -> bool:
        return self.slow


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("slow", [(), (0, 1, 5, 6, 7, 30, 39), range(40)])
def test_each_process_begins_with_its_part_of_the_slow_ones(workers: int, slow: tuple[int, ...]) -> None:
    items = [Item(number, number in slow) for number in range(40)]
    ordered = slow_first(items, workers)
    assert sorted(ordered, key=lambda item: item.name) == items, "none is lost, none comes twice"
    assert [item for item in ordered if not item.slow] == [item for item in items if not item.slow]
    begins = [len(items) * worker // workers for worker in range(workers)]
    blocks = [ordered[start:end] for start, end in zip(begins, [*begins[1:], len(items)], strict=True)]
    for block in blocks:
        count = sum(item.slow for item in block)
        assert len(slow) // workers <= count <= -(-len(slow) // workers)
        assert all(item.slow for item in block[:count])


def test_one_process_keeps_the_order() -> None:
    items = [Item(0, False), Item(1, True)]
    assert slow_first(items, 1) == items
