"""A lane runs jobs one at a time, in the order they were given: on the caller's thread when it may, else on its own.

Handing a small job to another thread and back costs more than the job. So: a synchronous job on an idle lane runs
where it is; who waits for a job nobody has begun does it himself; the thread starts with the first asynchronous job.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from smolcluster.errors import DeadlineError, PeerLostError

Job = Callable[[], None]


class Lane:
    """`close` lets the running job end (make it fail first, if it waits for a peer), drops the others, joins."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = threading.Condition()
        self.busy = False
        self.queue: deque[Work] = deque()
        self._closed = False
        self._servers: list[threading.Thread] = []
        self._free = 0  # servers that are not inside a callback

    def run(self, job: Job, result: list[Tensor]) -> Work:
        """Do `job` after those before it and return when it is done. Raises what it raises."""
        work = self.run_if_idle(job, result)
        if work is None:
            work = self.submit(job, result)
            work.wait()
        else:
            work.raise_error()
        return work

    def run_if_idle(self, job: Job, result: list[Tensor]) -> Work | None:
        """Do `job` here and now, its error kept in its Work; None, and nothing done, when others are before it."""
        with self.state:
            if self.busy or self.queue or self._closed:
                return None
            self.busy = True
        work = Work(self, job, result)
        work.execute()
        return work

    def submit(self, job: Job, result: list[Tensor]) -> Work:
        """Queue `job`; its Work tells when it is done. `result` are the tensors it fills."""
        work = Work(self, job, result)
        with self.state:
            if self._closed:
                raise PeerLostError(f"the group {self.name} was destroyed")
            self.queue.append(work)
            if not self._free:
                self._add_server()
            self.state.notify_all()
        return work

    def call_back(self, signal: torch.futures.Future[Any]) -> None:
        """Complete a future, which runs what was attached to it. That may wait for a job that is queued, or will be
        (PowerSGD's hook does), in C++, where it cannot do the job itself: another server takes over meanwhile.
        """
        serving = threading.current_thread() in self._servers
        with self.state:
            if serving:
                self._free -= 1
            if not self._free and self.queue and not self._closed:
                self._add_server()
        try:
            signal.set_result(None)
        finally:
            with self.state:
                self._free += serving

    def _add_server(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"smol-{self.name}", daemon=True)
        self._servers.append(thread)
        self._free += 1
        thread.start()

    def drain(self) -> None:
        """Wait until everything queued so far is done; errors stay with their works."""
        with self.state:
            pending = self.queue[-1] if self.queue else None
        if pending is not None:
            pending.join()
        with self.state:
            self.state.wait_for(lambda: not self.busy)

    def close(self) -> None:
        """End the lane. Works that never began fail with PeerLostError."""
        with self.state:
            self._closed = True
            dropped = list(self.queue)
            self.queue.clear()
            self.state.notify_all()
        for work in dropped:
            work.fail(PeerLostError(f"the group {self.name} was destroyed before this operation began"))
        for thread in self._servers:
            if thread is not threading.current_thread():
                thread.join()

    def _serve(self) -> None:
        while True:
            with self.state:
                self.state.wait_for(lambda: self._closed or (self.queue and not self.busy))
                if self._closed:
                    return
                work = self.queue.popleft()
                self.busy = True
            work.execute()
            del work  # its tensors must not live until the next job comes


class Work(dist._Work):
    """One job's handle: c10d's Work, for Python callers and, through its future, for DDP's C++."""

    def __init__(self, lane: Lane, job: Job, result: list[Tensor]) -> None:
        super().__init__()
        self._lane = lane
        self._job: Job | None = job
        self._result = result
        self._error: BaseException | None = None
        self._done = False
        self._signal: torch.futures.Future[Any] | None = None
        self._future: torch.futures.Future[Any] | None = None

    def execute(self) -> None:
        """Do the job on this thread. The caller has marked the lane busy."""
        job, self._job = self._job, None
        assert job is not None
        try:
            job()
        except BaseException as error:  # KeyboardInterrupt on the main thread too: the lane must not stay busy
            self._error = error
            # Any other error belongs to whoever waits for this work: raised here it would end the lane's thread, or
            # hit somebody who waits for another work.
            if not isinstance(error, Exception):
                self._finish()
                raise
        self._finish()

    def fail(self, error: BaseException) -> None:
        """Mark a job that will never run."""
        self._job, self._error = None, error
        with self._lane.state:
            self._done = True
            signal = self._signal
            self._lane.state.notify_all()
        if signal is not None:
            signal.set_result(None)

    def _finish(self) -> None:
        with self._lane.state:
            self._done = True
            self._lane.busy = False
            signal = self._signal
            self._lane.state.notify_all()
        if signal is not None:
            self._lane.call_back(signal)

    def join(self) -> None:
        """Wait for the end, doing queued jobs here when nobody does. Each of them has its own deadline."""
        lane = self._lane
        while True:
            with lane.state:
                lane.state.wait_for(lambda: self._done or (lane.queue and not lane.busy))
                if self._done:
                    return
                head = lane.queue.popleft()
                lane.busy = True
            head.execute()

    def raise_error(self) -> None:
        """Raise what the job raised, if it did."""
        if self._error is not None:
            raise self._error

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait for the end; True, or the job's error. DeadlineError after `timeout`; the operation then goes on.

        Without one the job's own deadline bounds it. (c10d's C++ says zero for none.)
        """
        if not self._done:
            if timeout is not None and timeout > timedelta():
                self._wait_at_most(timeout.total_seconds())
            else:
                self.join()
        self.raise_error()
        return True

    def _wait_at_most(self, seconds: float) -> None:
        """Without doing the job here, which could take longer: the lane's thread does it."""
        with self._lane.state:
            if not self._lane.state.wait_for(self.is_completed, seconds):
                raise DeadlineError(f"an operation of {self._lane.name} was not done within {seconds:g} s; it goes on")

    def block_current_stream(self) -> None:
        """c10d: nothing queued after this sees the tensors before they are there. A wait: they pass through the CPU."""
        self.wait()

    def synchronize(self) -> None:
        """c10d: the same as wait."""
        self.wait()

    def is_completed(self) -> bool:
        """Whether it ended, well or not."""
        return self._done

    def is_success(self) -> bool:
        """Whether it ended well."""
        return self._done and self._error is None

    def exception(self) -> BaseException | None:
        """What it raised, if it did."""
        return self._error

    def result(self) -> list[Tensor]:
        """The tensors it fills."""
        return self._result

    def get_future(self) -> torch.futures.Future[Any]:
        """A future of the result. C++ sees a failure too: an exception raised inside `then` becomes its error."""
        if self._future is None:
            signal: torch.futures.Future[Any] = torch.futures.Future()
            self._future = signal.then(self._outcome)
            with self._lane.state:
                if not self._done:
                    self._signal = signal
            if self._signal is None:
                signal.set_result(None)
        return self._future

    def _outcome(self, _: object) -> list[Tensor]:
        self.raise_error()
        return self._result
