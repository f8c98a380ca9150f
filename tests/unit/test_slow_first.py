from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import slow_first


@dataclass(frozen=True)
class Item:
    name: int
    slow: bool
    file: int = 0

    @property
    def path(self) -> Path:
        return Path(f"test_{self.file}.py")

    def get_closest_marker(self, name: str) -> bool:
        return self.slow


def blocks_of(ordered: list[Item], workers: int) -> list[list[Item]]:
    """As worksteal cuts them."""
    begins = [len(ordered) * worker // workers for worker in range(workers)]
    return [ordered[start:end] for start, end in zip(begins, [*begins[1:], len(ordered)], strict=True)]


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("slow", [(), (0, 1, 5, 6, 7, 30, 39), range(40)])
def test_each_process_begins_with_its_part_of_the_slow_ones(workers: int, slow: tuple[int, ...]) -> None:
    items = [Item(number, number in slow, file=number) for number in range(40)]
    ordered = slow_first(items, workers)
    assert sorted(ordered, key=lambda item: item.name) == items, "none is lost, none comes twice"
    assert [item for item in ordered if not item.slow] == [item for item in items if not item.slow]
    for block in blocks_of(ordered, workers):
        count = sum(item.slow for item in block)
        assert len(slow) // workers <= count <= -(-len(slow) // workers)
        assert all(item.slow for item in block[:count])


def test_slow_ones_of_a_file_stay_together() -> None:
    sizes = (2, 5, 3, 4, 1)
    slow = [Item(10 * file + number, True, file) for file, size in enumerate(sizes) for number in range(size)]
    quick = [Item(100 + number, False, file=9) for number in range(45)]
    ordered = slow_first([*slow[:7], *quick, *slow[7:]], 3)
    fronts = [[item for item in block if item.slow] for block in blocks_of(ordered, 3)]
    assert [[item.file for item in front] for front in fronts] == [[1] * 5, [3] * 4 + [4], [2] * 3 + [0] * 2]
    for front in fronts:
        assert front == sorted(front, key=lambda item: ([1, 3, 4, 2, 0].index(item.file), item.name))


def test_one_process_keeps_the_order() -> None:
    items = [Item(0, False), Item(1, True)]
    assert slow_first(items, 1) == items
