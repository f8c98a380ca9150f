"""`reduce`: one rank gets the reduction of everybody's tensor. (N-1) x P over all ranks: there is no less.

Wide numbers go down the chain root+1, root+2, ..., root: each rank folds its own into what comes and passes it on,
frame by frame, so the whole takes little longer than one hop. Narrow ones (float16, bfloat16) of three or more ranks
would be rounded at every hop there; the root takes them from each rank itself, adds in float32 and rounds once: the
same bytes, all of them into the root's wire.
"""

from __future__ import annotations

from torch import Tensor

from smolcluster.comm.backend.flow import Folding, Incoming, Outgoing, Sending
from smolcluster.comm.backend.schedule import Plan, Reduction, Ring, bytes_of

# Frames that a rank of the chain may hold between receiving and passing on.
SLOTS = 4


def chain_to_root(ring: Ring, flat: Tensor, root: int, frame: int, reduction: Reduction, spare: Tensor | None) -> Plan:
    """The root's `flat` becomes the reduction, everybody else's stays. `frame` is in numbers.

    `spare` (see `spare_numbers`) holds what is passed on.
    """
    place = (ring.rank - root - 1) % ring.size
    last = place == ring.size - 1
    item = flat.element_size()
    memory = bytes_of(flat)
    passing = bytes_of(spare) if spare is not None else None
    sends: list[Outgoing] = []
    receives: list[Incoming] = []
    for index, low in enumerate(range(0, flat.numel(), frame)):
        high = min(low + frame, flat.numel())
        if place == 0:
            sends.append(Sending(memory[low * item : high * item], 0))
            continue
        own = target = flat[low:high]
        if not last:
            assert spare is not None
            assert passing is not None
            at = index % SLOTS * frame
            target = spare[at : at + high - low]
            sends.append(Sending(passing[at * item : (at + high - low) * item], index + 1))
        receives.append(
            Folding(
                target,
                own,
                reduction.scratch,
                reduction.scratch_view,
                reduction.fold,
                reduction.finish if last else None,
                0 if last else max(0, index - SLOTS + 1),
            )
        )
    return sends, receives


def spare_numbers(ring: Ring, root: int, frame: int) -> int:
    """How many numbers `chain_to_root` needs as spare memory; 0 at the chain's ends."""
    return 0 if (ring.rank - root - 1) % ring.size in (0, ring.size - 1) else SLOTS * frame
