"""Whether a run fits into its machines: state and processes are counted, and what would help is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolcluster.errors import ConfigError
from smolcluster.plan.make import make_plan
from smolcluster.plan.room import PROCESS_MB
from smolcluster.spec.request import Request
from smolcluster.spec.resolve import resolve

LAN = """\
schema: 1
name: lan
machines:
  a: {{connection: local, memory_mb: {a}, ranks: {ranks}}}
  b: {{connection: local, memory_mb: {b}}}
networks:
  lan: {{medium: ethernet, speed_mbps: 1000, private: true, members: {{a: 127.0.0.2, b: 127.0.0.3}}}}
"""
# Half of its parameters are blocks: split, it takes less of each machine.
DEEP = ("model.num_layers=24", "training.batch_size=1")
STATE_MB = 486


def planned(folder: Path, strategy: str, a: int, b: int = 16384, ranks: int = 1, staleness_bound: int = 0) -> list[str]:
    """The problems of a plan."""
    path = folder / "lan.smol.yml"
    path.write_text(LAN.format(a=a, b=b, ranks=ranks))
    bound = (f"staleness_bound={staleness_bound}",) if strategy in ("classicdp", "fsdp") else ()
    found = resolve(Request(path, strategy, overrides=(*DEEP, *bound)))
    try:
        make_plan(found.cluster, found.run, found.notes, found.inputs)
    except ConfigError as error:
        return [f"{problem.key}: {problem.what} | {problem.fix}" for problem in error.problems]
    return []


def test_a_process_is_counted_besides_the_model(tmp_path: Path) -> None:
    assert planned(tmp_path, "classicdp", a=STATE_MB + 1 + PROCESS_MB) == []
    [problem] = planned(tmp_path, "classicdp", a=STATE_MB - 1 + PROCESS_MB)
    said = f"machines.a.memory_mb: the model's state needs {STATE_MB} MB there and its process 240, and it has 725 | "
    assert problem.startswith(said)


def test_every_rank_is_a_process(tmp_path: Path) -> None:
    assert planned(tmp_path, "classicdp", a=2 * (STATE_MB + 1 + PROCESS_MB), ranks=2) == []
    [problem] = planned(tmp_path, "classicdp", a=1400, ranks=2)
    assert f"needs {2 * STATE_MB} MB there and its 2 processes 480, and it has 1400" in problem


def test_a_model_too_big_for_one_machine_may_be_split_over_several(tmp_path: Path) -> None:
    [problem] = planned(tmp_path, "single", a=720)
    assert problem.endswith(" | take a smaller model, or --strategy mp, which splits the layers over a, b")
    [problem] = planned(tmp_path, "classicdp", a=720)
    assert problem.endswith(
        " | take a smaller model, --strategy fsdp, whose stages share the state out, --strategy mp, which splits the"
        " layers over a, b, or leave the machine out with --nodes"
    )
    [problem] = planned(tmp_path, "fsdp", a=560)
    assert "take a smaller model, a higher fsdp_stage" in problem


def test_under_a_staleness_bound_only_stage_3_is_named(tmp_path: Path) -> None:
    """There every other stage keeps the same."""
    [problem] = planned(tmp_path, "classicdp", a=720, staleness_bound=5)
    assert "--strategy fsdp --override fsdp_stage=3,staleness_bound=0, which shares the state out" in problem
    [problem] = planned(tmp_path, "fsdp", a=560, staleness_bound=5)
    assert "take a smaller model, --override fsdp_stage=3,staleness_bound=0" in problem


@pytest.mark.parametrize("b", [410, 16384])
def test_mp_is_named_only_where_the_layers_fit(tmp_path: Path, b: int) -> None:
    # A stage takes 400 MB besides its layers: a has room for none.
    assert all("mp" not in problem.partition("|")[2] for problem in planned(tmp_path, "single", a=410, b=b))


def test_of_split_layers_other_ways_are_named(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("stages: [{host: a, layers: '0:12'}, {host: b, layers: '12:24'}]\n")
    path = tmp_path / "lan.smol.yml"
    path.write_text(LAN.format(a=300, b=16384, ranks=1))
    found = resolve(Request(path, "mp", cluster_config=tmp_path / "cluster.yaml", overrides=DEEP))
    with pytest.raises(ConfigError) as error:
        make_plan(found.cluster, found.run, found.notes, found.inputs)
    [problem] = error.value.problems
    assert problem.key == "machines.a.memory_mb"
    assert problem.fix == (
        "take a smaller model, give it fewer layers in `stages`, or leave the machine out with --nodes"
    )


def test_of_more_machines_than_layers_those_with_the_most_memory_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lan.smol.yml"
    three = LAN.format(a=300, b=16384, ranks=1).replace(
        "networks:", "  c: {connection: local, memory_mb: 8192}\nnetworks:"
    )
    path.write_text(three.replace("b: 127.0.0.3", "b: 127.0.0.3, c: 127.0.0.4"))
    found = resolve(Request(path, "single", overrides=("model.num_layers=2", "training.batch_size=1")))
    with pytest.raises(ConfigError, match="splits the layers over b, c"):
        make_plan(found.cluster, found.run, found.notes, found.inputs)
