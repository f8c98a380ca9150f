"""What machines on paper would gain most from: better wires, smaller formats, one more, a kind fewer. Pure.

Each change alone, by predicting again, as plan/outlook.py does for machines that there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from smolcluster.plan.outlook import WORTH, Gain
from smolcluster.plan.paper import Owned, Scaled, shared_by_speed, speeds_differ, with_machines
from smolcluster.spec.paper import PaperWire
from smolcluster.spec.run import RunSpec

# What is changed, how that is told to `simulate`, and what comes of it.
_Tried = tuple[str, str, Scaled]


def changes(run: RunSpec, owned: Sequence[Owned], wires: Mapping[str, PaperWire]) -> list[Gain]:
    """What is worth it, best first. Nothing where the run cannot be, or there is one machine alone."""
    now = _all(run, owned).forecast
    if now is None or len(now.nodes) < 2:
        return []
    tried = [*_formats(run, owned), *_balanced(run, owned), *_one_more(run, owned), *_without(run, owned)]
    found = [Gain(what, how, now.rate, one.forecast.rate) for what, how, one in tried if one.forecast is not None]
    # Of wires only as good a one as still brings something.
    best = now.rate
    for what, how, one in _wires(run, owned, wires):
        if one.forecast is not None and one.forecast.rate >= WORTH * best:
            best = one.forecast.rate
            found.append(Gain(what, how, now.rate, best))
    return sorted((gain for gain in found if gain.times >= WORTH), key=lambda gain: -gain.after)


def _all(run: RunSpec, owned: Sequence[Owned]) -> Scaled:
    return with_machines(run, owned, sum(one.count for one in owned))


def _formats(run: RunSpec, owned: Sequence[Owned]) -> Iterator[_Tried]:
    if run.strategy == "mp":
        return
    count = sum(one.count for one in owned)
    yield "wire int8", "--override wire=int8", with_machines(run, owned, count, "int8")
    yield "wire bf16", "--override wire=bf16", with_machines(run, owned, count, "bf16")


def _balanced(run: RunSpec, owned: Sequence[Owned]) -> Iterator[_Tried]:
    """Where even shares were asked for."""
    auto = run.model_copy(update={"balance": "auto"})
    if run.balance != "auto" and shared_by_speed(auto) and speeds_differ(owned):
        yield "shares of the batch by speed", "--override balance=auto", _all(auto, owned)


def _one_more(run: RunSpec, owned: Sequence[Owned]) -> Iterator[_Tried]:
    """Of the fastest kind."""
    fastest = min(owned, key=lambda one: one.cost.sample_s)
    more = [replace(one, count=one.count + 1) if one is fastest else one for one in owned]
    yield f"one more {fastest.name}", f"{fastest.count + 1}x {fastest.name} in --nodes", _all(run, more)


def _without(run: RunSpec, owned: Sequence[Owned]) -> Iterator[_Tried]:
    """One kind of machine fewer, whichever."""
    for one in owned if len(owned) > 1 else ():
        what = f"without {one.name}" if one.count == 1 else f"without the {one.count:,} {one.name}"
        yield what, f"no {one.name} in --nodes", _all(run, [each for each in owned if each is not one])


def _wires(run: RunSpec, owned: Sequence[Owned], wires: Mapping[str, PaperWire]) -> Iterator[_Tried]:
    """Those on slower wires on a better one, the nearest first."""
    for name, wire in sorted(wires.items(), key=lambda each: each[1].mbps):
        slower = [one for one in owned if one.wire.mbps < wire.mbps]
        if slower:
            better = [replace(one, wire=wire) if one in slower else one for one in owned]
            who = "" if len(slower) == len(owned) else f" for {', '.join(one.name for one in slower)}"
            how = " ".join(f"--link {one.name}={name}" for one in slower) if who else f"--link {name}"
            yield f"{name}{who}", how, _all(run, better)
