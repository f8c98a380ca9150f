"""check.yml -e serve=MODEL: what a model would do served here, though another one is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolcluster.cli import app_of, run_app
from smolcluster.doctor.report import Check
from smolcluster.plan.decoding import DecodePace
from smolcluster.plan.profile import LinkSpeed, Profile
from tests.unit.balanced_plans import LOCAL, NODES, of_run, resolved

from .model_folders import GPT2, model_folder

# A layer in a thousandth of a second for a hundred parameters, and words for nothing.
PACE = DecodePace(rows=(1, 128), layer_s=(0.001, 0.001), head_s=(0.0, 0.0), layer_params=100, table_params=400)
# Its layers have 4 * 2 * 2 parameters for attention, and 2 * 2 * 8 for the rest.
TINY = {**GPT2, "n_embd": 2, "n_head": 1, "n_layer": 3, "vocab_size": 10, "n_positions": 16}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = model_folder(tmp_path / "gpt2", TINY)
    for name in ("model.safetensors", "tokenizer.json"):
        (made / name).write_text(f"the {name}")
    return made


def check(tmp_path: Path, capsys: pytest.CaptureFixture[str], *flags: str, pace: DecodePace | None = PACE) -> Check:
    profile = of_run(resolved(LOCAL, "fsdp"), dict.fromkeys(NODES, 1.0))
    assert profile.measured is not None
    nodes = {name: one.model_copy(update={"decode": pace}) for name, one in profile.measured.nodes.items()}
    links = tuple(LinkSpeed(src=a, dst=b, mbps=1e9, rtt_ms=2.0) for a in NODES for b in NODES if a != b)
    measured = profile.measured.model_copy(update={"nodes": nodes})
    text = Profile(speeds=profile.speeds, links=links, measured=measured).model_dump_json(by_alias=True)
    (tmp_path / "profile.json").write_text(text)
    asked = ("-i", str(LOCAL), "--profile", str(tmp_path / "profile.json"), "--out", str(tmp_path / "check"), *flags)
    assert run_app(app_of(), ["doctor", *asked]) == 0, capsys.readouterr()
    return Check.model_validate(json.loads((tmp_path / "check" / "check.json").read_text()))


def test_a_model_that_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = check(tmp_path, capsys, "--serve", str(folder)).serving
    assert told is not None
    assert (told.model, told.layers) == (str(folder), {"node1": "0:1", "node2": "1:2", "node3": "2:3"})
    # Three layers one after the other, and three hops of half a round trip.
    assert told.hops_ms == pytest.approx(3.0, rel=1e-3)
    assert told.one_stream == pytest.approx(1 / (3 * 0.001 * 48 / 100 + 0.003), rel=1e-3)
    assert "(node1 0:1, node2 1:2, node3 2:3)" in " ".join(capsys.readouterr().out.split())


def test_without_it_the_trained_one(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = check(tmp_path, capsys).serving
    assert told is not None
    assert (told.model, told.why_not) == ("this model", "")
    fewer = check(tmp_path, capsys, "--serve", str(folder), "--nodes", "node1,node3").serving
    assert fewer is not None
    assert list(fewer.layers) == ["node1", "node3"]


def test_why_it_is_not_predicted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = check(tmp_path, capsys, "--serve", str(folder), pace=None).serving
    assert told is not None
    assert told.why_not.startswith("nobody measured how fast these machines decode: ansible-playbook ")
    nothing = check(tmp_path, capsys, "--serve", "no-such-model").serving
    assert nothing is not None
    assert nothing.why_not.startswith("there is no such model to serve")
    assert "Traceback" not in capsys.readouterr().out


def test_weights_that_are_nowhere_are_brought_first_by_something_that_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `make setup-cluster`: no package that carries them, nothing in the hub's cache. A check has no flag."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("smolcluster.infer.weights.package_file", lambda place: None)
    monkeypatch.setattr("smolcluster.data.hubclient.Hub.cached", lambda hub, repo, file: None)
    bring = f"python -m smolcluster weights {{}} -i {LOCAL.as_posix()} --download"
    for model, weights, before in (
        ("smollm2", "smollm2", "make serve once, or "), ("causal_gpt2", "gpt2", ""), ("owner/name", "owner/name", "")
    ):  # fmt: skip
        told = check(tmp_path, capsys, "--serve", model).serving
        assert told is not None
        assert told.why_not.endswith(f"bring its weights here first: {before}{bring.format(weights)})")
        assert "allow the download" not in told.why_not
        assert "-e download" not in told.why_not
        # What it says to call can be called.
        words = bring.format(weights).split()[3:]
        assert run_app(app_of(), [*words, "--help"]) == 0
