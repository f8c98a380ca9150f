"""What `--init` means: a model folder, a run of ours, a name in model_weights.yaml, or a hub id."""

from __future__ import annotations

from pathlib import Path

from smolcluster.commands.generate import find_model
from smolcluster.runtime.runfolder import run_at
from smolcluster.spec.pretrained import weight_files
from smolcluster.spec.shipped import weights_table


def find_start(text: str, inventory: Path, whole: bool) -> Path:
    """The folder with their config.json, absolute; `whole`: also with the weights. InputError if it is not there."""
    from smolcluster.data.weights import find_weights

    path = Path(text).expanduser()
    if path.exists():
        folder = find_model(run_at(path)).resolve()
        weight_files(folder)
        return folder
    return find_weights(text, weights_table(inventory, alone=False), whole)
