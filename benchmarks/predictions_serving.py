"""The serving part of benchmarks.predictions: three stages with shares of a core, one stream and eight, and what the
plan says of them from how fast each decodes while the others do too, and in turn with them.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.quota import PERIOD_S, Quotas
from benchmarks.ranks import LOOPBACK
from benchmarks.serving import GREEDY, START_S, STREAMS, Loader, config_of, prompt, rate_of, rate_of_many
from smolcluster.infer.engine import Engine
from smolcluster.infer.layout import Layout, Place
from smolcluster.infer.request import Limits, Request
from smolcluster.infer.worker import Worker
from smolcluster.models.decodepace import measure_decoding
from smolcluster.plan.decoding import DecodePace
from smolcluster.plan.predict_serving import predict_serving
from smolcluster.plan.stages import Machine, Ranges, split, weight_of
from smolcluster.runtime.process import die_with_parent
from smolcluster.spec.shape import DecoderShape, read_shape
from smolcluster.train.turns import Turns

# Of a core, by stage.
SHARES = (0.3, 0.3, 0.18)
# There and back on loopback, assumed: next to nothing beside what a stage computes here.
RTT_MS, MBPS = 0.3, 8000.0
TOKENS = 24


def measured(rounds: int) -> list[tuple[float, float, float]]:
    """(predicted, measured, ratio) tokens a second of one stream, and of eight."""
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder)
        shape = read_shape(Path(folder))
        machines = [Machine(f"node{rank}", None, share) for rank, share in enumerate(SHARES)]
        ranges = split(weight_of(shape, "fp32", 1024), machines)
        context = multiprocessing.get_context("spawn")
        pipes: list[Connection] = []
        processes = []
        for rank in range(len(SHARES)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_be, args=(rank, folder, ranges, shape, theirs), daemon=True)
            process.start()
            pipes.append(ours)
            processes.append(process)
        try:
            return _compare(rounds, shape, ranges, pipes, [process.pid or 0 for process in processes])
        finally:
            for pipe in pipes:
                pipe.close()
            for process in processes:
                process.join(20)
                if process.is_alive():
                    process.kill()
                    process.join()


def _compare(
    rounds: int, shape: DecoderShape, ranges: Ranges, pipes: list[Connection], pids: list[int]
) -> list[tuple[float, float, float]]:
    names = [f"node{rank}" for rank in range(len(pipes))]
    told: list[list[tuple[float, float]]] = [[], []]
    with Quotas(dict(zip(pids, SHARES, strict=True))):
        for pipe in pipes:
            pipe.send("pace")
        paces: list[DecodePace] = [_answer(pipe) for pipe in pipes]
        said = predict_serving(shape, names, paces, ranges, _links, STREAMS)
        for pipe in pipes:
            pipe.send("serve")
        _answer(pipes[0])
        for _ in range(rounds):
            pipes[0].send("round")
            one, many = _answer(pipes[0])
            told[0].append((said.one, one))
            told[1].append((said.several, many))
        pipes[0].send(None)
    return [
        (
            statistics.median(said for said, _ in pairs),
            statistics.median(was for _, was in pairs),
            statistics.median(said / was for said, was in pairs),
        )
        for pairs in told
    ]


def _links(_src: str, dst: str) -> tuple[float, float]:
    """Mbit/s, and milliseconds there and back: besides, who is told something stands still for a part of each period,
    and in the mean it is told in the middle of that.
    """
    share = SHARES[int(dst.removeprefix("node"))]
    return MBPS, RTT_MS + 1000 * PERIOD_S * (1 - share) ** 2


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(START_S * 3):
        raise RuntimeError("a stage did not answer")
    return pipe.recv()


def make_model(folder: str) -> None:
    """The smallest GPT-2's layers and fewer words, random weights: a stage's token takes several periods of a quota."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=768, n_layer=12, n_head=12, vocab_size=4096, bos_token_id=None, eos_token_id=None)
    GPT2LMHeadModel(config).eval().save_pretrained(folder)


def _pace(rank: int, folder: str, shape: DecoderShape) -> DecodePace:
    """As in a profile: all at the same time, then in turn."""
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK.device
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(SHARES),
        timeout=timedelta(seconds=START_S),
    )  # fmt: skip
    try:
        dist.barrier()
        return measure_decoding(shape, Turns(rank, len(SHARES), lambda: False))
    finally:
        dist.destroy_process_group()


def _be(rank: int, folder: str, ranges: Ranges, shape: DecoderShape, pipe: Connection) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        assert pipe.recv() == "pace"
        pipe.send(_pace(rank, folder, shape))
        assert pipe.recv() == "serve"
        if rank:
            Worker(config_of(rank, folder), Loader(folder)).run()
            return
        places = tuple(Place(rank=number, start=start, stop=stop) for number, (start, stop) in enumerate(ranges))
        layout = Layout(layers=ranges[-1][1], precision="fp32", places=places)
        with Engine(config_of(0, folder), layout, Loader(folder), context=1024, limits=Limits()) as engine:
            engine.start(START_S)
            for _ in engine.submit(Request([one % 4096 for one in prompt()], 4, GREEDY)):
                pass
            pipe.send("ready")
            while pipe.recv() is not None:
                pipe.send((rate_of(engine, TOKENS)[0], rate_of_many(engine, TOKENS)[0]))
    except (EOFError, ConnectionError):  # the parent is gone
        return
