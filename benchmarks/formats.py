"""What gradients should travel as: classicdp in fp32, bf16 and int8 over links of several speeds, one after the other.

    python -m benchmarks.formats --quick --out formats.json        # as root: it makes network namespaces of its own

Three ranks on shaped cables train the model of benchmarks.links, the formats by turns; a ratio is the median of the
rounds' own ratios. Where a line through them crosses 1 (between two speeds, in logarithms) is the speed below which a
format is faster than fp32: for int8 that is what `wire: auto` has to know (smolcluster/plan/wires.py).

All three ranks share this machine's cores, which rounding then takes from computing. With a core to itself a rank
computes faster, sends as much, and gains from a smaller format at higher speeds too: the crossing is a lower bound.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.entrants import BF16, FP32, INT8
from benchmarks.links import RANKS, SAMPLES, SMALL_VOCABULARY, Race, ratio
from benchmarks.switch import Switch, why_no_namespaces
from benchmarks.targets import conclude, flags_for
from smolcluster.plan.wires import INT8_PAYS_MBPS

SPEEDS_MBPS = (10_000, 5_000, 2_500, 1_000, 500)
FORMATS = (FP32, BF16, INT8)

# By speed of the links in Mbit/s.
Gains = Mapping[int, float]


def pays_below(gains: Gains) -> float:
    """The speed at which a format is as fast as fp32, from its tokens/s over those of fp32: straight between the
    logarithms of the speeds. 0 where it never pays, infinite where it always does."""
    speeds = sorted(gains, reverse=True)
    if gains[speeds[0]] >= 1:
        return math.inf
    for fast, slow in pairwise(speeds):
        if gains[slow] >= 1:
            share = (gains[slow] - 1) / (gains[slow] - gains[fast])
            return math.exp(math.log(slow) + share * (math.log(fast) - math.log(slow)))
    return 0.0


def gains_of(name: str, raced: Mapping[int, Mapping[str, Sequence[float]]]) -> dict[int, float]:
    """Tokens/s of a format over those of fp32."""
    return {mbps: ratio(by_name[name], by_name[FP32]) for mbps, by_name in raced.items()}


def show(console: Console, raced: Mapping[int, Mapping[str, Sequence[float]]], gains: Mapping[str, Gains]) -> None:
    """Print what was measured."""
    table = Table(title=f"{RANKS} ranks, batch {SAMPLES} each: ms a step, and tokens/s over those in fp32; medians")
    table.add_column("")
    for mbps in raced:
        table.add_column(f"{mbps:,} Mbit/s", justify="right")
    table.add_column("pays below", justify="right")
    for name in FORMATS:
        times = {mbps: statistics.median(by_name[name]) * 1e3 for mbps, by_name in raced.items()}
        cells = [f"{took:,.0f}   {gains[name][mbps]:.2f}x" for mbps, took in times.items()]
        table.add_row(name, *cells, "" if name == FP32 else _speed(pays_below(gains[name])))
    console.print(table)
    console.print(f"`wire: auto` takes int8 below {INT8_PAYS_MBPS:,.0f} Mbit/s.")


def _speed(mbps: float) -> str:
    return "any of these" if math.isinf(mbps) else f"{mbps:,.0f} Mbit/s"


def main() -> int:
    options = flags_for("formats", __doc__, "11 rounds", "25 rounds").parse_args()
    if reason := why_no_namespaces():
        print(f"skipped: {reason}", file=sys.stderr)
        return 0
    rounds = 25 if options.full else 11
    with Switch(RANKS) as switch, Race(switch, FORMATS, SMALL_VOCABULARY) as race:
        raced = {mbps: race.seconds(mbps, rounds, FORMATS) for mbps in SPEEDS_MBPS}
    gains = {name: gains_of(name, raced) for name in FORMATS}
    show(Console(width=140), raced, gains)
    figures = {
        "torch": torch.__version__,
        "rounds": rounds,
        "step_s": raced,
        "gains": gains,
        "pays_below_mbps": {name: pays_below(gains[name]) for name in FORMATS if name != FP32},
    }
    return conclude(options.out, figures)


if __name__ == "__main__":
    sys.exit(main())
