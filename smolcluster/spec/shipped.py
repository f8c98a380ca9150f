"""The YAMLs that come with smolcluster, and a person's own of the same names beside the inventory (its `configs/`)."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, RootModel, ValidationError

from smolcluster.errors import ConfigError, Problem
from smolcluster.spec.clusterfile import CLUSTER_FILES
from smolcluster.spec.document import Document, read_document
from smolcluster.spec.layers import merge
from smolcluster.spec.modelfile import MODEL_FILES, ServedModel, Weights
from smolcluster.spec.paper import MachinesTable
from smolcluster.spec.problems import did_you_mean, explain, listed

FOLDER = Path(__file__).resolve().parent.parent / "configs"

Table = TypeVar("Table", bound=BaseModel)


class ServedModels(RootModel[dict[str, ServedModel]]):
    """model_config_inference.yaml: an entry per model."""


class WeightsTable(RootModel[dict[str, Weights]]):
    """model_weights.yaml: an entry per set of weights."""


FILE_MODELS: dict[str, type[BaseModel]] = {
    **{f"cluster_config_{name}.yaml": model for name, model in CLUSTER_FILES.items() if name != "single"},
    **{f"{name}_config.yaml": model for name, model in MODEL_FILES.items()},
    "model_config_inference.yaml": ServedModels,
    "model_weights.yaml": WeightsTable,
    "machines.yaml": MachinesTable,
}


def shipped(name: str) -> Document | None:
    """The shipped file of that name; None when none is shipped."""
    return read_document(FOLDER / name, f"smolcluster/configs/{name}") if name in FILE_MODELS else None


def overlays(inventory: Path) -> tuple[dict[str, Document], list[Problem]]:
    """The person's own YAMLs in `configs/` beside the inventory, by name, and what is wrong with reading them."""
    folder = inventory.parent / "configs"
    found: dict[str, Document] = {}
    problems: list[Problem] = []
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]) if folder.is_dir() else []:
        try:
            document = read_document(path)
        except ConfigError as error:
            problems += error.problems
            continue
        if path.name in FILE_MODELS:
            found[path.name] = document
        else:
            fix = did_you_mean(path.name, FILE_MODELS, f"files here overlay the shipped ones: {listed(FILE_MODELS)}")
            problems.append(Problem(document.file, 0, "", "no shipped file has this name", fix))
    return found, problems


def weights_table(inventory: Path, alone: bool = True) -> dict[str, Weights]:
    """model_weights.yaml, the person's own over the shipped one. ConfigError.

    `alone` False leaves it to somebody else to report files in `configs/` that cannot be read.
    """
    return _table("model_weights.yaml", WeightsTable, inventory, alone).root


def machines_table(inventory: Path) -> MachinesTable:
    """machines.yaml, the person's own over the shipped one. ConfigError."""
    return _table("machines.yaml", MachinesTable, inventory, alone=True)


def _table(name: str, model: type[Table], inventory: Path, alone: bool) -> Table:
    own, problems = overlays(inventory)
    if alone and problems:
        raise ConfigError(problems)
    layers = [document for document in (shipped(name), own.get(name)) if document is not None]
    whole = model is WeightsTable  # the entries of an own file are whole ones; of others it may say a part
    for document in layers if whole else ():
        try:
            model.model_validate(document.data)
        except ValidationError as error:
            raise ConfigError(explain(error, document, model)) from None
    try:
        return model.model_validate(merge(layers).data)
    except ValidationError as error:
        raise ConfigError(explain(error, layers[-1], model)) from None
