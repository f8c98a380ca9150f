"""What server and workers say to each other, over the mailbox (comm/mailbox.py).

    WORK      server -> worker   number: the task. words: `step`, `version`, `pull` (see Pull), `ranges`
                                 (start, stop, start, stop, ...: positions of the run's samples). body: weights
    GRADIENT  worker -> server   number: the task it answers. words: `tokens`, `loss` (summed over them). body: the
                                 gradient of that sum, in the wire format
    STOP      worker -> server   this worker was asked to stop: the run is to end
    OVER      server -> worker   the run is over, or has been stopped: words: `stopped`. Nothing more comes

A worker has one task at a time and one gradient under way; each WORK answers the GRADIENT before it.
"""

from __future__ import annotations

from enum import IntEnum


class Op(IntEnum):
    """See above."""

    WORK = 1
    GRADIENT = 2
    STOP = 3
    OVER = 4


class Pull(IntEnum):
    """What the body of a WORK holds."""

    NONE = 0
    WHOLE = 1  # float32, and what is not trained
    NEWER = 2  # in the wire format
