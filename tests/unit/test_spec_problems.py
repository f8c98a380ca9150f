"""Guesses at what was meant, and the shipped files."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.spec.clusterfile import FsdpFile
from smolcluster.spec.inventoryfile import InventoryFile
from smolcluster.spec.problems import did_you_mean, keys_at
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve_any
from smolcluster.spec.serving import resolve_any_serving
from smolcluster.spec.shipped import FILE_MODELS, FOLDER, shipped

LOCAL = Path(__file__).resolve().parents[2] / "inventory" / "local.smol.yml"


def test_guesses() -> None:
    assert did_you_mean("fdsp", ["fsdp", "edp"]) == "did you mean fsdp?"
    assert did_you_mean("MINI1", ["mini1"]) == "did you mean mini1?"
    assert did_you_mean("zebra", ["fsdp"], "else") == "else"


def test_a_key_is_guessed_without_its_section() -> None:
    keys = ["port", "web_interface.api_port", "recovery.max_restarts", "10.10.0.1"]
    assert did_you_mean("api_port", keys) == "did you mean web_interface.api_port?"
    assert did_you_mean("api_prot", keys) == "did you mean web_interface.api_port?"
    assert did_you_mean("prt", keys) == "did you mean port?"
    assert did_you_mean("max_steps", keys, "else") == "else", "alike, and another thing"
    assert did_you_mean("1", keys, "else") == "else", "an address has no sections"


def test_keys_of_a_section_are_found_through_lists_maps_and_options() -> None:
    assert "memory_mb" in keys_at(InventoryFile, ("machines", "mini1"))
    assert "hostname" in keys_at(FsdpFile, ("allToAllTopology", "workers", "regular", 0))
    assert keys_at(FsdpFile, ("buffer_size",)) == ()
    assert keys_at(FsdpFile, ("nothing", "below")) == ()
    assert "schema" in keys_at(InventoryFile, ())


def test_every_shipped_file_is_there_and_every_file_there_is_known() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == set(FILE_MODELS)


@pytest.mark.parametrize("name", FILE_MODELS)
def test_shipped_files_are_valid_and_name_no_machines(name: str) -> None:
    document = shipped(name)
    assert document is not None
    FILE_MODELS[name].model_validate(document.data)
    named = {"host_ip", "workers", "server", "allToAllTopology", "nodes", "stages", "num_workers"}
    assert not named & set(document.data)
    assert document.data.get("staleness_bound", 5) == 5  # as the documentation has it


@pytest.mark.parametrize("strategy", ["single", "classicdp", "fsdp", "edp", "syncps", "mp"])
@pytest.mark.parametrize("model", ["gpt", "nn"])
def test_the_shipped_files_resolve_on_the_local_machine(strategy: str, model: str) -> None:
    told = ("mp: the model has 2 layers, so node3 is left out",) if (strategy, model) == ("mp", "nn") else ()
    assert resolve_any(Request(LOCAL, strategy, model=model)).notes == told


@pytest.mark.parametrize("model", ["causal_gpt2", "smollm2"])
def test_the_shipped_models_can_be_split(model: str) -> None:
    served = resolve_any_serving(Request(LOCAL, "inference", model=model))
    assert [stage.node for stage in served.serve.stages] == ["node1", "node2", "node3"]
    assert served.serve.stages[-1].stop == served.serve.model.num_layers
