"""`simulate`: what it is told, what it refuses, and that a thousand machines are no more work than a few."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from smolcluster.cli import app_of, run_app
from smolcluster.plan.paper import counts_up_to
from smolcluster.spec.shipped import machines_table

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventory" / "local.smol.yml"
SMALL = ("--override", "model.num_layers=2,model.model_dim=64,model.num_heads=2,model.ff_dim=128")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def figures(*flags: str) -> dict[str, Any]:
    done = CliRunner().invoke(app_of(), ["simulate", "--json", *flags])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert run_app(app_of(), ["simulate", *flags]) == 2
    return capsys.readouterr().err


def rates(told: dict[str, Any], label: str) -> list[float | None]:
    return [one.get("tokens_per_s") for one in told["strategies"][label]["scale"]]


def test_every_machine_and_wire_of_the_table_names_its_source() -> None:
    table = machines_table(LOCAL)
    assert all(len(one.source) > 20 for one in (*table.machines.values(), *table.wires.values()))
    assert {one.wire for one in table.machines.values()} <= set(table.wires)


def test_all_strategies_and_what_is_estimated() -> None:
    told = figures("--nodes", "4x mac-mini-m4, 2x pi5, mine=50000:16384")
    assert told["schema"] == 1
    assert told["estimated"] == ["mac-mini-m4", "pi5"]
    assert set(told["sources"]) == {"mac-mini-m4", "pi5"}
    labels = list(told["strategies"])
    assert {"mp", "diloco", "edp", "syncps", "fsdp 3"} <= set(labels)
    assert sum(label.startswith("fsdp") for label in labels) == 4
    for label in labels:
        assert [one["machines"] for one in told["strategies"][label]["scale"]] == [1, 2, 4, 7]


def test_one_machine_takes_what_it_was_said_to_take() -> None:
    told = figures("--nodes", "mine=12000", "--strategy", "classicdp")
    assert rates(told, next(iter(told["strategies"]))) == [pytest.approx(12000)]


def test_a_thousand_machines() -> None:
    told = figures("--nodes", "900x mac-mini-m4, 100x pi5", "--link", "2.5g")
    assert all(line["scale"][-1]["machines"] == 1000 for line in told["strategies"].values())


def test_a_faster_wire_is_never_slower_and_wifi_is_shared() -> None:
    def at(link: str) -> float:
        told = figures(
            "--nodes", "8x mac-mini-m4", "--link", link, "--strategy", "fsdp", *SMALL, "--override", "staleness_bound=0"
        )
        return float(rates(told, "fsdp 1")[-1] or 0)

    assert at("wifi") < at("1g") < at("2.5g") <= at("10g") <= at("thunderbolt")


def test_what_is_measured_comes_from_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text('{"schema": 1, "speeds": {"mini1": 8000.0}}')
    told = figures("--nodes", "2x mini1", "--profile", str(file), "--strategy", "diloco")
    assert told["estimated"] == []
    assert rates(told, "diloco")[0] == pytest.approx(8000)


def test_a_wire_of_ones_own_table_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "local.smol.yml").write_text(LOCAL.read_text())
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "machines.yaml").write_text("machines: {pi5: {wire: wify}}\n")
    said = refused(capsys, "-i", str(tmp_path / "local.smol.yml"), "--nodes", "2x pi5")
    assert 'machines.pi5.wire: there is no wire "wify"' in said
    assert "did you mean wifi?" in said
    assert figures("-i", str(tmp_path / "local.smol.yml"), "--nodes", "2x pi5", "--link", "1g", "--strategy", "mp")


def test_ones_own_table_is_laid_over_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "local.smol.yml").write_text(LOCAL.read_text())
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "machines.yaml").write_text(
        "machines: {toaster: {flops: 1.0e+9, bandwidth_gb_s: 1.0, memory_mb: 64, wire: wifi, source: my kitchen}}\n"
    )
    told = figures("-i", str(tmp_path / "local.smol.yml"), "--nodes", "2x toaster", "--strategy", "classicdp")
    assert told["sources"] == {"toaster": "my kitchen"}
    [line] = told["strategies"].values()
    assert "needs" in line["scale"][-1]["why_not"]


def test_everything_that_is_wrong_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "--nodes", "4x mac-mini-m5, 0x pi5, a b, my=0", "--link", "fibre")
    assert "did you mean mac-mini-m4?" in said
    assert "there are thunderbolt, 10g, 2.5g, 1g, wifi" in said
    assert "my: 0 is no speed" in said
    assert "pi5: 0 of them are none" in said
    assert '"a b" is no number of machines' in said
    assert said.startswith("5 problems")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--nodes", ""), "names no machine"),
        (("--nodes", "pi5, 2x pi5"), "pi5: is named twice"),
        (("--nodes", "1001x pi5"), "1001 machines are more than the 1000"),
        (("--nodes", "pi5", "--strategy", "fdsp"), "did you mean fsdp?"),
        (("--nodes", "pi5", "--link", "pi4=1g"), "pi4: is none of the machines"),
        (("--nodes", "pi5", "--override", "training.batchsize=2"), "did you mean"),
        (("--nodes", "pi5", "--profile", "nowhere.json"), "cannot be read"),
        (("--nodes", "pi5", "-i", "nowhere.smol.yml"), "nowhere.smol.yml: there is no such file"),
    ],
)
def test_a_mistake_is_told_in_words(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str) -> None:
    assert words in refused(capsys, *flags)


def test_a_setting_of_one_strategy_leaves_the_others_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app_of(), ["simulate", "--nodes", "4x pi5", "--override", "outer_every=5"]) == 0
    told = capsys.readouterr()
    assert "diloco" in told.out
    assert "mp is left out" in told.err
    assert "estimated, not measured" in told.out


def test_shares_of_unequal_machines_go_by_speed_unless_even_ones_are_asked_for() -> None:
    # In diloco a machine takes fewer steps of a round: even shares cost it something where it cannot take even one.
    flags = ("--nodes", "mine=50000, 2x slow=500", "--link", "10g")
    by_speed, auto = figures(*flags), figures(*flags, "--override", "balance=auto")
    even = figures(*flags, "--override", "balance=even")
    assert auto["strategies"] == by_speed["strategies"], "it is what simulate begins with"
    last = {label: (rates(by_speed, label)[-1], rates(even, label)[-1]) for label in even["strategies"]}
    for label, (now, then) in last.items():
        assert now is not None
        assert then is not None
        assert (now > 1.2 * then) if label.startswith(("classicdp", "fsdp", "diloco")) else (now == then)
    # Of equal machines both are the same.
    equal = ("--nodes", "3x mine=50000", "--link", "10g")
    assert figures(*equal)["strategies"] == figures(*equal, "--override", "balance=even")["strategies"]


@pytest.mark.parametrize("strategy", ["classicdp", "diloco"])
def test_what_shares_by_speed_would_gain_is_told_of_even_ones(strategy: str) -> None:
    flags = ("--nodes", "mine=50000, 2x slow=500", "--link", "10g", "--strategy", strategy)
    even = figures(*flags, "--override", "balance=even")
    [gain] = [one for one in even["gains"] if one["change"] == "shares of the batch by speed"]
    assert gain["how"] == "--override balance=auto"
    assert gain["tokens_per_s_before"] == rates(even, next(iter(even["strategies"])))[-1]
    by_speed = figures(*flags)
    assert gain["tokens_per_s_after"] == rates(by_speed, next(iter(by_speed["strategies"])))[-1]
    assert all(one["change"] != gain["change"] for one in by_speed["gains"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--nodes", "mine=50000, slow=5000"), "classicdp, fsdp, diloco: shares of the batch by speed, as with"),
        (
            ("--nodes", "mine=50000, slow=5000", "--strategy", "mp,diloco"),
            "diloco: shares of the batch by speed, as with",
        ),
        (("--nodes", "mine=50000, slow=5000", "--strategy", "mp"), ""),
        (("--nodes", "mine=50000, slow=5000", "--override", "balance=even"), ""),
        (("--nodes", "4x mine=50000"), ""),
    ],
)
def test_how_the_batch_is_shared_out_is_said(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    assert run_app(app_of(), ["simulate", *flags]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert ("-e profile=true -e override=balance=auto" in told) is bool(said)
    assert said in told


def test_numbers_of_machines() -> None:
    assert counts_up_to(1) == [1]
    assert counts_up_to(4) == [1, 2, 4]
    assert counts_up_to(7) == [1, 2, 4, 7]


def test_where_adding_machines_stops_paying() -> None:
    told = figures(
        "--nodes", "64x mac-mini-m4", "--link", "wifi", "--strategy", "classicdp", "--override", "staleness_bound=0"
    )
    stop = told["strategies"]["classicdp"]["stops_paying"]
    assert stop["machines"] == 1
    assert "waiting for the wire grows" in stop["why"]


def test_the_fastest_alone_what_to_change_and_serving(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--nodes", "2x mac-mini-m4, 2x pi5", "--link", "wifi", "--link", "mac-mini-m4=1g", *SMALL)
    told = figures(*flags)
    best = told["strategies"][told["best"]]["scale"][-1]
    assert best["tokens_per_s"] == max(line["scale"][-1]["tokens_per_s"] for line in told["strategies"].values())
    assert told["alone"]["machine"] == "mac-mini-m4"
    assert told["alone"]["quicker"] is (told["alone"]["tokens_per_s"] >= best["tokens_per_s"])
    gains = {one["change"]: one for one in told["gains"]}
    assert all(one["tokens_per_s_before"] == best["tokens_per_s"] for one in gains.values())
    after = [one["tokens_per_s_after"] for one in told["gains"]]
    assert after == sorted(after, reverse=True)
    assert min(after) >= 1.05 * best["tokens_per_s"]
    assert gains["1g for pi5"]["how"] == "--link pi5=1g"
    # What is promised is what the changed cluster is predicted to do.
    wired = figures(*flags, "--link", "pi5=1g", "--strategy", told["best"].split()[0].rstrip(","))
    rates_then = [line["scale"][-1]["tokens_per_s"] for line in wired["strategies"].values()]
    assert gains["1g for pi5"]["tokens_per_s_after"] in [pytest.approx(rate) for rate in rates_then]
    alone, split = told["serving"]
    assert (alone["machines"], alone["layers"]) == (["mac-mini-m4"], [2])
    assert (split["machines"], split["layers"]) == (["mac-mini-m4"] * 2, [1, 1])
    assert alone["one_stream"] > split["one_stream"], "a stream passes both, and the wire besides"
    assert run_app(app_of(), ["simulate", *flags]) == 0
    said = capsys.readouterr().out
    assert "mac-mini-m4 alone:" in said
    assert "what to change to gain most" in said
    assert "serving this model on 2 x mac-mini-m4 (layers 1, 1):" in " ".join(said.split())


def test_a_terminal_of_80_columns_shows_every_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_app(app_of(), ["simulate", "--nodes", "1000x mac-mini-m4", "--link", "10g"]) == 0
    said = capsys.readouterr().out
    head = next(line.split() for line in said.splitlines() if line.split()[-1:] == ["1,000"])
    assert head == ["strategy", "1", "4", "16", "64", "256", "1,000"]
    assert "…" not in said
    assert run_app(app_of(), ["simulate", "--nodes", "pi5"]) == 0
    alone = capsys.readouterr().out
    assert "by number of machines" not in alone
    assert "what to change" not in alone
    assert "…" not in alone


def test_of_a_machine_that_was_told_by_its_training_no_serving_is_predicted() -> None:
    (alone,) = figures("--nodes", "mine=12000", "--strategy", "classicdp")["serving"]
    assert alone["why_not"] == "of mine it is not known how fast it reads a model's weights"
    assert figures("--nodes", "2x pi5", "--model", "nn", "--strategy", "classicdp")["serving"] == []
