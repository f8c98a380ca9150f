"""The sum of sparse tensors (the gradients of `nn.Embedding(sparse=True)`): everybody's entries to everybody.

Where entries fall differs from rank to rank, so there is nothing to fold on the way; gloo does the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smolcluster.comm.backend.arithmetic import addable, fold_of
from smolcluster.comm.backend.collectives import Collectives
from smolcluster.comm.backend.staging import needs_staging


def check_sparse(tensors: Sequence[Tensor], op: str) -> None:
    """ValueError, before anything is sent, for what cannot be summed."""
    for tensor in tensors:
        if tensor.layout is not torch.sparse_coo or op != "SUM" or needs_staging(tensor):
            raise ValueError(f"the backend smol sums sparse COO tensors on the CPU, not {op} of {tensor.layout}")
        fold_of(op, addable(tensor.new_empty(0, layout=torch.strided), op).dtype)


def sum_sparse(ring: Collectives, tensor: Tensor) -> None:
    """`tensor` becomes the coalesced sum over all ranks, in place."""
    mine = tensor.detach().coalesce()
    values = mine.values().contiguous()
    entries = torch.tensor([len(values)])
    counts = torch.empty(ring.ring.size, dtype=torch.int64)
    ring.all_gather(torch.split(counts, 1), entries)
    indices = _all_rows(ring, mine.indices().t().contiguous(), counts)
    total = torch.sparse_coo_tensor(indices.t(), _all_rows(ring, values, counts), mine.shape, check_invariants=True)
    with torch.no_grad():  # not `detach()`: that is another sparse tensor once the number of entries changes
        tensor.copy_(total.coalesce())


def _all_rows(ring: Collectives, rows: Tensor, counts: Tensor) -> Tensor:
    """Everybody's rows one after the other; rank r has counts[r] of them."""
    shape = rows.shape[1:]
    whole = torch.empty(int(counts.sum()), *shape, dtype=rows.dtype)
    parts = [part.reshape(-1) for part in torch.split(whole, counts.tolist())]
    ring.all_gather(parts, rows.reshape(-1))
    return whole
