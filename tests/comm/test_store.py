"""The store: its table alone, and as c10d's Store across processes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from smolcluster.comm.table import Op, Table, decode_parts, encode_parts
from smolcluster.errors import ProtocolError
from tests.comm.pool import Pool


def ask(table: Table, op: Op, *args: bytes) -> list[list[bytes]]:
    answers: list[list[bytes]] = []
    table.submit(op, args, answers.append)
    return answers


def test_a_table_answers_at_once_or_when_the_key_comes() -> None:
    table = Table()
    late: list[list[bytes]] = []
    table.submit(Op.GET, [b"a", b"b"], late.append)
    ask(table, Op.SET, b"a", b"1")
    assert late == []
    ask(table, Op.SET, b"b", b"2")
    assert late == [[b"1", b"2"]]
    assert ask(table, Op.ADD, b"n", b"5") == [[b"5"]]
    assert ask(table, Op.ADD, b"n", b"-2") == [[b"3"]]
    assert ask(table, Op.CHECK, b"a", b"x") == [[b"0"]]
    assert ask(table, Op.COMPARE_SET, b"new", b"", b"v") == [[b"v"]]
    assert ask(table, Op.COMPARE_SET, b"new", b"wrong", b"w") == [[b"v"]]
    assert ask(table, Op.COMPARE_SET, b"absent", b"old", b"w") == [[b"old"]]
    assert ask(table, Op.DELETE, b"a") == [[b"1"]]
    assert ask(table, Op.DELETE, b"a") == [[b"0"]]
    assert ask(table, Op.APPEND, b"b", b"3") == [[]]
    assert ask(table, Op.GET, b"b") == [[b"23"]]


@pytest.mark.parametrize(("op", "args"), [(Op.SET, [b"k"]), (Op.ADD, [b"k", b"x"]), (Op.ADD, [b"k"]), (Op.DELETE, [])])
def test_requests_that_make_no_sense_are_refused(op: Op, args: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match=f"a {op.name} request it cannot read"):
        Table().submit(op, args, lambda _: None)


@given(st.lists(st.binary(max_size=50)))
def test_parts_read_back(parts: list[bytes]) -> None:
    assert decode_parts(encode_parts(parts)) == parts


@given(st.binary(max_size=60))
def test_no_payload_breaks_the_reader(payload: bytes) -> None:
    try:
        parts = decode_parts(payload)
    except ProtocolError:
        return
    assert encode_parts(parts) == payload


def check_store(fabric: Any) -> int:
    rank, n = fabric.config.rank, fabric.config.world_size
    for level, store in enumerate((fabric.store, dist.PrefixStore("p", fabric.store))):
        store.set(f"from/{rank}", str(rank))
        assert [int(value) for value in store.multi_get([f"from/{r}" for r in range(n)])] == list(range(n))
        store.wait([f"from/{r}" for r in range(n)], timedelta(seconds=10))
        store.barrier("meet", n, timedelta(seconds=10))
        store.add("count", rank + 1)
        store.barrier("meet2", n, timedelta(seconds=10))
        assert int(store.get("count")) == n * (n + 1) // 2
        assert store.check(["count"])
        assert not store.check(["nothing"])
        if rank == 0:
            assert store.compare_set("once", "", "first") == b"first"
            assert store.compare_set("once", "else", "second") == b"first"
            store.append("log", "ab")
            store.append("log", "cd")
            assert store.get("log") == b"abcd"
            store.multi_set(["x", "y"], ["1", "2"])
            assert store.delete_key("x")
            assert not store.delete_key("x")
            assert store.num_keys() > 3
        store.barrier("meet3", n, timedelta(seconds=10))
        assert level or "y" in store.list_keys()
    return fabric.store.num_keys()


@pytest.mark.parametrize("n", [1, 3])
def test_c10ds_store_across_processes(pool: Pool, n: int) -> None:
    assert len(set(pool.run(n, check_store))) <= 2


def check_missing_key(fabric: Any) -> str:
    with pytest.raises(dist.DistStoreError) as caught:
        fabric.store.wait(["never"], timedelta(seconds=0.2))
    with pytest.raises(TimeoutError):
        fabric.store.wait(["never"], timedelta(seconds=0.2))
    dist.barrier()
    return str(caught.value)


def test_waiting_for_a_key_has_a_deadline(pool: Pool) -> None:
    assert pool.run(2, check_missing_key) == ["nobody set never in the store within 0.2 s"] * 2


def test_pairs_are_set_all_or_none() -> None:
    table = Table()
    with pytest.raises(ProtocolError):
        table.submit(Op.MULTI_SET, [b"a", b"1", b"b"], lambda _: None)
    assert ask(table, Op.NUM_KEYS) == [[b"0"]]


def ask_in_vain(fabric: Any) -> int:
    """Requests for keys that never come, from every rank; how many the table still keeps."""
    for _ in range(20):
        with pytest.raises(dist.DistStoreError):
            fabric.store.wait(["never", f"never/{fabric.config.rank}"], timedelta(seconds=0.01))
    fabric.store.barrier("done", fabric.config.world_size, timedelta(seconds=20))
    dist.barrier()
    return fabric._member._star.table.waiting if fabric.config.rank == 0 else 0


def test_requests_that_were_given_up_are_not_kept(pool: Pool) -> None:
    assert pool.run(3, ask_in_vain) == [0, 0, 0]


def too_much(fabric: Any) -> str:
    with pytest.raises(ValueError) as caught:
        fabric.store.set("large", bytes(17 << 20))
    fabric.store.set(f"large/{fabric.config.rank}", bytes(15 << 20))
    assert len(fabric.store.get("large/1")) == 15 << 20
    dist.barrier()  # the run goes on
    return str(caught.value)


def test_a_value_too_large_for_the_store_is_refused_where_it_was_given(pool: Pool) -> None:
    assert all("the store takes at most" in text for text in pool.run(2, too_much))
