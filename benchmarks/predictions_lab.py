"""What check.yml predicts beside what train.yml and inference.yml do: three unequal hosts of the lab, a slow Wi-Fi.

    python -m benchmarks.predictions_lab --quick --out predictions_lab.json

Each host, with all that runs on it, has a share of a core (a cgroup of the lab's own), and a place on the Wi-Fi of so
many Mbit/s. `check.yml -e profile=true` measures them all at the same time and predicts; then each strategy is trained
as a person would train it, over SSH. A larger model is measured again and, of two steps, served. A ratio is predicted
over measured tokens/s, the median of the rounds' own. Measured are the steps in the middle of a run: the first make
room, the last saves.

As root, on a Linux machine that has nothing else to do.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.doctor.report import Check
from smolcluster.observe.records import Reader
from smolcluster.plan.types import Plan, ServePlan
from smolcluster.runtime.runfolder import RunFolder
from tests.lab import Lab, why_not
from tests.lab.disk import USER
from tests.lab.playing import play
from tests.lab.training import ROOT, inside, inventory_of

# Hosts and their shares of a core; two cores have room for the controller besides.
SHARES = {"mini1": 0.5, "mini2": 0.5, "mini3": 0.3}
MBPS = 150.0
# What a host may use at once, little more than the least that Linux takes: slow all the time, and not fast in bursts.
SLICE_S = 0.0012
EVERY, STEPS, WARM_UP = 6, 40, 3
# A stage's turn takes long beside what a rest gives it: of a share that was not used the kernel lets each processor
# keep a millisecond (min_cfs_rq_runtime).
MODEL = (
    "model.num_layers=6", "model.model_dim=128", "model.num_heads=4", "model.ff_dim=512", "model.max_seq_len=64",
    "model.dropout=0", "data.tokenizer=bpe:512", "training.batch_size=32", "training.grad_accumulation=4",
)  # fmt: skip
# What is served: a stage's token takes a slice at least.
SERVED_MODEL = (
    "model.num_layers=8", "model.model_dim=640", "model.num_heads=10", "model.ff_dim=2560", "model.max_seq_len=64",
    "model.dropout=0", "data.tokenizer=bpe:512", "training.batch_size=1", "training.grad_accumulation=1",
)  # fmt: skip
# Nothing but steps.
PLAIN = ("checkpoint.every_steps=0", "training.eval_steps=100000", "lr_schedule.warmup_iters=2")
# What only one strategy knows lies beside the inventory, as a person's own.
OWN = {
    "classicdp": {"staleness_bound": 0},
    "fsdp": {"staleness_bound": 0, "fsdp_stage": 1},
    "diloco": {"outer_every": EVERY, "outer_warmup": 0},
}
# A slow host's answers are waited for.
PATIENCE = ("ship_lease_s=300", "follow_answer_s=300")
# As check.json calls them, and how each is asked for.
TRAINED = {"classicdp": "classicdp", "fsdp 1": "fsdp", "mp": "mp", "diloco": "diloco"}
# With --full, and not asked for.
STARS = {"edp": "edp", "syncps": "syncps"}
SERVED = "serving, one stream"
FEW, MANY, ANSWERS = 4, 44, 3
READY_S = 900.0
ASK = f"""
import json, sys, time, urllib.request
def post(tokens):
    body = {{"model": name, "prompt": "The", "max_tokens": tokens, "temperature": 0}}
    head = {{"Content-Type": "application/json"}}
    asked = urllib.request.Request(sys.argv[1] + "/completions", json.dumps(body).encode(), head)
    began = time.perf_counter()
    told = json.load(urllib.request.urlopen(asked, timeout=300))
    return time.perf_counter() - began, told["usage"]["completion_tokens"]
name = json.load(urllib.request.urlopen(sys.argv[1] + "/models", timeout=60))["data"][0]["id"]
post({FEW})
print(json.dumps([[post(count) for count in ({FEW}, {MANY})] for _ in range({ANSWERS})]))
"""


class Played:
    """Playbooks on the lab's controller, as a person calls them."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._runs = inside(lab, ROOT / "runs")

    def checked(self, model: Sequence[str]) -> Check:
        """Measure the hosts, all at the same time, and predict."""
        self._play("check.yml", model, "profile=true", "strategy=classicdp")
        return Check.model_validate_json((max((self._runs / "check").iterdir()) / "check.json").read_text())

    def trained(self, strategy: str) -> float:
        """Tokens a second of a run."""
        folder = self._train(MODEL, STEPS, f"strategy={strategy}")
        return rate_of(RunFolder(folder), Plan.model_validate_json((folder / "plan.json").read_text()))

    def served(self) -> tuple[float, dict[str, str]]:
        """Tokens a second of one stream of SERVED_MODEL, and the layers of each host."""
        trained = self._train(SERVED_MODEL, 2, "strategy=single", nodes=min(SHARES))
        model = f"model={ROOT / 'runs' / trained.name / 'model'}"
        folder = self._runs / f"{trained.name}-served"
        with ThreadPoolExecutor(1) as beside:
            # Followed, as trainings are: a host of so little is asked often enough to feel it.
            following = beside.submit(self._play, "inference.yml", (), model, f"run_id={folder.name}")
            try:
                ends = time.monotonic() + READY_S
                while not RunFolder(folder).was_ready.exists():
                    if wait([following], timeout=1.0).done:
                        raise RuntimeError(following.result())
                    if time.monotonic() > ends:
                        raise RuntimeError(f"{folder.name} does not answer after {READY_S:.0f} s")
                plan = ServePlan.model_validate_json((folder / "plan.json").read_text())
                url = f"http://{plan.api.listen[0]}:{plan.api.api_port}/v1"
                host = self._lab.host(plan.ranks[plan.api.rank].node)
                pairs = json.loads(host.run(["python3", "-c", ASK, url], timeout=900).stdout)
            finally:
                self._play("stop.yml", (), nodes="")
            following.result()
        rates = [(many[1] - few[1]) / (many[0] - few[0]) for few, many in pairs]
        layers = {plan.ranks[stage.rank].node: f"{stage.start}:{stage.stop}" for stage in plan.stages}
        return statistics.median(rates), layers

    def _train(self, model: Sequence[str], steps: int, *variables: str, nodes: str = ",".join(SHARES)) -> Path:
        """The folder of the run."""
        told = self._play("train.yml", (*model, f"training.max_steps={steps}"), *variables, nodes=nodes)
        match = re.search(r"^Run (\S+)$", told, re.MULTILINE)
        assert match, told
        return self._runs / match[1]

    def _play(self, playbook: str, run: Sequence[str], *variables: str, nodes: str = ",".join(SHARES)) -> str:
        """What a playbook said; `run`: overrides of what is trained. RuntimeError with all of it where it failed."""
        given = [*variables, *PATIENCE, f"nodes={nodes}"] if nodes else [*variables]
        if run:
            given += ["dataset=pydoc", f"override={','.join((*run, *PLAIN))}"]
        words = [part for each in given for part in ("-e", each)]
        done = play(self._lab, playbook, *words, inventory=inventory_of(self._lab))
        if done.returncode:
            raise RuntimeError(f"{playbook} {' '.join(given)}\n{done.stdout}{done.stderr}")
        return done.stdout


def rate_of(run: RunFolder, plan: Plan) -> float:
    """Tokens a second of all ranks together, from the end of the warm-up to the last step but one. Lines of ranks are
    of the same step, or round, and of the same length.
    """
    reader = Reader()
    # A star's server has applied all that its workers sent.
    ranks = plan.ranks[:1] if plan.shape == "STAR" else plan.ranks
    records = [reader.metrics(run.metrics(rank.node, rank.rank)).steps for rank in ranks]
    stop = min(map(len, records)) - 1
    start = min(WARM_UP, stop - 2)
    if start < 1:
        raise RuntimeError(f"{run.path.name}: too few steps to measure")
    tokens = sum(record.tokens for rank in records for record in rank[start:stop])
    return tokens / (records[0][stop - 1].time - records[0][start - 1].time)


@dataclass(frozen=True)
class Row:
    """Tokens a second, predicted and measured, and the median of the rounds' ratios."""

    predicted: float
    measured: float
    ratio: float


def rows(found: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Row]:
    """The medians."""
    return {
        name: Row(
            statistics.median(said for said, _ in pairs),
            statistics.median(was for _, was in pairs),
            statistics.median(said / was for said, was in pairs),
        )
        for name, pairs in found.items()
    }


def rounds(
    lab: Lab, count: int, trained: Mapping[str, str]
) -> tuple[dict[str, list[tuple[float, float]]], list[dict[str, Any]]]:
    """(predicted, measured) by strategy of each round; what check.yml said, and the layers that were served."""
    played = Played(lab)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*trained, SERVED)}
    told: list[dict[str, Any]] = []

    def note(number: int, name: str, said: float | None, was: float, why_not: str) -> None:
        if said is None:
            raise RuntimeError(f"{name} was not predicted: {why_not}")
        found[name].append((said, was))
        print(f"round {number} of {count}: {name}: {said:,.1f} predicted, {was:,.1f} measured", file=sys.stderr)

    for number in range(1, count + 1):
        check = played.checked(MODEL)
        said = {one.strategy: one for one in check.predictions}
        for label, strategy in trained.items():
            note(number, label, said[label].tokens_per_s, played.trained(strategy), said[label].why_not)
        larger = played.checked(SERVED_MODEL)
        assert larger.serving is not None
        rate, layers = played.served()
        note(number, SERVED, larger.serving.one_stream, rate, larger.serving.why_not)
        checks = [each.model_dump(mode="json", by_alias=True) for each in (check, larger)]
        told.append({"checks": checks, "served": layers})
    return found, told


def hosts(lab: Lab) -> None:
    """What a host may take of the processor and the air; and the inventory of them on the controller."""
    content = json.loads(lab.inventory())
    content["networks"] = {"wifi": content["networks"]["wifi"]}
    for name, share in SHARES.items():
        content["machines"][name]["threads"] = 1
        lab.host(name).cpus(share, SLICE_S / share)
        lab.link("wifi", name).speed(MBPS)
    inventory = inventory_of(lab)
    lab.controller.write(inventory, json.dumps(content), owner=USER)
    for strategy, keys in OWN.items():
        path = f"{Path(inventory).parent}/configs/cluster_config_{strategy}.yaml"
        lab.controller.write(path, json.dumps(keys), owner=USER)


def judge(table: Mapping[str, Row]) -> list[Target]:
    """Within 30 % for those that are asked for."""
    return [
        target
        for name, row in table.items()
        if name not in STARS
        for target in (
            Target.at_least(f"{name}, predicted / measured", [row.ratio], 0.7),
            Target.at_most(f"{name}, predicted / measured", [row.ratio], 1.3),
        )
    ]


def show(console: Console, table: Mapping[str, Row]) -> None:
    """Print the table."""
    shares = ", ".join(f"{share:g}" for share in SHARES.values())
    shown = Table(title=f"hosts with {shares} of a core, {MBPS:g} Mbit/s each; tokens/s")
    for column in ("", "predicted", "measured", "ratio"):
        shown.add_column(column, justify="right" if column else "left")
    for name, row in table.items():
        shown.add_row(name, f"{row.predicted:,.1f}", f"{row.measured:,.1f}", f"{row.ratio:.2f}")
    console.print(shown)


def main() -> int:
    options = flags_for("predictions_lab", __doc__, "1 round", "3 rounds, edp and syncps too").parse_args()
    if reason := why_not():
        print(f"there can be no lab here: {reason}", file=sys.stderr)
        return 1
    with Lab(only=["macbook", *SHARES]) as lab:
        hosts(lab)
        found, told = rounds(lab, 3 if options.full else 1, TRAINED | STARS if options.full else TRAINED)
    table = rows(found)
    targets = judge(table)
    console = Console(width=120)
    show(console, table)
    show_targets(console, targets)
    figures = {
        "shares": SHARES,
        "mbps": MBPS,
        "strategies": {name: asdict(row) for name, row in table.items()},
        "rounds": found,
        "told": told,
    }
    return conclude(options.out, figures, targets)


if __name__ == "__main__":
    sys.exit(main())
