"""Tensors that are not in CPU memory. There is no GPU here: CPU tensors are sent through the buffers instead, and
tensors on a stand-in for CUDA whose streams record what is asked of them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm.backend import flat, staging
from tests.comm.pool import Pool
from tests.comm.test_async import check_handles, check_messages
from tests.comm.test_lists import check_all_to_all, check_objects, check_parts
from tests.comm.test_messages import check_any_source, check_mixture
from tests.comm.test_operations import check_the_rest
from tests.comm.test_reductions import check_reduce

CHECKS = {
    "the rest": (check_the_rest, ()),
    "parts": (check_parts, ("bfloat16",)),
    "all_to_all": (check_all_to_all, ("float32",)),
    "reduce": (check_reduce, ("bfloat16",)),
    "objects": (check_objects, ()),
    "handles": (check_handles, ()),
    "messages": (check_messages, ()),
    "any source": (check_any_source, ()),
    "mixture": (check_mixture, ()),
}


def check_staged(fabric: Any, name: str) -> tuple[int, int]:
    """Run a check with every tensor staged; how many buffers were made, and how many copied back."""
    made = back = 0

    class Counted(staging.Staging):
        def __init__(self, tensor: torch.Tensor, fill: bool) -> None:
            nonlocal made
            made += 1
            super().__init__(tensor, fill)
            assert self.buffer.data_ptr() != tensor.data_ptr() or not tensor.numel()
            if not fill:
                self.buffer.view(torch.uint8).fill_(0xA5) if self.buffer.dim() and self.buffer.numel() else None

        def give_back(self) -> None:
            nonlocal back
            back += 1
            super().give_back()

    before = flat.needs_staging, flat.Staging
    flat.needs_staging, flat.Staging = (lambda _: True), Counted
    try:
        check, args = CHECKS[name]
        check(fabric, *args)
        dist.barrier()
    finally:
        flat.needs_staging, flat.Staging = before
    return made, back


@pytest.mark.parametrize("name", CHECKS)
def test_every_operation_through_buffers(pool: Pool, name: str) -> None:
    counts = pool.run(3, check_staged, name)
    assert all(made >= back for made, back in counts)
    assert sum(back for _, back in counts) > 0


class FakeStream:
    """Records the order of what is asked of a CUDA stream."""

    log: list[str]

    def __init__(self, _: Any = None) -> None:
        self.log.append("stream")

    def wait_stream(self, _: Any) -> None:
        self.log.append("wait for the caller's")

    def record_event(self) -> FakeStream:
        self.log.append("event")
        return self

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def __enter__(self) -> None:
        self.log.append("enter")

    def __exit__(self, *_: Any) -> None:
        self.log.append("exit")


class FakeCudaTensor(torch.Tensor):
    """A CPU tensor that says it lives on cuda:0."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", 0)

    def record_stream(self, _: Any) -> None:
        FakeStream.log.append("keep the memory")


def test_cuda_copies_wait_for_the_callers_stream_and_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeStream.log = []
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *shape, pin_memory, **rest: empty(*shape, **rest) if pin_memory else None
    )
    tensor = torch.arange(4.0).as_subclass(FakeCudaTensor)
    assert staging.needs_staging(tensor)
    staged = staging.Staging(tensor, fill=True)
    assert staged.buffer.tolist() == [0, 1, 2, 3]
    copied = ["stream", "wait for the caller's", "enter", "exit", "keep the memory", "event"]
    assert FakeStream.log == copied
    staged.arrive()
    assert FakeStream.log == [*copied, "synchronize"]
    staged.buffer.mul_(2)
    staged.give_back()
    assert FakeStream.log == [*copied, "synchronize", "enter", "exit", "synchronize"]
    assert tensor.tolist() == [0, 2, 4, 6]


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="on cpu, cuda, mps, not on meta"):
        staging.needs_staging(torch.empty(2, device="meta"))
