"""How many steps ranks may be apart, where a run can have that at all.

The shipped files say a bound, which nobody chose: where it does not go with what was chosen it is left out, and a note
says so. A bound that somebody wrote is refused there.
"""

from __future__ import annotations

from smolcluster.errors import Problem
from smolcluster.spec.clusterfile import ClassicdpFile, CommonFile, FsdpFile
from smolcluster.spec.document import display
from smolcluster.spec.layers import Merged
from smolcluster.spec.resumed import Earlier

_KEY = ("staleness_bound",)
STAGE_3 = "stage 3 gathers parameters in forward and again in backward, and under a bound they could be of two versions"
GLOO = "under a bound messages are due at no known time, and what waits for one over gloo hears of no lost rank"


def staleness_of(file: CommonFile, origin: Merged, earlier: Earlier | None) -> tuple[int, list[str], list[Problem]]:
    """The run's bound, with notes and problems."""
    if not isinstance(file, ClassicdpFile) or not file.staleness_bound:
        return 0, [], []
    bound = file.staleness_bound
    against = []
    if isinstance(file, FsdpFile) and file.fsdp_stage == 3:
        against.append((STAGE_3, "use staleness_bound: 0, or fsdp_stage 0 to 2"))
    if file.transport == "gloo":
        against.append((GLOO, "use staleness_bound: 0, or transport: smol"))
    if not against:
        return bound, [], []
    source = origin.source(_KEY)
    inherited = earlier is not None and source is not None and source.file == display(earlier.file)
    if origin.height(_KEY) > 0 and not inherited:
        return bound, [], [origin.problem(_KEY, f"{bound} cannot be had: {why}", fix) for why, fix in against]
    return 0, [origin.note(_KEY, bound, "0", against[0][0])], []
