"""A run as one run of Weights & Biases, offline unless it was asked for: `wandb sync` uploads such a folder any time.

Whose key is used is wandb's business: WANDB_API_KEY, or what `wandb login` left in netrc. We never see one. What it
would collect besides (the console, the code, git, hardware, reports of its own errors) is turned off.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smolcluster.observe.tracking.rows import Row
from smolcluster.observe.tracking.sink import About, TrackerError

_TIMEOUT_S = 60


class WandB:
    """History by our own step, so that ranks whose steps differ lie on one axis."""

    def __init__(self, run: Any, about: About) -> None:
        self._run = run
        self._about = about

    def write(self, row: Row) -> None:
        """One line of history."""
        self._run.log({**row.values, "step": row.step, "time": row.time})

    def flush(self) -> None:
        """Nothing is held back: wandb's own process has it."""

    def finish(self, summary: dict[str, Any]) -> str:
        """The summary, and the upload where there is one."""
        for key, value in summary.items():
            self._run.summary[key] = value
        place = str(self._run.settings.sync_dir) if self._about.mode == "offline" else str(self._run.url)
        self._run.finish()
        return f"wandb sync {place}" if self._about.mode == "offline" else place

    @classmethod
    @contextmanager
    def open(cls, about: About) -> Iterator[WandB]:
        """As a sink; TrackerError where wandb will not have it."""
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # read when it is imported
        import wandb

        quiet = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            init_timeout=_TIMEOUT_S,
        )
        run = None
        try:
            run = wandb.init(
                project=_plain(about.project),
                id=_plain(about.run_id),
                name=about.run_id,
                dir=str(about.folder),
                config=about.config,
                tags=[about.strategy],
                mode=about.mode,
                resume="never" if about.mode == "online" else None,
                settings=quiet,
            )
            run.define_metric("step")
            run.define_metric("*", step_metric="step")
            yield cls(run, about)
        except (wandb.errors.Error, OSError) as error:
            raise TrackerError(f"W&B did not take the run: {error}") from error
        finally:
            if run is not None:
                run.finish(exit_code=0 if sys.exc_info()[0] is None else 1)


def _plain(name: str) -> str:
    """A name that W&B takes: these characters it refuses."""
    return re.sub(r"[/\\#?%:\x00-\x1f]", "-", name)[:128]
