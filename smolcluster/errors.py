"""Every error a person can meet, in one tree.

    SmolError                    exit 1    the root; never raised itself
    ├── ConfigError              exit 2    one or more Problems in what the person wrote; nothing was started
    │   └── InputError                     a run, a model or a record that a command was given cannot be read
    ├── AbsentError              exit 3    a tablet that nobody serves without did not come
    ├── PeerError                exit 3    a peer or the network failed
    │   ├── HandshakeError                 the other end is not who it should be
    │   ├── ProtocolError                  a frame that is garbage, too long or of the wrong kind
    │   ├── DeadlineError                  a wait ran out (also a TimeoutError)
    │   ├── PeerLostError                  the connection ended while it was needed
    │   └── RunOverError                   a peer failed in a way that would be the same at the next start
    ├── TrainingError            exit 4    the numbers went wrong (a loss that is not finite)
    ├── RequestError             exit 2    a request to a served model that cannot be served as it is
    │   └── BusyError                      too many wait already; the same request may be served later
    └── InterruptedRun           exit 130  somebody asked the run to stop

A command prints `str(error)` and leaves with `error.exit_code`; a traceback means a bug of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class SmolError(Exception):
    """Root of the tree. `exit_code` is what the process leaves with."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong in a config: where it stands, what is wrong, how to mend it.

    file and line may be unknown ("" and 0): a flag has no line. `key` is dotted, `training.batch_size`.
    """

    file: str
    line: int
    key: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        head = ": ".join(part for part in (where, self.key, self.what) if part)
        return f"{head}\n    fix: {self.fix}" if self.fix else head


class ConfigError(SmolError):
    """What the person wrote cannot be run. Carries every problem found, not the first."""

    exit_code = 2
    about: ClassVar[str] = " in the configuration; nothing was started"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(set(problems)))
        count = len(self.problems)
        title = "1 problem" if count == 1 else f"{count} problems"
        lines = "\n".join(f"  {i}. {p}".replace("\n", "\n   ") for i, p in enumerate(self.problems, 1))
        super().__init__(f"{title}{self.about}.\n{lines}")


class InputError(ConfigError):
    """A run, model or record that a command was given to read cannot be read."""

    about = ""


class PeerError(SmolError):
    """A peer or the network between us failed."""

    exit_code = 3


class AbsentError(SmolError):
    """A tablet that nobody serves without did not come in time. Says how it could, and how to do without."""

    exit_code = 3


class HandshakeError(PeerError):
    """The other end did not prove that it belongs to this run."""


class ProtocolError(PeerError):
    """Bytes that are no frame of ours: garbage, too long, of an unexpected kind."""


class DeadlineError(PeerError, TimeoutError):
    """A wait ran out of time. Says on whom it waited, and for how long."""


class PeerLostError(PeerError):
    """The connection to a peer ended while it was needed."""


class RunOverError(PeerError):
    """A peer has ended for a reason that starting again would not mend: its config, or numbers that went wrong."""


class TrainingError(SmolError):
    """The training itself failed: a loss or a norm that is not finite."""

    exit_code = 4


class RequestError(SmolError):
    """A request to a served model cannot be served as it is."""

    exit_code = 2


class BusyError(RequestError):
    """Too many requests wait already."""


class InterruptedRun(SmolError):
    """Somebody asked the run to stop, and it did."""

    exit_code = 130
