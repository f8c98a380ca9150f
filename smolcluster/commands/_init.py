"""What `--init` means: a model folder, a run of ours, a name in model_weights.yaml, or a hub id."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from smolcluster.commands.generate import find_model
from smolcluster.errors import ConfigError
from smolcluster.runtime.runfolder import run_at
from smolcluster.spec.layers import merge
from smolcluster.spec.pretrained import weight_files
from smolcluster.spec.problems import explain
from smolcluster.spec.shipped import WeightsTable, overlays, shipped

TABLE = "model_weights.yaml"


def find_start(text: str, inventory: Path, whole: bool) -> Path:
    """The folder with their config.json, absolute; `whole`: also with the weights. InputError if it is not there."""
    from smolcluster.data.weights import find_weights

    path = Path(text).expanduser()
    if path.exists():
        folder = find_model(run_at(path)).resolve()
        weight_files(folder)
        return folder
    own, _ = overlays(inventory)  # what is wrong with reading them is reported with all other files
    layers = [document for document in (shipped(TABLE), own.get(TABLE)) if document is not None]
    for document in layers:
        try:
            WeightsTable.model_validate(document.data)
        except ValidationError as error:
            raise ConfigError(explain(error, document, WeightsTable)) from None
    return find_weights(text, WeightsTable.model_validate(merge(layers).data).root, whole)
