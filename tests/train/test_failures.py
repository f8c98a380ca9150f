"""What exceptions mean to the person whose run they ended."""

from __future__ import annotations

import pytest

from smolcluster.errors import ConfigError, DeadlineError, PeerLostError, Problem, RunOverError, TrainingError
from smolcluster.runtime.failures import understand


def wrapped(cause: BaseException) -> RuntimeError:
    error = RuntimeError("the operation failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "reason", "ours"),
    [
        (PeerLostError("rank 2 is gone"), 3, "rank 2 is gone", False),
        (wrapped(DeadlineError("waited 5 s for rank 1")), 3, "waited 5 s for rank 1", False),
        (RuntimeError("PeerLostError: rank 2 closed its link\n"), 3, "rank 2 closed its link", False),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]"), 3, "gloo", False),
        (TrainingError("the loss is not finite"), 4, "the loss is not finite", True),
        (ConfigError([Problem("a.yaml", 3, "k", "is wrong", "mend it")]), 2, "a.yaml:3", True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "training.batch_size", True),
        (MemoryError(), 1, "or split the layers over more machines (--strategy mp)", True),
        (OSError(28, "No space left on device"), 1, "No space left on device", True),
        (KeyboardInterrupt(), 130, "interrupted", True),
    ],
)
def test_known_endings(error: BaseException, code: int, reason: str, ours: bool) -> None:
    failure = understand(error)
    assert (failure.exit_code, failure.ours, failure.bug) == (code, ours, False)
    assert reason in failure.reason


@pytest.mark.parametrize(
    "error",
    [
        TrainingError("the loss is not finite"),
        ConfigError([Problem("a.yaml", 3, "k", "is wrong", "mend it")]),
        wrapped(RunOverError("rank 1 gave up: a.yaml:3")),
        RuntimeError("RunOverError: rank 1 gave up: a.yaml:3"),
    ],
)
def test_what_the_next_start_would_meet_again_is_final(error: BaseException) -> None:
    assert understand(error).final
    assert not understand(PeerLostError("rank 2 is gone")).final
    assert not understand(OSError(28, "No space left on device")).final


def test_a_bug_is_called_one() -> None:
    failure = understand(KeyError("x"))
    assert (failure.exit_code, failure.ours, failure.bug) == (1, True, True)
    assert "KeyError: 'x'" in failure.reason
