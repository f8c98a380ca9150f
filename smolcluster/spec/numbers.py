"""What a number in a file may be, in words: "a whole number from 0 to 65535". Read from the models themselves."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from smolcluster.spec.document import KeyPath

_BOUNDS = ("gt", "ge", "lt", "le")
_UNIONS = (typing.Union, types.UnionType)


def number_advice(model: type[BaseModel], path: KeyPath, given: object, whole: bool | None = None) -> str:
    """How to mend the number at `path`. `whole` None means: as the model says."""
    if isinstance(given, str) and _is_number(given):
        return "write it without quotes"
    found = _at(model, path, {})
    kind, bounds = found if found is not None else (None, {})
    return f"write {_range(bounds, kind is int if whole is None else whole)}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _range(bounds: dict[str, float], whole: bool) -> str:
    if whole:
        low = bounds.get("ge", bounds["gt"] + 1 if "gt" in bounds else None)
        high = bounds.get("le", bounds["lt"] - 1 if "lt" in bounds else None)
        if low is not None and high is not None:
            return f"a whole number from {low:g} to {high:.0f}"
        return f"a whole number, at least {low:g}" if low is not None else "a whole number alone, as 42"
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    said = " and ".join(f"{words[key]} {bounds[key]:g}" for key in _BOUNDS if key in bounds)
    return f"a number {said}" if said else "a number alone, as 0.5"


def _at(annotation: Any, path: KeyPath, bounds: dict[str, float]) -> tuple[Any, dict[str, float]] | None:
    """The plain type at `path` below an annotation, and the bounds gathered on the way; None when there is none."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _at(inner[0], path, bounds | _bounds_of(inner[1:]))
    if origin in _UNIONS:
        return next((found for one in inner if (found := _at(one, path, bounds)) is not None), None)
    if not path:
        return (annotation, bounds) if annotation in (int, float) else None
    if origin in (dict, list):
        return _at(inner[-1], path[1:], {})
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {info.alias or name: info for name, info in annotation.model_fields.items()}
        info = fields.get(str(path[0]))
        return _at(info.annotation, path[1:], _bounds_of(info.metadata)) if info is not None else None
    return None


def _bounds_of(metadata: Iterable[Any]) -> dict[str, float]:
    bounds: dict[str, float] = {}
    for item in metadata:
        if isinstance(item, FieldInfo):
            bounds |= _bounds_of(item.metadata)
        bounds |= {key: getattr(item, key) for key in _BOUNDS if getattr(item, key, None) is not None}
    return bounds
