"""The allocator's setting, seen from outside: by the page faults of large arrays that come and go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for something only Linux has")

COUNT_FAULTS = """
import resource
import numpy as np
np.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEEP = "from smolcluster.comm.allocator import keep_freed_memory; keep_freed_memory()"
# What a script of somebody else's does: its init_method is a file, so nothing listens anywhere.
JOIN = """
import sys, torch.distributed as dist, smolcluster.comm
dist.init_process_group("smol", init_method=sys.argv[1], rank=0, world_size=1)
"""


def faults(before: str, *arguments: str, **environment: str) -> int:
    command = [sys.executable, "-c", before + COUNT_FAULTS, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=True, env={**os.environ, **environment}
    )
    return int(done.stdout)


def test_large_tensors_are_not_mapped_anew() -> None:
    assert faults(KEEP) < 100 < faults("")


def test_a_script_that_joins_gets_the_setting_unless_it_says_no(tmp_path: Path) -> None:
    def joined(keep: str) -> int:
        return faults(JOIN, (tmp_path / f"rendezvous-{keep}").as_uri(), SMOL_KEEP_MEMORY=keep)

    assert joined("1") < 100 < joined("0")
