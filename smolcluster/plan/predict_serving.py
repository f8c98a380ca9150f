"""How fast a model answers whose layers are split over machines: one stream, several, and reading a prompt. Pure.

    a token     all stages one after the other, a hop between each two and one back to the head
    several     as many steps are under way as there are stages, each with its part of the streams: the pace is that of
                the slowest stage, and none is quicker than the way of its own step
    a prompt    pieces of 128 tokens, of which one stream has one under way

A step's way is what stages take that have rested while it was elsewhere. But no stage hands on more than it can do all
the time: one with a share of a core has no more than that, however often it rests.

A hop is its bytes over the link and half a round trip. Choosing a token is a thousandth of all that, and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smolcluster.plan.decoding import DecodePace
from smolcluster.plan.predict import Links
from smolcluster.plan.stages import Ranges
from smolcluster.spec.run import GPTSpec
from smolcluster.spec.shape import DecoderShape

PIECE = 128
STREAMS = 8
_VALUE_BYTES = 4


@dataclass(frozen=True)
class ServingPrediction:
    """Tokens a second of one stream and of `streams` together, prompt tokens a second, milliseconds of all hops of a
    token; `bytes_per_token` over the wires, of one stream.
    """

    one: float
    streams: int
    several: float
    prompt: float
    hops_ms: float
    bytes_per_token: int


def predict_serving(
    shape: DecoderShape, nodes: Sequence[str], paces: Sequence[DecodePace], ranges: Ranges, links: Links,
    streams: int = STREAMS,
) -> ServingPrediction:  # fmt: skip
    """Of stages on those machines, in order."""
    count = len(nodes)

    def stage_s(number: int, rows: float, wanted: float) -> tuple[float, float]:
        """After a rest, and without one."""
        start, stop = ranges[number]
        pace = paces[number]
        took = pace.layers_s(stop - start, shape.layer_params, rows)
        took += pace.words_s(shape.table_params, wanted) if number == count - 1 else 0.0
        return took * (pace.rest(rows) if count > 1 else 1.0), took

    def hops_s(rows: float, wanted: float) -> list[float]:
        if count == 1:
            return []
        sizes = [rows * shape.width] * (count - 1) + [wanted * shape.vocab_size]
        ways = [links(nodes[n], nodes[(n + 1) % count]) for n in range(count)]
        return [
            size * _VALUE_BYTES * 8 / (mbps * 1e6) + rtt_ms / 2000
            for size, (mbps, rtt_ms) in zip(sizes, ways, strict=True)
        ]

    def step_s(rows: float, wanted: float, under_way: int = 1) -> float:
        """From one step's end to the next end of the same streams' step: its way, or until the slowest stage has done
        all that are under way.
        """
        stages = [stage_s(number, rows, wanted) for number in range(count)]
        way_s = sum(rested for rested, _ in stages) + sum(hops_s(rows, wanted))
        return max(way_s, under_way * max(busy for _, busy in stages))

    token_s = step_s(1, 1)
    under_way = min(count, streams)
    rows = streams / under_way
    several = streams / step_s(rows, rows, under_way)
    piece_s = step_s(PIECE, 1)
    sent = (count - 1) * shape.width + shape.vocab_size if count > 1 else 0
    return ServingPrediction(
        one=1 / token_s,
        streams=streams,
        several=max(several, 1 / token_s),
        prompt=PIECE / piece_s,
        hops_ms=sum(hops_s(1, 1)) * 1000,
        bytes_per_token=sent * _VALUE_BYTES,
    )


def decoder_of(model: GPTSpec) -> DecoderShape:
    """The shape of a model that is trained here, as it is when it is served."""
    blocks, heads = model.llama, model.num_heads
    return DecoderShape(
        family="gpt2" if blocks is None else "llama",
        width=model.model_dim,
        layers=model.num_layers,
        heads=heads,
        kv_heads=heads if blocks is None else blocks.kv_heads,
        head_dim=model.model_dim // heads if blocks is None else blocks.head_dim,
        ff_width=model.ff_dim,
        vocab_size=model.vocab_size,
        max_positions=model.num_positions,
        norm_eps=1e-5 if blocks is None else blocks.norm_eps,
        tied=model.tie_embeddings,
        qkv_bias=blocks is None or blocks.qkv_bias,
        out_bias=blocks is None or blocks.out_bias,
        mlp_bias=blocks is None or blocks.mlp_bias,
        qk_norm=blocks is not None and blocks.qk_norm,
        rope=None if blocks is None else blocks.rope,
    )
