"""A run that does what a test wants, behind the dashboard's own endpoints: no folder, no ranks, no clock."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

from smolcluster.chat.backend.refusals import ApiError
from smolcluster.dashboard.answers import (
    EventAnswer,
    EventsAnswer,
    LinkNow,
    LogLine,
    LogsAnswer,
    NodeNow,
    RunAnswer,
    RunLink,
    RunNode,
    RunPredicted,
    RunRank,
    SeriesAnswer,
    SeriesLine,
    ServingNow,
    SlowestAnswer,
    StageNow,
    StateAnswer,
    StepAnswer,
    StopAnswer,
)

BEGAN = 1_790_000_000.0
NODES = ("mini1", "mini2", "pi5")
UNITS = {"loss": "", "tokens_per_s": "tokens/s", "memory_mb": "MB", "bytes_sent": "bytes", "bytes_received": "bytes"}
# Of a step: computing, communicating, waiting for others.
PARTS_MS = {"mini1": (96.0, 31.0, 118.0), "mini2": (101.0, 33.0, 109.0), "pi5": (214.0, 30.0, 2.0)}


@dataclass
class Scripted:
    """Stands in for Reading. A test moves `step`, and says what else is to be seen."""

    step: int = 120
    total: int = 500
    run_id: str = "fsdp-20261129-174500"
    kind: str = "training"
    over: bool = False
    ended: str = "completed"
    problem: str | None = None
    generation: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    throttled: dict[str, float] = field(default_factory=dict)
    slowest: SlowestAnswer | None = None
    happened: list[EventAnswer] = field(default_factory=list)
    said: list[LogLine] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    refuse: str = ""
    serving: ServingNow | None = None
    asked: list[tuple[str, int, int | None]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> RunAnswer:
        """Three machines on two wires; the Pi is behind the first of them."""
        if self.problem is not None:
            return RunAnswer(run_id=self.run_id, kind="unknown", problem=self.problem)
        serving = self.kind == "serving"
        layers = {"mini1": (0, 12), "mini2": (12, 20), "pi5": (20, 24)}
        return RunAnswer(
            run_id=self.run_id,
            kind="serving" if serving else "training",
            strategy="pipeline" if serving else "fsdp",
            model="SmolLM2-135M" if serving else "gpt",
            dataset=None if serving else "wikitext",
            cluster="home",
            transport="smol",
            wire="fp32",
            shape="CHAIN" if serving else "MESH",
            params=12_345_678,
            global_batch=48,
            started=BEGAN,
            can_stop=True,
            nodes=[
                RunNode(name="mini1", kind="macos", ranks=[0], controller=True),
                RunNode(name="mini2", kind="macos", ranks=[1]),
                RunNode(name="pi5", kind="linux", ranks=[2]),
            ],
            ranks=[
                RunRank(
                    rank=rank, node=node, role="stage" if serving else "worker",
                    device="cpu" if node == "pi5" else "mps", layers=layers[node] if serving else None,
                    samples=16, share=1 / 3, memory_mb=190.5, machine_mb=8192, threads=4,
                )
                for rank, node in enumerate(NODES)
            ],
            links=[
                RunLink(src="mini1", dst="mini2", address="10.0.1.2", networks=["thunderbolt"], medium="thunderbolt",
                        speed_mbps=20_000),
                RunLink(src="mini1", dst="pi5", address="10.0.2.5", networks=["pis"], medium="ethernet",
                        speed_mbps=1000, encrypted=True),
                RunLink(src="mini2", dst="pi5", address="10.0.2.5", networks=["thunderbolt", "pis"], medium="ethernet",
                        speed_mbps=1000, gateways=["mini1"], encrypted=True),
            ],
            predicted=RunPredicted(step_ms=231.0, compute_ms=205.0, communication_ms=26.0, tokens_per_s=9800.0),
            settings={"training.batch_size": "48", "training.learning_rate": "0.0003", "model.layers": "6"},
            notes=["the batch is shared evenly: there is no profile"],
        )  # fmt: skip

    def state(self) -> StateAnswer:
        with self._lock:
            nodes = [self._node(name) for name in NODES]
            state = self.ended if self.over else "running"
            word = f"{self.step}.{len(self.said)}.{len(self.happened)}"
            reasons = [f"{node} was lost: {why}" for node, why in self.lost.items()] if self.over else []
            return StateAnswer(
                cursor=f"{word}.{state}.{sorted(self.lost)}.{sorted(self.throttled)}.{self.generation}.{self.serving}",
                time=BEGAN + self.step * 0.245,
                state="running" if self.problem and not self.over else state,
                reason=reasons[0] if reasons and state == "failed" else "",
                over=self.over,
                data=word,
                generation=self.generation,
                step=None if self.kind == "serving" else self.step,
                total_steps=None if self.kind == "serving" else self.total,
                progress=None if self.kind == "serving" else self.step / self.total,
                elapsed_s=self.step * 0.245,
                eta_s=(self.total - self.step) * 0.245,
                loss=None if self.kind == "serving" else loss(self.step),
                val_loss=None if self.kind == "serving" else loss(self.step // 50 * 50) + 0.07,
                tokens_per_s=9300.0,
                slowest=self.slowest,
                nodes=[] if self.problem else nodes,
                links=[] if self.problem else self._links(),
                serving=self.serving,
            )

    def series(self, name, by, node, rank, between, points) -> SeriesAnswer:
        since_step, until_step = between
        with self._lock:
            self.asked.append((name, since_step, until_step))
            by = by or "node"
            every = 50 if name == "val_loss" else 1
            last = self.step if until_step is None else min(self.step, until_step)
            steps = [step for step in range(since_step + 1, last + 1) if step % every == 0]
            steps = steps[:: -(-len(steps) // -points) or -1][::-1]  # the newest is one of them
            each = [None] if by == "run" or name in ("loss", "val_loss") else list(NODES)
            lines = [
                SeriesLine(
                    label=one or "run", node=one, steps=steps, times=[BEGAN + step * 0.245 for step in steps],
                    values=[_value(name, one, step) for step in steps],
                )
                for one in each
                if name not in ("lr", "grad_norm", "cpu_percent") and not self.problem
            ]  # fmt: skip
            return SeriesAnswer(
                name=name,
                unit=UNITS.get(name, "ms"),
                by=by,
                generation=self.generation,
                last_step=max(last, since_step),
                lines=lines,
            )

    def events(self) -> EventsAnswer:
        with self._lock:
            return EventsAnswer(cursor=str(len(self.happened)), events=list(self.happened))

    def logs(self, before, after, node, rank, level, contains, limit) -> LogsAnswer:
        """Cursors are places in the list."""
        loud = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
        with self._lock:
            found = [
                (at, line)
                for at, line in enumerate(self.said)
                if (not node or line.node == node)
                and (not level or line.level is None or loud.index(line.level) >= loud.index(level))
                and contains.lower() in line.text.lower()
            ]
            end = len(self.said)
        if after:
            page = [one for one in found if one[0] >= int(after)][:limit]
            first, rest = int(after), [one for one in found if one[0] > (page[-1][0] if page else end)]
            last = page[-1][0] + 1 if page and rest else end
        else:
            stop = int(before) if before else end
            page = [one for one in found if one[0] < stop][-limit:]
            first, last, rest = (page[0][0] if page else 0), stop, [one for one in found if one[0] >= stop]
        older = bool(found) and found[0][0] < first
        return LogsAnswer(
            before=str(first), after=str(last), older=older, newer=bool(rest), lines=[line for _, line in page]
        )

    def stop(self, confirm: str) -> StopAnswer:
        if confirm != self.run_id or self.refuse:
            raise ApiError(409, self.refuse or "it is another run")
        with self._lock:
            self.stopped.append(confirm)
        return StopAnswer(run_id=self.run_id, nodes=list(NODES))

    # For tests

    def move(self, steps: int = 1, lines: int = 0) -> None:
        """Go on by so many steps, and have each machine say so many lines."""
        with self._lock:
            self.step += steps
        self.say(*(f"step {self.step} of {self.total}, loss {loss(self.step):.4f}" for _ in range(lines)))

    def say(self, *texts: str, node: str | None = None, level: str = "INFO") -> None:
        """Lines of the log, in turn of all machines or of one."""
        with self._lock:
            for text in texts:
                at = len(self.said)
                who = node or NODES[at % 3]
                line = LogLine(
                    id=f"{who}:{at}", time=BEGAN + at * 0.1, node=who, rank=NODES.index(who), level=level, text=text
                )
                self.said.append(line)

    def happen(self, kind: str, node: str, text: str, step: int | None = None) -> None:
        """One more event, now."""
        with self._lock:
            at = self.step if step is None else step
            number = len(self.happened)
            self.happened.append(
                EventAnswer(id=f"e{number}", time=BEGAN + at * 0.245, node=node, kind=kind, step=step, text=text)
            )

    def _node(self, name: str) -> NodeNow:
        lost, heat = self.lost.get(name), self.throttled.get(name)
        compute, communication, waiting = PARTS_MS[name]
        steps = StepAnswer(
            step_ms=sum(PARTS_MS[name]), compute_ms=compute, communication_ms=communication, waiting_ms=waiting,
            data_ms=0.0, bytes_sent=33.1e6, bytes_received=33.1e6, tokens_per_s=3100.0,
        )  # fmt: skip
        slow = self.slowest is not None and self.slowest.node == name
        state = "lost" if lost else self.ended if self.over else "running"
        return NodeNow(
            node=name, state=state, reason=lost or "", heard_s=0.4, step=self.step,
            steps=steps if self.kind == "training" and not lost else None,
            remark="slowest" if slow else "", why=self.slowest.why if slow and self.slowest else "",
            memory_mb=612.0 + 40 * NODES.index(name), temperature_c=heat or (61.0 if name == "pi5" else None),
            throttled=None if name != "pi5" else "throttled" if heat else "", cpu_percent=88.0,
        )  # fmt: skip

    def _links(self) -> list[LinkNow]:
        speeds = {(0, 1): (2140.0, 0.21), (0, 2): (611.0, 0.62), (1, 2): (188.0, 0.94)}
        return [
            LinkNow(src=a, dst=b, src_node=NODES[a], dst_node=NODES[b], mbps=mbps * (1.0 if a < b else 0.92),
                    rtt_ms=rtt, buffered_bytes=0, step=self.step, slow=(min(a, b), max(a, b)) == (1, 2))
            for (x, y), (mbps, rtt) in speeds.items()
            for a, b in ((x, y), (y, x))
            if NODES[a] not in self.lost and NODES[b] not in self.lost
        ]  # fmt: skip


def loss(step: int) -> float:
    return 2.1 + 8.4 * math.exp(-step / 60) + 0.05 * math.sin(step * 1.7)


def _value(name: str, node: str | None, step: int) -> float:
    wave = 1 + 0.04 * math.sin(step * 0.9 + len(node or ""))
    if name == "loss":
        return loss(step)
    if name == "val_loss":
        return loss(step) + 0.07
    place = {"compute_ms": 0, "communication_ms": 1, "waiting_ms": 2}.get(name)
    if place is not None:
        return PARTS_MS[node or "pi5"][place] * wave
    scale = {"tokens_per_s": 3100.0, "bytes_sent": 33.1e6, "bytes_received": 33.1e6, "memory_mb": 640.0,
             "temperature_c": 58.0, "link_mbps": 611.0, "link_rtt_ms": 0.6}.get(name, 0.0)  # fmt: skip
    return scale * wave * (3 if node is None else 1)


def serving_now(active: int = 2, ms: float = 21.0) -> ServingNow:
    """A model in three stages that is being asked."""
    stages = [
        StageNow(rank=rank, node=node, layers=layers, health="serving", ms_per_token=ms * part, sessions=active)
        for rank, (node, layers, part) in enumerate(
            [("mini1", (0, 12), 1.0), ("mini2", (12, 20), 0.7), ("pi5", (20, 24), 1.9)]
        )
    ]  # fmt: skip
    return ServingNow(
        state="ready", active=active, waiting=1, requests=41, failed=1, tokens=9120, tokens_per_s=17.5, stages=stages
    )
