"""init_process_group("smol") in ordinary processes: every way to rendezvous, errors, initialising again, leaving."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolcluster.comm import failure_of
from smolcluster.errors import ConfigError, PeerError
from tests.comm.pool import Pool

Place = tuple[int, int]
ALL = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextlib.contextmanager
def variables(**given: str) -> Iterator[None]:
    """Only these of torchrun's and our variables, for a while. In a worker of the pool."""
    names = [name for name in os.environ if name in ALL or name.startswith(("SMOL_", "TORCHELASTIC_"))]
    before = {name: os.environ.pop(name) for name in names}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            del os.environ[name]
        os.environ.update(before)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


def total(group: Any = None) -> float:
    mine = torch.full((70_000,), dist.get_rank() + 1.0)
    dist.all_reduce(mine, group=group)
    return mine[-1].item()


def left_behind() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("smol")]


def work_and_leave() -> tuple[float, str, list[str]]:
    value = total(), dist.get_backend()
    dist.barrier()
    dist.destroy_process_group()
    return *value, left_behind()


def from_environment(place: Place, port: int, backend: str) -> tuple[float, str, list[str]]:
    rank, n = place
    with variables(RANK=str(rank), WORLD_SIZE=str(n), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)):
        dist.init_process_group(backend)
        return work_and_leave()


@pytest.mark.parametrize("backend", ["smol", "cpu:smol", "cpu:smol,cuda:smol"])
def test_env(pool: Pool, backend: str) -> None:
    values = pool.run(3, from_environment, free_port(), backend, bare=True)
    assert values == [(6.0, backend, [])] * 3


def from_method(place: Place, method: str) -> tuple[float, str, list[str]]:
    rank, n = place
    with variables():
        dist.init_process_group("smol", init_method=method, rank=rank, world_size=n)
        return work_and_leave()


def test_tcp(pool: Pool) -> None:
    values = pool.run(3, from_method, f"tcp://127.0.0.1:{free_port()}", bare=True)
    assert values == [(6.0, "smol", [])] * 3


def test_file(pool: Pool, tmp_path: Path) -> None:
    values = pool.run(3, from_method, (tmp_path / "meeting").as_uri(), bare=True)
    assert values == [(6.0, "smol", [])] * 3


def again_and_again(place: Place, path: str) -> list[float]:
    """One store of the caller's own. Before the second round rank 1 alone tries, and fails, to initialise."""
    rank, n = place
    values = []
    with variables():
        store = dist.PrefixStore("job", dist.FileStore(path, n))
        for round_ in range(3):
            if round_ == 1 and rank == 1:
                with pytest.raises(PeerError, match="rank 0 did not come within"):
                    dist.init_process_group("smol", store=store, rank=1, world_size=n, timeout=timedelta(seconds=0.5))
                store.set("rank 1 has failed", "")
            if round_ == 1:
                store.wait(["rank 1 has failed"], timedelta(seconds=30))
            dist.init_process_group("smol", store=store, rank=rank, world_size=n)
            low = dist.new_group([0, 1])
            values.append(total() + (total(low) if rank < 2 else 3.0))
            dist.destroy_process_group()
    return values


def test_initialising_again_also_after_a_failure_of_one_rank(pool: Pool, tmp_path: Path) -> None:
    assert pool.run(3, again_and_again, str(tmp_path / "store"), bare=True) == [[9.0] * 3] * 3


def sub_group_of_gloo(place: Place, path: str) -> tuple[float, float, list[str]]:
    rank, n = place
    with variables():
        dist.init_process_group("gloo", init_method=path, rank=rank, world_size=n)
        ours = dist.new_group([1, 2], backend="smol")
        value = total(ours) if rank else 5.0
        result = value, total()
        dist.destroy_process_group()
        return *result, left_behind()


def test_a_group_of_smol_beside_a_default_group_of_gloo(pool: Pool, tmp_path: Path) -> None:
    assert pool.run(3, sub_group_of_gloo, (tmp_path / "a").as_uri(), bare=True) == [(5.0, 6.0, [])] * 3


def alone_too_long(place: Place, path: str) -> tuple[str, float, list[str]]:
    rank, n = place
    if rank == 2:
        return "", 0.0, []
    started = time.monotonic()
    with variables(), pytest.raises(PeerError) as caught:
        dist.init_process_group("smol", init_method=path, rank=rank, world_size=n, timeout=timedelta(seconds=1.5))
    assert not dist.is_initialized()
    return str(caught.value), time.monotonic() - started, left_behind()


def test_a_rank_that_never_comes_is_named_within_the_timeout(pool: Pool, tmp_path: Path) -> None:
    for text, seconds, left in pool.run(3, alone_too_long, (tmp_path / "a").as_uri(), bare=True)[:2]:
        assert text.startswith("rank 2 did not connect within 1.5 s")
        assert seconds < 15
        assert left == []


def late(place: Place, path: str) -> str:
    """Rank 1 lives and does not take part."""
    rank, n = place
    beside = dist.FileStore(f"{path.removeprefix('file://')}.beside", n)
    with variables():
        dist.init_process_group("smol", init_method=path, rank=rank, world_size=n, timeout=timedelta(seconds=1))
        try:
            if rank == 0:
                total()
            else:
                beside.wait(["rank 0 has given up"], timedelta(seconds=30))
                total()
        except PeerError as error:
            return str(error)
        finally:
            beside.set("rank 0 has given up", "")
            dist.destroy_process_group()
    return "nothing failed"


def test_the_timeout_is_that_of_operations_too(pool: Pool, tmp_path: Path) -> None:
    texts = pool.run(2, late, (tmp_path / "a").as_uri(), bare=True)
    assert texts[0].startswith("rank 1 did not come to all_reduce, operation 1 of group world"), texts


def leaves_in_the_middle(place: Place, path: str) -> str:
    rank, n = place
    with variables():
        dist.init_process_group("smol", init_method=path, rank=rank, world_size=n)
        total()
        if rank == 1:
            dist.destroy_process_group()
            return ""
        try:
            total()
        except PeerError as error:
            return str(failure_of(error))
        finally:
            dist.destroy_process_group()
    return "nothing failed"


def test_a_rank_that_destroys_its_group_too_early_is_named(pool: Pool, tmp_path: Path) -> None:
    texts = pool.run(3, leaves_in_the_middle, (tmp_path / "a").as_uri(), bare=True)
    assert all(text.startswith("rank 1 ") for text in (texts[0], texts[2])), texts


def wrong(place: Place, path: str) -> list[str]:
    rank, n = place
    texts = []
    for given in ({"SMOL_ADDRESS": "192.0.2.7"}, {"SMOL_TLS_CERT": "a.pem"}):
        with variables(**given), pytest.raises(ConfigError) as caught:
            dist.init_process_group("smol", init_method=path, rank=rank, world_size=n)
        texts.append(str(caught.value))
    with variables(RANK=str(rank), WORLD_SIZE=str(n)), pytest.raises(ValueError, match="MASTER_ADDR expected, but not"):
        dist.init_process_group("smol")
    return texts


def test_what_is_wrong_with_the_variables_is_told_by_init_process_group(pool: Pool, tmp_path: Path) -> None:
    (texts,) = pool.run(1, wrong, (tmp_path / "a").as_uri(), bare=True)
    assert "SMOL_ADDRESS: cannot listen on 192.0.2.7:0: 192.0.2.7 is not an address of this machine now." in texts[0]
    assert "fix: set all of SMOL_TLS_CERT, SMOL_TLS_KEY, SMOL_TLS_CA, or none" in texts[1]


def aborts(place: Place, path: str) -> tuple[str, list[str]]:
    rank, n = place
    with variables():
        dist.init_process_group("smol", init_method=path, rank=rank, world_size=n)
        total()
        text = ""
        # An abort ends what is under way too: the others may still be in the operation that rank 1 is done with.
        # In a store of its own: the group's has a prefix that counts, and workers of the pool have made other groups.
        store = dist.FileStore(path.removeprefix("file://") + "-done", n)
        store.set(f"done/{rank}", "1")
        if rank == 1:
            store.wait(["done/0", "done/2"], timedelta(seconds=60))
            dist.group.WORLD.abort()  # type: ignore[union-attr]
        else:
            with pytest.raises(PeerError) as caught:
                total()
            text = str(caught.value)
        dist.destroy_process_group()
        return text, left_behind()


def test_an_abort_is_told_to_the_others(pool: Pool, tmp_path: Path) -> None:
    results = pool.run(3, aborts, (tmp_path / "a").as_uri(), bare=True)
    assert all(left == [] for _, left in results)
    assert all(results[rank][0].startswith("rank 1 ") for rank in (0, 2)), results
