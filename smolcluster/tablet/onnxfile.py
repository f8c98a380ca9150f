"""A stage as an ONNX file, for a tablet's browser (onnxruntime-web); float32, written node by node.

    inputs   hidden (1, T, width) · past_keys, past_values (layers, kv_heads, P, head_dim), of the P tokens before
    outputs  out (1, T, width), or (1, 1, vocabulary) · keys, values (layers, kv_heads, P + T, head_dim)

The cache goes in and comes out; a session begins with P = 0. Operator set 18, which every runtime of a browser has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smolcluster.errors import InputError, Problem
from smolcluster.models.decoder import Decoder
from smolcluster.tablet.blocks import UNSEEN, Array, Value, emit

OPERATORS = 18
INSTALL = "pip install 'smolcluster[onnx]'"
# protobuf ends at 2 GB, and so does a buffer of a browser.
MOST_BYTES = (2 << 30) - (64 << 20)


def onnx_package() -> Any:
    """The package. InputError with what to install where there is none."""
    try:
        import onnx
    except ImportError as error:
        what = f"making an ONNX file needs {error.name}, which is not installed here"
        raise InputError([Problem("", 0, "export-onnx", what, INSTALL)]) from error
    return onnx


def save_onnx(decoder: Decoder, file: Path, context: int) -> None:
    """Write the graph to `file`. InputError: onnx is not installed, or the layers are too many for one file."""
    onnx = onnx_package()
    from onnx import TensorProto, helper

    shape, layers = decoder.shape, len(decoder.layers)
    ops = ONNXOps(onnx, layers)
    out = emit(ops, decoder, "hidden", context)
    ops.node("Identity", out, out="out")
    for name, number in (("keys", 0), ("values", 1)):
        ops.node("Concat", *ops.grown[number], out=name, axis=0)
    size = sum(len(constant.raw_data) for constant in ops.constants)
    if size > MOST_BYTES:
        what = f"layers {decoder.range} are {size / 1e9:.1f} GB in float32, an ONNX file for a browser takes 2 GB"
        raise InputError([Problem("", 0, "--layers", what, "give the tablet fewer layers")])
    cache = [layers, shape.kv_heads, "P", shape.head_dim]
    grown = [layers, shape.kv_heads, "P+T", shape.head_dim]
    last = [1, 1, shape.vocab_size] if decoder.head is not None else [1, "T", shape.width]
    tensor = lambda name, sizes: helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)  # noqa: E731
    graph = helper.make_graph(
        ops.nodes,
        f"layers {decoder.range}",
        [tensor("hidden", [1, "T", shape.width]), tensor("past_keys", cache), tensor("past_values", cache)],
        [tensor("out", last), tensor("keys", grown), tensor("values", grown)],
        ops.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPERATORS)], producer_name="smolcluster")
    # The oldest that knows these operators: a browser's runtime may be older than this package.
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    onnx.checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString())


class ONNXOps:
    """blocks.Ops in ONNX. `nodes` and `constants` are the graph so far, `grown` the caches of the layers so far."""

    def __init__(self, onnx: Any, layers: int) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.grown: tuple[list[str], list[str]] = ([], [])
        tokens = self.node("Shape", "hidden", start=1, end=2)
        past = self.node("Shape", "past_keys", start=2, end=3)
        one, none = self._whole(1), self._const(np.array(0, np.int64))
        start = self.node("Squeeze", past)
        end = self.node("Squeeze", self.node("Add", past, tokens))
        step = self.node("Squeeze", one)
        self._positions = self.node("Range", start, end, step)
        self._all = self.node("Range", none, end, step)
        split = [f"past_{kind}_{layer}" for kind in ("keys", "values") for layer in range(layers)]
        self._past = (split[:layers], split[layers:])
        for name, parts in zip(("past_keys", "past_values"), self._past, strict=True):
            for layer, part in enumerate(parts):
                self.node("Slice", name, self._whole(layer), self._whole(layer + 1), self._whole(0), out=part)

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add one; the name of what it gives."""
        out = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), [out], name=f"n{len(self.nodes)}", **attributes)
        )
        return out

    def linear(self, x: Value, weight: Array, bias: Array | None) -> Value:
        """(..., in) -> (..., out)."""
        product = self.node("MatMul", x, self._const(weight.T))
        return product if bias is None else self.node("Add", product, self._const(bias))

    def layer_norm(self, x: Value, weight: Array, bias: Array, eps: float) -> Value:
        """ONNX's own."""
        return self.node("LayerNormalization", x, self._const(weight), self._const(bias), axis=-1, epsilon=eps)

    def rms_norm(self, x: Value, weight: Array, eps: float) -> Value:
        """Of the operators that every version has."""
        mean = self.node("ReduceMean", self.node("Mul", x, x), self._whole(-1), keepdims=1)
        root = self.node("Sqrt", self.node("Add", mean, self._number(eps)))
        return self.node("Mul", self.node("Div", x, root), self._const(weight))

    def gelu(self, x: Value) -> Value:
        """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
        cube = self.node("Mul", self.node("Mul", x, x), x)
        inner = self.node("Add", x, self.mul(cube, 0.044715))
        bent = self.node("Tanh", self.mul(inner, float(np.sqrt(2 / np.pi))))
        return self.node("Mul", self.mul(x, 0.5), self.node("Add", bent, self._number(1.0)))

    def silu(self, x: Value) -> Value:
        """x * sigmoid(x)."""
        return self.node("Mul", x, self.node("Sigmoid", x))

    def softmax(self, x: Value) -> Value:
        """Over the last axis."""
        return self.node("Softmax", x, axis=-1)

    def add(self, x: Value, y: Value) -> Value:
        """With broadcasting."""
        return self.node("Add", x, y)

    def mul(self, x: Value, y: Value | float) -> Value:
        """With broadcasting."""
        return self.node("Mul", x, self._number(y) if isinstance(y, float) else y)

    def matmul(self, x: Value, y: Value, transposed: bool = False) -> Value:
        """x @ y, or x @ y^T, of three axes."""
        return self.node("MatMul", x, self.transpose(y, (0, 2, 1)) if transposed else y)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """One -1 may stand for what depends on T."""
        return self.node("Reshape", x, self._const(np.array(shape, np.int64)))

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        """The axes in this order."""
        return self.node("Transpose", x, perm=list(axes))

    def part(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """`start` to `stop` of an axis."""
        return self.node("Slice", x, self._whole(start), self._whole(stop), self._whole(axis))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """One after the other."""
        return values[0] if len(values) == 1 else self.node("Concat", *values, axis=axis)

    def last(self, x: Value) -> Value:
        """(1, T, width) -> (1, 1, width)."""
        return self.node("Slice", x, self._whole(-1), self._whole(np.iinfo(np.int64).max), self._whole(1))

    def rows(self, table: Array) -> Value:
        """Those of the tokens' positions."""
        return self.node("Gather", self._const(table), self._positions, axis=0)

    def mask(self) -> Value:
        """(T, P + T)."""
        own = self.node("Unsqueeze", self._positions, self._whole(1))
        seen = self.node("LessOrEqual", self._all, own)
        return self.node("Where", seen, self._number(0.0), self._number(UNSEEN))

    def append(self, layer: int, key: Value, value: Value) -> tuple[Value, Value]:
        """After the past; (kv_heads, P + T, d) of each."""
        held = []
        for parts, grown, new in zip(self._past, self.grown, (key, value), strict=True):
            whole = self.node("Concat", parts[layer], self.node("Unsqueeze", new, self._whole(0)), axis=2)
            grown.append(whole)
            held.append(self.node("Squeeze", whole, self._whole(0)))
        return held[0], held[1]

    def _const(self, values: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _number(self, value: float) -> str:
        return self._const(np.array(value, np.float32))

    def _whole(self, value: int) -> str:
        return self._const(np.array([value], np.int64))
