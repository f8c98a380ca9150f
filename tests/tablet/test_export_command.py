import json
import sys

import pytest

from smolcluster.cli import main


def test_export_onnx_says_where_it_is_and_that_it_is_right(models, tmp_path, capsys):
    arguments = [
        "export-onnx",
        "--model",
        str(models("gpt2")[1]),
        "--layers",
        "1:3",
        "--out",
        str(tmp_path),
        "--verify",
    ]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    [folder] = tmp_path.iterdir()
    assert f"{folder / 'stage.onnx'}\n  layers   1:3, made now\n" in out
    assert "by onnxruntime" in out
    assert json.loads((folder / "stage.json").read_text())["hash"] in out
    assert main(arguments) == 0
    assert "made before" in capsys.readouterr().out


@pytest.mark.slow
def test_export_coreml_verifies_what_it_saved(models, tmp_path, capsys):
    pytest.importorskip("coremltools")
    arguments = ["export-coreml", "--model", str(models("llama")[1]), "--layers", "3:4", "--out", str(tmp_path)]
    assert main([*arguments, "--precision", "int8", "--lengths", "1,4", "--context", "16", "--verify"]) == 0
    assert "cosine 0.99" in capsys.readouterr().out
    [folder] = tmp_path.iterdir()
    said = json.loads((folder / "stage.json").read_text())
    assert (said["precision"], said["lengths"], said["context"], said["last"]) == ("int8", [1, 4], 16, True)


def test_wrong_options_are_told_together_and_nothing_is_made(tmp_path, capsys):
    arguments = ["export-coreml", "--model", "m", "--layers", "1:2", "--out", str(tmp_path)]
    assert main([*arguments, "--precision", "int3", "--lengths", "1,many"]) == 2
    error = capsys.readouterr().err
    assert "2 problems" in error
    assert "fp16, int8, int4" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "package"), [("export-coreml", "coremltools"), ("export-onnx", "onnx")])
def test_who_lacks_the_package_is_told_what_to_install(models, tmp_path, capsys, monkeypatch, command, package):
    monkeypatch.setitem(sys.modules, package, None)
    arguments = [command, "--model", str(models("gpt2")[1]), "--layers", "1:2", "--out", str(tmp_path)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"needs {package}, which is not installed here" in error
    assert f"smolcluster[{package.removesuffix('tools')}]" in error
    assert not list(tmp_path.iterdir())
