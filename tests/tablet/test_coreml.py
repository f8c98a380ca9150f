"""The saved program of a stage against torch. On a Mac Core ML computes it, elsewhere the interpreter."""

import json
import sys

import numpy as np
import pytest
import torch

from smolcluster.errors import InputError
from smolcluster.models.decoder import Row
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.tablet.export import export_coreml
from smolcluster.tablet.interpreter import Interpreter
from smolcluster.tablet.verify import compare, open_step, verify
from tests.infer.infer_models import CONTEXT, LAYERS, VOCABULARY, make

pytest.importorskip("coremltools", reason="coremltools is for macOS, and for Linux on x86-64")

PIECES = (8, 4, 1, 1, 4, 1)
LENGTHS = (1, 4, 8)


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    """exported("llama", "1:3", "fp16") -> (the export, the torch stage), made once."""
    made = {}
    out = tmp_path_factory.mktemp("tablet")

    def export(kind, layers="1:3", precision="fp16"):
        key = (kind, layers, precision)
        if key not in made:
            start, stop = map(int, layers.split(":"))
            decoder = load_stage(models(kind)[1], LayerRange(start, stop, LAYERS))
            made[key] = export_coreml(decoder, kind, CONTEXT, out, precision, LENGTHS), decoder
        return made[key]

    return export


def both(exported, decoder, step, pieces=PIECES, scale=1.0):
    """What the export makes of some pieces of one text, and what torch makes of them."""
    cache = decoder.new_cache(CONTEXT)
    generator = torch.Generator().manual_seed(1)
    found, wanted = [], []
    for count in pieces:
        hidden = torch.randn(count, decoder.shape.width, generator=generator) * scale
        wanted.append(decoder(hidden, [Row(cache, count, True)]).numpy())
        found.append(step(hidden.numpy()[None])[0])
        assert found[-1].shape == wanted[-1].shape
    return np.concatenate(found), np.concatenate(wanted)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "qwen3", "llama3"])
def test_prompt_and_single_tokens_are_torchs(exported, kind):
    export, decoder = exported(kind)
    found, wanted = both(export, decoder, open_step(export)[0])
    # Values reach 18: half precision keeps 11 bits of them, and rounds after every operation.
    assert compare(found, wanted).relative <= 0.002
    assert compare(found, wanted).cosine >= 0.99999


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_with_weights_as_they_are_initialised_it_is_within_a_hundredth(kind, tmp_path):
    torch.manual_seed(0)
    make(kind).eval().save_pretrained(tmp_path / "model")
    decoder = load_stage(tmp_path / "model", LayerRange(1, 3, LAYERS))
    export = export_coreml(decoder, kind, CONTEXT, tmp_path, "fp16", LENGTHS)
    found, wanted = both(export, decoder, open_step(export)[0])
    assert np.abs(found - wanted).max() <= 0.01


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_last_stage_gives_the_logits_after_the_last_token(exported, kind):
    export, decoder = exported(kind, "2:4")
    found, wanted = both(export, decoder, open_step(export)[0])
    assert found.shape == (len(PIECES), VOCABULARY)
    assert np.abs(found - wanted).max() <= 0.01


@pytest.mark.parametrize(("precision", "relative", "cosine"), [("int8", 0.03, 0.9998), ("int4", 0.4, 0.97)])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_quantised_weights_stay_near(exported, kind, precision, relative, cosine):
    export, decoder = exported(kind, precision=precision)
    found, wanted = both(export, decoder, open_step(export)[0])
    difference = compare(found, wanted)
    assert difference.relative <= relative
    assert difference.cosine >= cosine
    # It is quantised, not half precision by another name.
    assert difference.relative > 0.002


def test_quantised_packages_are_smaller(exported):
    sizes = {}
    for precision in ("fp16", "int8", "int4"):
        folder = exported("gpt2", precision=precision)[0].file / "Data"
        sizes[precision] = sum(file.stat().st_size for file in folder.rglob("weight.bin"))
    assert sizes["int8"] < 0.7 * sizes["fp16"]
    assert sizes["int4"] < 0.7 * sizes["int8"]


@pytest.mark.parametrize("scale", [300.0, 3000.0])
def test_large_hidden_states_do_not_overflow_half_precision(exported, scale):
    """Real models have a few values in the thousands, whose squares half precision cannot hold."""
    export, decoder = exported("llama")
    found, wanted = both(export, decoder, open_step(export)[0], scale=scale)
    assert np.isfinite(found).all()
    assert compare(found, wanted).relative <= 0.002


def test_two_sessions_do_not_see_each_other(exported):
    export, decoder = exported("gpt2")
    one, _ = both(export, decoder, open_step(export)[0])
    steps = [open_step(export)[0], open_step(export)[0]]
    generator = torch.Generator().manual_seed(1)
    mixed = []
    for count in PIECES:
        hidden = torch.randn(count, decoder.shape.width, generator=generator).numpy()[None]
        mixed.append(steps[0](hidden)[0])
        steps[1](hidden * 2)
    assert (np.concatenate(mixed) == one).all()


def test_a_token_sees_its_own_and_earlier_positions_alone(exported):
    """The mask is in the program: what later tokens of the same piece are changes nothing."""
    export, decoder = exported("llama")
    hidden = torch.randn(8, decoder.shape.width).numpy()[None]
    other = hidden.copy()
    other[:, 5:] += 3
    before, after = open_step(export)[0](hidden), open_step(export)[0](other)
    assert (before[:, :5] == after[:, :5]).all()
    assert (before[:, 5:] != after[:, 5:]).any()


def test_the_program_has_a_state_for_keys_and_values_and_enumerated_lengths(exported):
    program = Interpreter(exported("llama")[0].file)
    assert {name: state.shape for name, state in program.new_state().items()} == {
        "keys": (2, 2, CONTEXT, 8), "values": (2, 2, CONTEXT, 8),
    }  # fmt: skip
    assert program.lengths == list(LENGTHS)
    assert {"slice_update", "less_equal", "softmax", "linear"} <= program.operations


def test_it_is_for_ios_18(exported):
    import coremltools

    spec = coremltools.models.MLModel(str(exported("gpt2")[0].file), skip_model_load=True).get_spec()
    assert spec.specificationVersion == coremltools._SPECIFICATION_VERSION_IOS_18
    half = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT16
    assert [one.name for one in spec.description.input] == ["hidden", "positions"]
    assert spec.description.input[0].type.multiArrayType.dataType == half
    assert [(one.name, one.type.multiArrayType.dataType) for one in spec.description.output] == [("out", half)]
    assert all(state.type.stateType.arrayType.dataType == half for state in spec.description.state)


def test_it_is_made_once_and_named_by_its_content(models, tmp_path):
    decoder = load_stage(models("gpt2")[1], LayerRange(1, 2, LAYERS))
    first = export_coreml(decoder, "gpt2", CONTEXT, tmp_path, "fp16", LENGTHS)
    stamp = (first.folder / "stage.json").stat().st_mtime_ns
    again = export_coreml(decoder, "gpt2", CONTEXT, tmp_path, "fp16", LENGTHS)
    assert (first.made, again.made, again.folder) == (True, False, first.folder)
    assert (first.folder / "stage.json").stat().st_mtime_ns == stamp
    assert first.folder.name == f"gpt2-1-2-coreml-fp16-{first.manifest.hash[:12]}"
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.folder.name]  # nothing half made
    said = json.loads((first.folder / "stage.json").read_text())
    assert (said["schema"], said["layers"], said["width"], said["context"], said["lengths"]) == (
        1, "1:2", 48, CONTEXT, list(LENGTHS),
    )  # fmt: skip
    assert said["states"]["keys"] == {"dtype": "float16", "shape": [1, 4, CONTEXT, 12]}


def test_one_length_is_a_fixed_shape(models, tmp_path):
    decoder = load_stage(models("llama")[1], LayerRange(1, 2, LAYERS))
    export = export_coreml(decoder, "llama", 8, tmp_path, "fp16", (1, 64))
    assert export.manifest.lengths == (1,)  # 64 tokens do not fit into a cache for 8
    assert Interpreter(export.file).lengths == [1]
    found, wanted = both(export, decoder, open_step(export)[0], pieces=(1,) * 8)
    assert compare(found, wanted).relative <= 0.002


def test_what_was_broken_is_made_again(models, tmp_path):
    decoder = load_stage(models("gpt2")[1], LayerRange(1, 2, LAYERS))
    first = export_coreml(decoder, "gpt2", CONTEXT, tmp_path, "fp16", (1,))
    (first.folder / "stage.json").write_text("{")
    assert export_coreml(decoder, "gpt2", CONTEXT, tmp_path, "fp16", (1,)).made
    assert verify(first, decoder).relative < 0.01


def test_it_is_verified_on_the_hidden_states_that_the_layers_before_make(models, exported):
    export, decoder = exported("gpt2")
    before = load_stage(models("gpt2")[1], LayerRange(0, 1, LAYERS))
    assert verify(export, decoder, before).relative <= 0.002


def test_a_wrong_export_is_told(models, exported):
    """--verify can fail: the package of one stage is not another stage."""
    export, _ = exported("gpt2")
    other = load_stage(models("gpt2")[1], LayerRange(2, 3, LAYERS))
    with pytest.raises(InputError, match="does not compute what torch does"):
        verify(export, other)


@pytest.mark.skipif(sys.platform != "darwin", reason="Core ML's own predict is on macOS alone; never tried there")
def test_core_ml_itself_computes_it(exported):
    export, decoder = exported("gpt2")
    assert open_step(export)[1] == "Core ML"
    assert verify(export, decoder).relative <= 0.01
