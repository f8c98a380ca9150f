"""What an exception means to the person whose run it ended: an exit code of errors.py, a reason, whose fault it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from smolcluster.errors import AbsentError, ConfigError, PeerError, RunOverError, SmolError, TrainingError
from smolcluster.files import explain_with_path, is_refusal

# torch carries an exception of a process group through C++ as text: "PeerLostError: rank 2 ...".
_CARRIED = re.compile(
    r"\b(PeerError|PeerLostError|DeadlineError|HandshakeError|ProtocolError|RunOverError): (.+)", re.DOTALL
)
# What gloo says when a peer is gone. It has no type of its own.
_GLOO = re.compile(r"gloo[/\\]|Connection (closed|reset) by peer|Timed out waiting|Application timeout", re.IGNORECASE)
_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """`ours`: the failure is this rank's own and not an echo of another's. `bug`: the log needs a traceback.

    `final`: it would be the same at the next start.
    """

    exit_code: int
    reason: str
    ours: bool
    bug: bool
    final: bool = False


DONE = Failure(0, "", ours=False, bug=False)
TRAIN_SMALLER = (
    "lower training.batch_size, raise training.grad_accumulation, or split the layers over more machines"
    " (--strategy mp)"
)
SERVE_SMALLER = "take precision int8, a shorter ctx_length, or more machines"


def understand(error: BaseException, smaller: str = TRAIN_SMALLER) -> Failure:
    """Say what an exception that ended a run means. `smaller`: what to do where memory was short."""
    for link in _chain(error):
        if isinstance(link, PeerError):
            return Failure(PeerError.exit_code, str(link), False, False, final=isinstance(link, RunOverError))
        if isinstance(link, SmolError):
            final = isinstance(link, ConfigError | TrainingError | AbsentError)
            return Failure(link.exit_code, str(link), True, False, final)
    text = str(error)
    carried = _CARRIED.search(text)
    if carried is not None:
        final = carried.group(1) == RunOverError.__name__
        return Failure(PeerError.exit_code, carried.group(2).strip(), False, False, final)
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and _GLOO.search(text)):
        return Failure(PeerError.exit_code, f"a peer or the network failed: {text}", ours=False, bug=False)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _MEMORY.search(text):
        return Failure(SmolError.exit_code, f"not enough memory: {smaller}. ({text})", ours=True, bug=False)
    if isinstance(error, OSError):
        told = explain_with_path(error) if is_refusal(error) else text
        return Failure(SmolError.exit_code, f"the operating system refused: {told}", ours=True, bug=False)
    if isinstance(error, KeyboardInterrupt):
        return Failure(130, "interrupted", ours=True, bug=False)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Failure(
        SmolError.exit_code, f"{what} (a bug of smolcluster: the log has the traceback)", ours=True, bug=True
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
