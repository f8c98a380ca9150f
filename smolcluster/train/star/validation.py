"""The validation loss of a star, measured on a copy of the weights by a thread, so that no gradient waits for it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import torch
from torch import nn

from smolcluster.data import Samples
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.synchronous import Synchronous
from smolcluster.train.evaluate import Score, evaluate

# A batch of the validation split takes seconds at most, and between two it is looked whether to stop.
_LEAVE_S = 30.0


class Validation:
    """One measurement at a time. Made before the model's parameters are moved into a flat line; it keeps a copy of the
    model, as much memory as its parameters. `context` is solo's.
    """

    def __init__(self, context: RunContext, model: nn.Module, data: Samples) -> None:
        self._context = context
        self._data = data
        self._model = model
        self._copy = copy.deepcopy(model)
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._step = 0
        self._score: Score | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether one is under way, or its result was not taken."""
        return self._thread is not None

    def begin(self, step: int) -> None:
        """Measure the weights of now; the result is of that step."""
        assert self._thread is None, "one at a time"
        with torch.no_grad():
            for mine, theirs in zip(_state(self._copy), _state(self._model), strict=True):
                mine.copy_(theirs)
        self._step, self._score, self._error = step, None, None
        self._thread = threading.Thread(target=self._measure, name="smol-validation", daemon=True)
        self._thread.start()

    def result(self, wait: bool = False) -> tuple[int, Score] | None:
        """What was measured, once, and of which step; None while there is nothing. `wait`: for the one under way."""
        if self._thread is None or (self._thread.is_alive() and not wait):
            return None
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise self._error
        return (self._step, self._score) if self._score is not None else None

    def close(self) -> None:
        """Break off what is under way."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(_LEAVE_S)

    def _measure(self) -> None:
        stopped: Callable[[], bool] = self._stopped.is_set
        try:
            self._score = evaluate(self._context, _Scorer(self._context, self._copy), self._data, stopped)
        except BaseException as error:  # noqa: BLE001  raised where the result is taken
            self._error = error


class _Scorer(Synchronous):
    """A model that is only evaluated, alone."""


def _state(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
