"""Four layers on a tablet: what the protocol costs beside bare bytes, and a token's time by who computes.

    python -m benchmarks.tablet --quick --out tablet.json

GPT-2's width, layers 4 to 7, random weights, one token at a time after a short prompt; one thread a process, all on
loopback, by turns. A round trip: a FORWARD and its RESULT over the protocol, with a tablet that computes nothing,
beside a WebSocket that echoes as many bytes. A token: torch in this process, in another rank over a smol link, on the
reference tablet; onnxruntime on a tablet in Python that fetched its file. A ratio is the median of the rounds' own.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import tablets
from benchmarks.ranks import Team
from benchmarks.targets import Target, conclude, flags_for, show_targets
from smolcluster.models.decoder import Decoder, Row
from smolcluster.tablet.door import dial
from smolcluster.tablet.export import export_onnx
from smolcluster.tablet.greeting import Self
from smolcluster.tablet.messages import Assign, Forward, encode
from smolcluster.tablet.reference import assignment
from smolcluster.tablet.remote import TabletStage, Waits

PART, CONTEXT, PROMPT = (4, 8, 12), 256, 16
ME = Self("cluster", tablets.RUN, "benchmark", tablets.KEY)
PATIENT = Waits(connect_s=tablets.START_S, ready_s=tablets.START_S, silence_s=tablets.START_S)
BARE, PROTOCOL = "WebSocket, bare", "protocol, nothing computed"
HERE, LINK = "torch, in this process", "torch, over a smol link"
TORCH, ONNX = "torch, reference tablet", "onnxruntime, tablet"
# Sealing, checking and handing over between reading and computing: what a token pays besides the bytes.
MOST_OF_BARE = 3.0
# What a turn of a contestant gives: seconds of one token.
Turn = Callable[[], float]


def over_tablet(stage: TabletStage, width: int, numbers: count[int], tokens: int) -> float:
    """A session: the prompt, then token after token, which are timed."""
    session = next(numbers)
    stage.forward(session, torch.ones(PROMPT, width), 0)
    token = torch.ones(1, width)
    began = time.perf_counter()
    for position in range(PROMPT, PROMPT + tokens):
        stage.forward(session, token, position)
    took = time.perf_counter() - began
    stage.forget(session)
    return took / tokens


def over_socket(connection: Any, data: bytes, tokens: int) -> float:
    """As many bytes as a token has, there and back."""
    began = time.perf_counter()
    for _ in range(tokens):
        connection.send(data)
        connection.recv(tablets.START_S)
    return (time.perf_counter() - began) / tokens


def here(decoder: Decoder, tokens: int) -> float:
    """No hop at all."""
    cache, width = decoder.new_cache(PROMPT + tokens), decoder.shape.width
    decoder(torch.ones(PROMPT, width), [Row(cache, PROMPT, True)])
    token = torch.ones(1, width)
    began = time.perf_counter()
    for _ in range(tokens):
        decoder(token, [Row(cache, 1, True)])
    return (time.perf_counter() - began) / tokens


def model_in(folder: Path) -> Decoder:
    """GPT-2's shape with few words, saved there; its middle layers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, bos_token_id=None, eos_token_id=None)).save_pretrained(folder)
    return tablets.middle_of(str(folder), PART)


def contestants(stack: ExitStack, tokens: int) -> dict[str, Turn]:
    """All of them, ready."""
    from websockets.sync.client import connect

    room = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    decoder = model_in(room / "model")
    width, numbers = decoder.shape.width, count(1)
    torch_assign = assignment(decoder, "gpt2", CONTEXT)
    exported = export_onnx(decoder, "gpt2", CONTEXT, room / "exports")
    onnx_assign = torch_assign.model_copy(update={"packages": {"onnx": exported.manifest.hash}})

    def stage(
        assign: Assign, make: Callable[..., Any], *arguments: Any, packages: Mapping[str, Path] | None = None
    ) -> Turn:
        where = stack.enter_context(tablets.tablet(make, *arguments))
        made = TabletStage(partial(dial, where, ME), assign, PATIENT, packages)
        stack.callback(made.close)
        made.open()
        return partial(over_tablet, made, width, numbers, tokens)

    layers, stage_hash = torch_assign.layers, torch_assign.packages["torch"]
    port = stack.enter_context(tablets.echo())
    bare = connect(f"ws://127.0.0.1:{port}/", proxy=None, compression=None, ping_interval=None, legacy=True)
    stack.callback(bare.close)
    data = encode(Forward(1, 1, PROMPT, np.ones((1, width), np.float32)))
    setup = partial(tablets.ranks, folder=str(room / "model"), part=PART, prompt=PROMPT, tokens=tokens)
    team = stack.enter_context(Team(2, "smol", setup, keep_memory=True))
    return {
        BARE: partial(over_socket, bare, data, tokens),
        PROTOCOL: stage(torch_assign, tablets.echoing, stage_hash, layers, CONTEXT),
        HERE: partial(here, decoder, tokens),
        LINK: lambda: float(team.do("tokens")[0].value),
        TORCH: stage(torch_assign, tablets.computing, str(room / "model"), PART, CONTEXT),
        ONNX: stage(onnx_assign, tablets.fetching, str(room / "cache"), packages={"onnx": exported.folder}),
    }


def race(turns: Mapping[str, Turn], rounds: int) -> dict[str, list[float]]:
    """Seconds of a token by contestant and round; every other round in the other order, the first to warm up."""
    found: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name in list(turns) if number % 2 == 0 else list(turns)[::-1]:
            took = turns[name]()
            if number:
                found[name].append(took)
        print(f"  round {number} of {rounds}", file=sys.stderr, flush=True)
    return found


def ratio(mine: Sequence[float], other: Sequence[float]) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(one / two for one, two in zip(mine, other, strict=True))


def show(console: Console, found: Mapping[str, Sequence[float]]) -> None:
    """Print what was measured."""
    table = Table(title=f"layers {PART[0]}:{PART[1]} of GPT-2's shape, one token at a time; medians")
    for column in ("", "ms a token", "beside the bare WebSocket", "beside torch in this process"):
        table.add_column(column, justify="right" if column else "left")
    for name, times in found.items():
        beside = BARE if name == PROTOCOL else HERE if name in (LINK, TORCH, ONNX) else ""
        cells = [f"{ratio(times, found[beside]):.2f}x" if beside == base else "" for base in (BARE, HERE)]
        table.add_row(name, f"{statistics.median(times) * 1e3:.3f}", *cells)
    console.print(table)


def main() -> int:
    flags = flags_for("tablet", __doc__, "7 rounds of 50 tokens", "21 rounds of 200 tokens").parse_args()
    torch.set_num_threads(1)
    sys.setswitchinterval(tablets.SWITCH_S)
    rounds, tokens = (21, 200) if flags.full else (7, 50)
    try:
        with ExitStack() as stack, torch.inference_mode():
            found = race(contestants(stack, tokens), rounds)
    except ImportError as error:
        print(f"benchmarks.tablet needs {error.name}: pip install '.[hf,onnx,serve]'", file=sys.stderr)
        return 1
    console = Console(width=110)
    show(console, found)
    protocol = ratio(found[PROTOCOL], found[BARE])
    targets = [Target.at_most("a round trip over the protocol beside the bare WebSocket", [protocol], MOST_OF_BARE)]
    show_targets(console, targets)
    figures = {"torch": torch.__version__, "tokens": tokens, "seconds_a_token": found}
    return conclude(flags.out, figures, targets)


if __name__ == "__main__":
    sys.exit(main())
