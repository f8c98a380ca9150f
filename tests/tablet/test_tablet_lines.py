"""What a person reads of tablets: waits, links, and how a link is taken by the tablet in Python. Nothing runs."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from smolcluster.errors import ConfigError, InputError
from smolcluster.infer.layout import Here, Place
from smolcluster.infer.replan import Fixed, Replanner
from smolcluster.jobs.telling import ServedLines
from smolcluster.jobs.types import PollResult
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.observe.tablet_lines import TabletLines, tablet_link_lines
from smolcluster.plan.stages import Machine, ModelWeight
from smolcluster.runtime.runfolder import JobState, RunFolder
from smolcluster.runtime.tabletnote import TabletNote, read_tablet, tablet_key, tablet_link, write_tablet
from smolcluster.tablet.export import export_onnx
from smolcluster.tablet.play import play, read_link
from smolcluster.tablet.stages import require_packages
from tests.infer.infer_models import CONTEXT, LAYERS

KEY = tablet_key(b"the run's secret")
APP = TabletNote(
    time=1000.0, run="20261129-1200-inference", tablet="ipad", app="native", state="waiting",
    address="172.20.10.3:8000", layers="4:8", left_s=118.4,
)  # fmt: skip
PAGE = APP.model_copy(update={"app": "browser", "address": "http://laptop.local:8000/tablet"})
LOCAL = APP.model_copy(update={"app": "browser", "address": "http://127.0.0.1:8000/tablet"})


def test_a_wait_is_told_with_what_to_do_and_again_every_half_minute() -> None:
    lines = TabletLines()
    assert lines.lines(APP, 0.0) == [
        "ipad: waiting for its app at 172.20.10.3:8000, 118 s left: start it there, and keep it in front"
    ]
    assert lines.lines(APP.model_copy(update={"left_s": 100.0}), 18.0) == []
    refused = APP.model_copy(update={"left_s": 87.6, "reason": "it belongs to another run"})
    assert lines.lines(refused, 31.0) == [
        "ipad: waiting for its app at 172.20.10.3:8000, 88 s left: start it there, and keep it in front"
        " (it belongs to another run)"
    ]
    assert lines.lines(APP.model_copy(update={"state": "loading"}), 32.0) == ["ipad: has come, and loads layers 4:8"]
    ready = {"state": "connected", "left_s": None, "came": True, "device": "iPad14,3", "format": "coreml"}
    assert lines.lines(APP.model_copy(update=ready), 40.0) == ["ipad: connected, layers 4:8 (iPad14,3, coreml)"]
    assert lines.lines(APP.model_copy(update=ready), 400.0) == []
    away = APP.model_copy(update={"left_s": None, "came": True, "reason": "the app goes to the background"})
    assert lines.lines(away, 401.0) == [
        "ipad: waiting for its app at 172.20.10.3:8000 again: start it there, and keep it in front"
        " (the app goes to the background)"
    ]
    assert TabletLines().lines(PAGE, 0.0) == [
        "ipad: waiting for its browser, 118 s left: open http://laptop.local:8000/tablet there, by the link with the"
        " key"
    ]


def test_whoever_follows_the_node_reads_it(tmp_path: Path) -> None:
    job = JobState(run_id="r", node="mini1", state="running", pid=1, generation=0, ranks={})
    answer = PollResult(job=job, tablets=(APP,))
    assert ServedLines("mini1", 6, 5.0).lines(answer, 0.0)[0].startswith("mini1   ipad: waiting for its app")
    folder = RunFolder(tmp_path)
    assert read_tablet(folder, "mini1", 1) is None
    write_tablet(folder, "mini1", 1, APP)
    assert read_tablet(folder, "mini1", 1) == APP
    folder.tablet("mini1", 1).write_text("{")
    assert read_tablet(folder, "mini1", 1) is None


def test_a_link_has_its_key_where_no_server_is_sent_it() -> None:
    assert tablet_link(PAGE, KEY) == (f"http://laptop.local:8000/tablet#run=20261129-1200-inference&key={KEY.hex()}")
    link, how, *code = tablet_link_lines(PAGE, KEY)
    assert (link, how) == (
        f"ipad  {tablet_link(PAGE, KEY)}",
        "open that link on ipad in its browser; it is good for this run",
    )
    assert len({len(line) for line in code}) == 1
    assert len(code) > 15
    # A phone has a loopback of its own.
    assert len(tablet_link_lines(LOCAL, KEY)) == 2


@pytest.mark.parametrize(("note", "app"), [(APP, True), (PAGE, False)])
def test_the_tablet_in_python_takes_a_link_and_does_not_show_its_key(note: TabletNote, app: bool) -> None:
    link = read_link(f"{tablet_link(note, KEY)}\n")
    assert (link.app, link.where.port, link.me.run, link.me.key) == (app, 8000, note.run, KEY)
    assert KEY.hex() not in repr(link)


def test_a_link_by_https_is_taken_with_the_port_that_it_means() -> None:
    secure = APP.model_copy(update={"app": "browser", "address": "https://laptop.local/tablet"})
    link = read_link(tablet_link(secure, KEY))
    assert (link.app, link.secure, link.where.port) == (False, True, 443)
    assert not read_link(tablet_link(PAGE, KEY)).secure


@pytest.mark.parametrize(("content", "what"), [(None, "there is no such file"), ("none", "is no authority's")])
def test_an_authority_that_is_none_is_told(tmp_path: Path, content: str | None, what: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    link = read_link(f"https://laptop.local:8000/tablet#run=r&key={KEY.hex()}")
    with pytest.raises(InputError) as error:
        play(link, None, tmp_path, threading.Event(), file)
    assert f"{file}: {what}" in str(error.value)
    assert "~/.smolcluster/ca on the controller" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "http://laptop.local:8000/tablet", "http://x:8000/tablet#run=r&key=abc", "ftp://x:1/#key=00"]
)
def test_what_is_no_link_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InputError) as error:
        read_link(text)
    assert "is no tablet's link" in str(error.value)
    assert not text or text not in str(error.value)


def test_a_missing_package_is_told_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require_packages(["onnx"])
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(InputError) as error:
        require_packages(["onnx", "coreml"])
    assert [problem.fix for problem in error.value.problems] == [
        "pip install 'smolcluster[coreml]' on a Mac, or on Linux with an x86-64 processor",
        "pip install 'smolcluster[onnx]'",
    ]


def test_an_export_is_made_once(models, tmp_path: Path) -> None:
    decoder = load_stage(models("gpt2")[1], LayerRange(1, 3, LAYERS))
    one, two = (export_onnx(decoder, "gpt2", CONTEXT, tmp_path) for _ in range(2))
    assert (one.made, two.made, one.folder) == (True, False, two.folder)


WEIGHT = ModelWeight(12, layer_bytes=1 << 20, table_bytes=0, head_bytes=0, cache_bytes=0, head_layers=0.0)
HERE = Here(port=1, memory_mb=4000)


def replanner(optional: bool = False) -> Replanner:
    machines = {0: Machine("mini1"), 1: Machine("ipad"), 2: Machine("mini2"), 3: Machine("mini3")}
    return Replanner(WEIGHT, "fp32", machines, tablets={1: Fixed("ipad", (3, 6), optional)})


def places(*given: tuple[int, int, int]) -> tuple[Place, ...]:
    return tuple(Place(rank=rank, start=start, stop=stop) for rank, start, stop in given)


def test_the_others_spread_their_layers_around_a_tablets() -> None:
    whole = replanner()({1: HERE, 2: HERE, 3: HERE})
    assert whole.places == places((0, 0, 3), (1, 3, 6), (2, 6, 9), (3, 9, 12))
    assert replanner()({1: HERE, 3: HERE}).places == places((0, 0, 3), (1, 3, 6), (3, 6, 12))
    # Nobody could go on after it: it is there, and not used.
    assert replanner()({1: HERE}).places == places((0, 0, 12))


def test_without_a_tablet_only_where_it_is_optional() -> None:
    assert replanner(optional=True)({2: HERE}).places == places((0, 0, 6), (2, 6, 12))
    with pytest.raises(ConfigError, match="ipad must have its layers"):
        replanner()({2: HERE, 3: HERE})
