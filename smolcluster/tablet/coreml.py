"""A stage as a Core ML program of iOS 18, built operation by operation with coremltools' builder; nothing is traced.

    inputs   hidden (1, T, width) float16 · positions (T,) int32, of the tokens: those after what the cache holds
    states   keys, values (layers, kv_heads, context, head_dim) float16: one MLState is one session
    output   out (1, T, width) float16, or (1, 1, vocabulary)

T is one of an enumerated few lengths, which the Neural Engine takes; a longer or odd number of tokens goes in several
pieces. The cache has its full length always, and the mask hides what no token has written yet: shapes depend on nothing
but T. coremltools runs on macOS and Linux; only macOS can predict.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from smolcluster.errors import InputError, Problem
from smolcluster.models.decoder import Decoder
from smolcluster.tablet.blocks import UNSEEN, Array, Value, emit

CoreMLPrecision = Literal["fp16", "int8", "int4"]
# Weights that share one scale, in int4: a whole row's would lose too much.
INT4_BLOCK = 32
INSTALL = "pip install 'smolcluster[coreml]' on a Mac, or on Linux with an x86-64 processor"
# A row's largest value is divided out before it is squared, but nothing below this is made larger.
_LEAST = 1 / 16


def coremltools() -> Any:
    """The package. InputError with what to install where there is none."""
    with quiet():
        try:
            import coremltools
        except ImportError as error:
            what = f"making a Core ML package needs {error.name}, which is not installed here"
            raise InputError([Problem("", 0, "export-coreml", what, INSTALL)]) from error
    return coremltools


def save_coreml(
    decoder: Decoder, file: Path, context: int, lengths: Sequence[int], precision: CoreMLPrecision = "fp16"
) -> None:
    """Write the program to the folder `file`, which ends in .mlpackage and is not there yet.

    `context`: positions in the cache; `lengths`: the T that it takes. Quantised weights are symmetric: int8 with a
    scale per output channel, int4 with one per INT4_BLOCK values where rows are multiples of that, else per channel.
    """
    ct = coremltools()
    with quiet():
        model = _convert(ct, decoder, context, lengths)
        if precision != "fp16":
            unrounded = model.package_path
            model = _quantised(ct, model, decoder, precision)
            shutil.rmtree(unrounded, ignore_errors=True)
        try:
            model.save(str(file))
        finally:
            # coremltools would keep the temporary folder, as large as the package, until the process ends.
            shutil.rmtree(model.package_path, ignore_errors=True)


def _convert(ct: Any, decoder: Decoder, context: int, lengths: Sequence[int]) -> Any:
    from coremltools.converters.mil.mil import Builder, Function, Program, get_new_symbol, types

    shape = decoder.shape
    fixed = len(lengths) == 1  # one shape is none to enumerate
    tokens = lengths[0] if fixed else get_new_symbol()
    cache = (len(decoder.layers), shape.kv_heads, context, shape.head_dim)
    inputs = {
        "hidden": Builder.placeholder((1, tokens, shape.width), dtype=types.fp16),
        "positions": Builder.placeholder((tokens,), dtype=types.int32),
        "keys": Builder.state_tensor_placeholder(cache, dtype=types.fp16),
        "values": Builder.state_tensor_placeholder(cache, dtype=types.fp16),
    }
    program = Program()
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        given = function.inputs
        ops = MILOps(Builder, given["positions"], given["keys"], given["values"], context)
        out = emit(ops, decoder, given["hidden"], context)
        function.set_outputs([Builder.identity(x=out, name="out")])
    program.add_function("main", function)
    shapes: dict[str, list[tuple[int, ...]]] = {
        "hidden": [(1, length, shape.width) for length in lengths],
        "positions": [(length,) for length in lengths],
    }
    flexible = {
        name: of_it[0] if fixed else ct.EnumeratedShapes(of_it, default=of_it[0]) for name, of_it in shapes.items()
    }
    kinds = {"hidden": np.float16, "positions": np.int32}
    return ct.convert(
        program,
        inputs=[ct.TensorType(name=name, shape=flexible[name], dtype=kinds[name]) for name in flexible],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,  # as it was built: no pass is to insert casts
        skip_model_load=True,
    )


def _quantised(ct: Any, model: Any, decoder: Decoder, precision: CoreMLPrecision) -> Any:
    optimize = ct.optimize.coreml
    inner = (decoder.shape.width, decoder.shape.heads * decoder.shape.head_dim, decoder.shape.ff_width)
    blocks = precision == "int4" and all(width % INT4_BLOCK == 0 for width in inner)
    how: dict[str, Any] = {"granularity": "per_channel"}
    if blocks:
        how = {"granularity": "per_block", "block_size": INT4_BLOCK}
    config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype=precision, weight_threshold=0, **how)
    # Only what is multiplied with: norms, angles and biases stay.
    return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(op_type_configs={"linear": config}))


class MILOps:
    """blocks.Ops in Core ML's MIL, float16 throughout. `mb` is coremltools' builder."""

    def __init__(self, mb: Any, positions: Value, keys: Value, values: Value, context: int) -> None:
        self._mb = mb
        self._positions = positions
        self._states = (keys, values)
        # Each layer goes on from what the one before left. Reading a state again would not do: coremltools takes two
        # reads for one and the same value, and the second layer's update would undo the first one's.
        self._held = [mb.read_state(input=state) for state in self._states]
        self._context = context
        first = mb.slice_by_size(x=positions, begin=[0], size=[1])
        self._start = first
        self._end = mb.add(x=mb.slice_by_size(x=positions, begin=mb.sub(x=mb.shape(x=positions), y=1), size=[1]), y=1)

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        """(..., in) -> (..., out)."""
        more = {} if bias is None else {"bias": bias.astype(np.float16)}
        return self._mb.linear(x=x, weight=weight.astype(np.float16), **more)

    def layer_norm(self, x: Value, weight: Array, bias: Array, eps: float) -> Value:
        """Core ML's own."""
        half = np.float16
        return self._mb.layer_norm(x=x, axes=[-1], gamma=weight.astype(half), beta=bias.astype(half), epsilon=half(eps))

    def rms_norm(self, x: Value, weight: Array, eps: float) -> Value:
        """Squares of a real model's hidden states overflow float16: each row's largest value is divided out first."""
        mb = self._mb
        largest = mb.reduce_max(x=mb.abs(x=x), axes=[-1], keep_dims=True)
        largest = mb.maximum(x=largest, y=np.float16(_LEAST))
        small = mb.real_div(x=x, y=largest)
        slack = mb.real_div(x=np.float16(np.sqrt(eps)), y=largest)
        mean = mb.reduce_mean(x=mb.mul(x=small, y=small), axes=[-1], keep_dims=True)
        factor = mb.rsqrt(x=mb.add(x=mean, y=mb.mul(x=slack, y=slack)))
        return mb.mul(x=mb.mul(x=small, y=factor), y=weight.astype(np.float16))

    def gelu(self, x: Value) -> Value:
        """The tanh approximation."""
        return self._mb.gelu(x=x, mode="TANH_APPROXIMATION")

    def silu(self, x: Value) -> Value:
        """x * sigmoid(x)."""
        return self._mb.silu(x=x)

    def softmax(self, x: Value) -> Value:
        """Over the last axis."""
        return self._mb.softmax(x=x, axis=-1)

    def add(self, x: Value, y: Value) -> Value:
        """With broadcasting."""
        return self._mb.add(x=x, y=y)

    def mul(self, x: Value, y: Value | float) -> Value:
        """With broadcasting."""
        return self._mb.mul(x=x, y=np.float16(y) if isinstance(y, float) else y)

    def matmul(self, x: Value, y: Value, transposed: bool = False) -> Value:
        """x @ y, or x @ y^T."""
        return self._mb.matmul(x=x, y=y, transpose_y=transposed)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """One -1 may stand for what depends on T."""
        return self._mb.reshape(x=x, shape=list(shape))

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        """The axes in this order."""
        return self._mb.transpose(x=x, perm=list(axes))

    def part(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """`start` to `stop` of an axis."""
        begin, end = [0] * x.rank, [0] * x.rank
        begin[axis], end[axis] = start, stop
        all_of = [number != axis for number in range(x.rank)]
        return self._mb.slice_by_index(x=x, begin=begin, end=end, begin_mask=all_of, end_mask=all_of)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """One after the other."""
        return values[0] if len(values) == 1 else self._mb.concat(values=list(values), axis=axis)

    def last(self, x: Value) -> Value:
        """(1, T, width) -> (1, 1, width)."""
        return self._mb.slice_by_index(
            x=x, begin=[0, -1, 0], end=[0, 0, 0], begin_mask=[True, False, True], end_mask=[True, True, True]
        )

    def rows(self, table: Array) -> Value:
        """Those of the tokens' positions."""
        return self._mb.gather(x=table.astype(np.float16), indices=self._positions, axis=0)

    def mask(self) -> Value:
        """(T, context)."""
        mb = self._mb
        all_of = np.arange(self._context, dtype=np.int32)[None]
        seen = mb.less_equal(x=all_of, y=mb.expand_dims(x=self._positions, axes=[1]))
        return mb.mul(x=mb.sub(x=np.float16(1), y=mb.cast(x=seen, dtype="fp16")), y=np.float16(UNSEEN))

    def append(self, layer: int, key: Value, value: Value) -> tuple[Value, Value]:
        """Into the states, at the tokens' positions; (kv_heads, context, d) of each."""
        mb, mine = self._mb, []
        for number, new in enumerate((key, value)):
            # [layer, all heads, the tokens' positions, all of d]
            begin = mb.concat(values=[[layer], [0], self._start, [0]], axis=0)
            end = mb.concat(values=[[layer + 1], [0], self._end, [0]], axis=0)
            everything = [False, True, False, True]
            grown = mb.slice_update(
                x=self._held[number],
                update=mb.expand_dims(x=new, axes=[0]),
                begin=begin,
                end=end,
                stride=[1, 1, 1, 1],
                begin_mask=everything,
                end_mask=everything,
            )
            self._held[number] = mb.coreml_update_state(state=self._states[number], value=grown)
            mine.append(mb.squeeze(x=self.part(self._held[number], 0, layer, layer + 1), axes=[0]))
        return mine[0], mine[1]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """coremltools warns of the torch that is installed, though none is traced, and draws progress bars."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            logger.setLevel(logging.ERROR)
            yield
        finally:
            logger.setLevel(level)
