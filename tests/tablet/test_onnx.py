import numpy as np
import pytest
import torch

from smolcluster.errors import InputError
from smolcluster.models.decoder import Row
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.tablet.export import export_onnx, load_for_tablet
from smolcluster.tablet.manifest import describe
from smolcluster.tablet.verify import open_step, verify
from tests.infer.infer_models import CONTEXT, LAYERS


@pytest.mark.parametrize("layers", ["1:3", "2:4", "3:4"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "qwen3", "llama3"])
def test_onnxruntime_computes_what_torch_does(models, tmp_path, kind, layers):
    start, stop = map(int, layers.split(":"))
    decoder = load_stage(models(kind)[1], LayerRange(start, stop, LAYERS))
    export = export_onnx(decoder, kind, CONTEXT, tmp_path)
    step, by = open_step(export)
    assert by == "onnxruntime"
    cache = decoder.new_cache(CONTEXT)
    for count in (7, 1, 1, 3):
        hidden = torch.randn(count, decoder.shape.width)
        wanted = decoder(hidden, [Row(cache, count, True)]).numpy()
        assert np.abs(step(hidden.numpy()[None])[0] - wanted).max() <= 1e-4
    assert verify(export, decoder).relative <= 1e-5


def test_another_weight_layer_option_or_format_is_another_hash(models):
    decoder = load_stage(models("gpt2")[1], LayerRange(1, 3, LAYERS))
    plain = describe(decoder, "m", "coreml", "fp16", 32, (1, 4)).hash
    assert describe(decoder, "another name", "coreml", "fp16", 32, (1, 4)).hash == plain
    others = {
        describe(decoder, "m", "coreml", "int8", 32, (1, 4)).hash,
        describe(decoder, "m", "coreml", "fp16", 33, (1, 4)).hash,
        describe(decoder, "m", "coreml", "fp16", 32, (1,)).hash,
        describe(decoder, "m", "onnx", "fp16", 32, (1, 4)).hash,
        describe(load_stage(models("gpt2")[1], LayerRange(1, 2, LAYERS)), "m", "coreml", "fp16", 32, (1, 4)).hash,
    }
    changed = load_stage(models("gpt2")[1], LayerRange(1, 3, LAYERS))
    changed.layers[1].mlp.down.bias[3] += 1e-6
    others.add(describe(changed, "m", "coreml", "fp16", 32, (1, 4)).hash)
    assert len(others | {plain}) == 7


def test_a_name_with_slashes_stays_in_the_folder(models):
    decoder = load_stage(models("gpt2")[1], LayerRange(1, 2, LAYERS))
    name = describe(decoder, "../owner/a model", "onnx", "fp32", 32, ()).name
    assert name.startswith("owner-a-model-1-2-onnx-fp32-")


@pytest.mark.parametrize(
    ("layers", "context", "words"),
    [
        ("0:2", None, "the first layers, with the embeddings"),
        ("3:9", None, "is no range of its layers"),
        ("two", None, "is no range of its layers"),
        ("1:2", CONTEXT + 1, "the model knows 1 to 48"),
    ],
)
def test_what_cannot_be_exported_is_told(models, layers, context, words):
    with pytest.raises(InputError, match=words):
        load_for_tablet(models("gpt2")[1], layers, context)


def test_all_that_is_wrong_is_told_at_once(models):
    with pytest.raises(InputError, match="2 problems"):
        load_for_tablet(models("gpt2")[1], "4:4", 0)
