"""What the ranks of a test's torchrun job run: somebody's script, or one of the tasks below, as the argument says."""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
import threading
from typing import Any

import psutil
import torch
import torch.distributed as dist

import smolcluster.comm  # noqa: F401  registers the backend
from smolcluster.runtime.process import die_with_parent


def report(value: Any) -> None:
    """For Job.results."""
    sys.stdout.write(f"result {os.environ['RANK']} {json.dumps(value)}\n")
    sys.stdout.flush()


def total() -> float:
    """1 + 2 + ... over the ranks."""
    mine = torch.full((5000,), dist.get_rank() + 1.0)
    dist.all_reduce(mine)
    return mine[-1].item()


def holdings() -> list[Any]:
    """What a group that was destroyed might have left behind."""
    gc.collect()
    return [psutil.Process().num_fds(), sorted(thread.name for thread in threading.enumerate())]


def rounds() -> None:
    """Initialise, work in the world and in a sub-group, destroy: three times. What was held before and after."""
    before, rows = holdings(), []
    for _ in range(3):
        dist.init_process_group("smol")
        pair = dist.new_group([0, 1])
        row: dict[str, Any] = {"sum": total()}
        if dist.get_rank() < 2:
            mine = torch.ones(3)
            dist.all_reduce(mine, group=pair)
            row["pair"] = mine[0].item()
        links = dist.group.WORLD.lives_on[0].links()  # type: ignore[union-attr]
        row["own"] = sorted({link.out.sock.getsockname()[0] for link in links})
        row["tls"] = sorted({version(link.out.sock) for link in links})
        rows.append(row)
        del links, pair
        dist.barrier()
        dist.destroy_process_group()
    report({"before": before, "after": holdings(), "rows": rows})


def version(sock: Any) -> str:
    return str(sock.version()) if hasattr(sock, "version") else "plain"


def outlive_the_agents_signal() -> None:
    """torchrun's agent ends the others as soon as one has failed; here they have time to tell what they saw."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def dies() -> None:
    """In the first start rank 1 kills itself in the middle; the second gets through."""
    outlive_the_agents_signal()
    dist.init_process_group("smol")
    try:
        for step in range(20):
            total()
            if step == 3 and dist.get_rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
    except Exception as error:
        report({"error": f"{type(error).__name__}: {error}"})
        raise
    generation = dist.group.WORLD.lives_on[0].me.generation  # type: ignore[union-attr]
    report({"sum": total(), "generation": generation})
    dist.destroy_process_group()


def early() -> None:
    """In the first start rank 1 dies before it initialises: in the second it has started once less than the others."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    dist.init_process_group("smol")
    report(total())
    dist.destroy_process_group()


def forgets() -> None:
    """Ends without destroying its group."""
    dist.init_process_group("smol")
    report(total())


def raises() -> None:
    """Rank 1 fails for a reason of its own, and nothing is destroyed."""
    outlive_the_agents_signal()
    dist.init_process_group("smol")
    try:
        total()  # the others may be in the middle of it when rank 1 has it
        if dist.get_rank() == 1:
            raise ArithmeticError("the numbers went wrong")
        total()
    except ArithmeticError:
        raise
    except Exception as error:
        report(str(error))
        raise


if __name__ == "__main__":
    die_with_parent()
    if sys.argv[1].endswith(".py"):
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        globals()[sys.argv[1]]()
