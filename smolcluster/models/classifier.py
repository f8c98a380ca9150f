"""A trained SimpleNN as a folder, and back: config.json and model.safetensors, as a Hugging Face model has them.

transformers has no such model, so nothing but this loads it. Beside its shape the config says how pictures are made
numbers for it (pixel / 255, less the mean, over the deviation), without which the weights are worth nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smolcluster.errors import InputError, Problem
from smolcluster.files import folder_aside
from smolcluster.models.nn import SimpleNN
from smolcluster.models.swap import put_in_place
from smolcluster.spec.run import NNSpec

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = "smolcluster-simplenn"


@dataclass(frozen=True)
class Scaling:
    """How a pixel, 0 to 255, becomes what the model was trained on."""

    mean: float
    std: float

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels of any shape -> float32 of the same."""
        return (pixels.to(torch.float32) / 255 - self.mean) / self.std


def save_classifier(spec: NNSpec, scaling: Scaling, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the model to `folder`, whole or not at all; an older one there is replaced. `tensors` by parameter name."""
    folder = folder.absolute()
    building = folder_aside(folder.parent, f".{folder.name}-")
    try:
        flat = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in tensors.items()}
        save_file(flat, building / WEIGHTS, metadata={"format": "pt"})
        config = {
            "architectures": ["SimpleNN"],
            "model_type": MODEL_TYPE,
            "input_dim": spec.input_dim,
            "hidden": spec.hidden,
            "out": spec.out,
            "dtype": "float32",
            "pixel_mean": scaling.mean,
            "pixel_std": scaling.std,
        }
        (building / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        building.chmod(0o755)  # mkdtemp and safetensors make private files; a model is meant to be read
        (building / WEIGHTS).chmod(0o644)
        put_in_place(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load_classifier(folder: Path) -> tuple[SimpleNN, Scaling]:
    """The model in a folder, in evaluation mode, and what its pictures need. InputError when it is none."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["model_type"] != MODEL_TYPE:
            raise _problem(folder, f"is a model of type {config['model_type']!r}, not {MODEL_TYPE}")
        spec = NNSpec(input_dim=config["input_dim"], hidden=config["hidden"], out=config["out"])
        model = SimpleNN(spec)
        model.load_state_dict(load_file(folder / WEIGHTS))
        return model.eval(), Scaling(config["pixel_mean"], config["pixel_std"])
    except FileNotFoundError:
        raise _problem(folder, f"has no {CONFIG} and {WEIGHTS}") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _problem(folder, f"cannot be read: {str(error).splitlines()[0]}") from error


def _problem(folder: Path, what: str) -> InputError:
    return InputError([Problem(str(folder), 0, "", what, "give the model folder of a run of --model nn")])
