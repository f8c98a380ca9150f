"""A saved Core ML program computed with numpy: the check of an export where there is no Core ML, that is off a Mac.

It reads the package back as it lies on the disk, weights included, and knows the operations that coreml.py uses and
coremltools' passes make of them; another one is an error. Every value is computed in float32 and rounded to the type
that the program says. So it checks the graph and its weights. Apple's runtime it does not: that sums in its own order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smolcluster.errors import InputError, Problem
from smolcluster.tablet.blocks import Array
from smolcluster.tablet.coreml import coremltools, quiet

State = dict[str, Array]
Inputs = Mapping[str, Any]


class Interpreter:
    """The program of a package. InputError when it cannot be read, or has an operation that is not known here."""

    def __init__(self, package: Path) -> None:
        ct = coremltools()
        with quiet():
            from coremltools.converters.mil.frontend.milproto import load as milproto

            try:
                model = ct.models.MLModel(str(package), skip_model_load=True)
                spec = model.get_spec()
                program = milproto.load(spec, spec.specificationVersion, model.weights_dir)
            except (OSError, RuntimeError, ValueError) as error:
                raise _problem(package, f"cannot be read: {error}") from error
        main = program.functions["main"]
        self._outputs = [var.name for var in main.outputs]
        self._states = {state.name: tuple(state.type.stateType.arrayType.shape) for state in spec.description.state}
        hidden = spec.description.input[0].type.multiArrayType
        enumerated = [tuple(one.shape) for one in hidden.enumeratedShapes.shapes]
        self.lengths = [shape[1] for shape in enumerated or [tuple(hidden.shape)]]
        self._constants: dict[str, Array] = {}
        self._steps: list[Any] = []
        for operation in main.operations:
            if operation.op_type == "const":
                self._constants[operation.outputs[0].name] = np.asarray(operation.outputs[0].val)
            elif operation.op_type.startswith("constexpr_"):
                given = {name: self._constants[var.name] for name, var in operation.inputs.items()}
                self._constants[operation.outputs[0].name] = _computed(operation, given, package)
            else:
                if operation.op_type not in _KNOWN:
                    raise _problem(package, f"has the operation {operation.op_type}, which is not known here")
                self._steps.append(operation)

    @property
    def operations(self) -> frozenset[str]:
        """The kinds of operations it has."""
        return frozenset(step.op_type for step in self._steps)

    def new_state(self) -> State:
        """Of one session: zeros, as Core ML makes them."""
        return {name: np.zeros(shape, np.float16) for name, shape in self._states.items()}

    def predict(self, inputs: Mapping[str, Array], state: State) -> dict[str, Array]:
        """The outputs by name; `state` is changed. As MLModel.predict."""
        values: dict[str, Any] = {**inputs, **self._constants}
        for step in self._steps:
            out = step.outputs[0].name
            if step.op_type == "read_state":
                values[out] = state[step.inputs["input"].name]
            elif step.op_type == "coreml_update_state":
                values[out] = state[step.inputs["state"].name] = values[step.inputs["value"].name]
            else:
                given = {
                    name: [values[one.name] for one in var] if isinstance(var, Sequence) else values[var.name]
                    for name, var in step.inputs.items()
                    if var is not None
                }
                values[out] = _rounded(_KNOWN[step.op_type](given), step)
        return {name: values[name] for name in self._outputs}


def _computed(operation: Any, given: Inputs, package: Path) -> Array:
    if operation.op_type != "constexpr_blockwise_shift_scale":
        raise _problem(package, f"has weights in the form {operation.op_type}, which is not known here")
    data, scale = np.asarray(given["data"]).astype(np.float32), np.asarray(given["scale"]).astype(np.float32)
    offset = np.asarray(given["offset"]).astype(np.float32) if "offset" in given else np.zeros_like(scale)
    for axis, size in enumerate(data.shape):
        repeats = size // scale.shape[axis]
        scale, offset = np.repeat(scale, repeats, axis), np.repeat(offset, repeats, axis)
    return _rounded((data - offset) * scale, operation)


def _rounded(value: Array, operation: Any) -> Array:
    from coremltools.converters.mil.mil import types

    return np.asarray(value).astype(types.nptype_from_builtin(operation.outputs[0].dtype))


def _wide(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _binary(function: Callable[[Array, Array], Array]) -> Callable[[Inputs], Array]:
    return lambda given: function(_wide(given["x"]), _wide(given["y"]))


def _layer_norm(given: Inputs) -> Array:
    x = _wide(given["x"])
    axes = tuple(int(axis) for axis in given["axes"])
    middle = x.mean(axes, keepdims=True)
    spread = ((x - middle) ** 2).mean(axes, keepdims=True)
    normal = (x - middle) / np.sqrt(spread + _wide(given["epsilon"]))
    return normal * _wide(given["gamma"]) + _wide(given["beta"])


def _linear(given: Inputs) -> Array:
    out: Array = _wide(given["x"]) @ _wide(given["weight"]).T
    return out + _wide(given["bias"]) if "bias" in given else out


def _matmul(given: Inputs) -> Array:
    x, y = _wide(given["x"]), _wide(given["y"])
    x = np.swapaxes(x, -1, -2) if given.get("transpose_x") else x
    out: Array = x @ (np.swapaxes(y, -1, -2) if given.get("transpose_y") else y)
    return out


def _softmax(given: Inputs) -> Array:
    x, axis = _wide(given["x"]), int(given["axis"])
    raised = np.exp(x - x.max(axis, keepdims=True))
    out: Array = raised / raised.sum(axis, keepdims=True)
    return out


def _gelu(given: Inputs) -> Array:
    if str(given["mode"]) != "TANH_APPROXIMATION":
        raise ValueError(f"gelu of mode {given['mode']} is not known here")
    x = _wide(given["x"])
    out: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return out


def _silu(given: Inputs) -> Array:
    x = _wide(given["x"])
    out: Array = x / (1 + np.exp(-x))
    return out


def _slice_by_index(given: Inputs) -> Array:
    x: Array = given["x"]
    out = x[_slices(given, x.ndim)]
    dropped = given.get("squeeze_mask")
    if dropped is None:
        return out
    return out.squeeze(tuple(axis for axis, squeezed in enumerate(dropped) if squeezed))


def _slice_by_size(given: Inputs) -> Array:
    x: Array = given["x"]
    return x[
        tuple(
            slice(int(start), int(start) + int(size)) for start, size in zip(given["begin"], given["size"], strict=True)
        )
    ]


def _slice_update(given: Inputs) -> Array:
    out: Array = given["x"].copy()
    out[_slices(given, out.ndim)] = given["update"]
    return out


def _slices(given: Inputs, rank: int) -> tuple[slice, ...]:
    none = [False] * rank
    begins, ends = given.get("begin_mask", none), given.get("end_mask", none)
    strides = given.get("stride", [1] * rank)
    return tuple(
        slice(
            None if begins[axis] else int(given["begin"][axis]),
            None if ends[axis] else int(given["end"][axis]),
            int(strides[axis]),
        )
        for axis in range(rank)
    )


def _select(given: Inputs) -> Array:
    return np.asarray(np.where(given["cond"], given["a"], given["b"]))


def _shape(given: Inputs) -> Array:
    return np.array(given["x"].shape, np.int32)


def _cast(given: Inputs) -> Array:
    names = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "int16": np.int16, "bool": np.bool_}
    x: Array = given["x"]
    return x.astype(names[str(given["dtype"])])


def _reduced(function: Callable[..., Array]) -> Callable[[Inputs], Array]:
    return lambda given: function(
        _wide(given["x"]), axis=tuple(int(axis) for axis in given["axes"]), keepdims=bool(given["keep_dims"])
    )


_KNOWN: dict[str, Callable[[Inputs], Array]] = {
    "abs": lambda given: np.abs(given["x"]),
    "add": _binary(np.add),
    "cast": _cast,
    "concat": lambda given: np.concatenate(given["values"], int(given["axis"])),
    "expand_dims": lambda given: np.expand_dims(given["x"], tuple(int(axis) for axis in given["axes"])),
    "gather": lambda given: np.take(given["x"], given["indices"], int(given["axis"])),
    "gelu": _gelu,
    "greater_equal": _binary(np.greater_equal),
    "identity": lambda given: given["x"],
    "layer_norm": _layer_norm,
    "less_equal": _binary(np.less_equal),
    "linear": _linear,
    "matmul": _matmul,
    "maximum": _binary(np.maximum),
    "mul": _binary(np.multiply),
    "real_div": _binary(np.divide),
    "reduce_max": _reduced(np.max),
    "reduce_mean": _reduced(np.mean),
    "reshape": lambda given: given["x"].reshape([int(size) for size in given["shape"]]),
    "rsqrt": lambda given: 1 / np.sqrt(_wide(given["x"]) + _wide(given["epsilon"])),
    "select": _select,
    "shape": _shape,
    "silu": _silu,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "softmax": _softmax,
    "squeeze": lambda given: np.squeeze(given["x"], tuple(int(axis) for axis in given["axes"])),
    "sub": _binary(np.subtract),
    "transpose": lambda given: given["x"].transpose([int(axis) for axis in given["perm"]]),
    "read_state": lambda given: given["input"],
    "coreml_update_state": lambda given: given["value"],
}


def _problem(package: Path, what: str) -> InputError:
    return InputError([Problem(str(package), 0, "", what, "export it again")])
