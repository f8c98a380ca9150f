"""The page of a run, and what it is made from: events, the slowest link, the slowest rank, the prediction."""

from __future__ import annotations

import datetime
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_report import ended, record, run_folder
from train_folders import plan_of, run_spec

from smolcluster.cli import main
from smolcluster.observe.events import EventLogs, events_of, training_events
from smolcluster.observe.page.charts import Line, area_chart, line_chart, round_up
from smolcluster.observe.page.markup import tag
from smolcluster.observe.predicted import outcome_of
from smolcluster.observe.ranks import links_of, slow_links, slowest_link, straggler
from smolcluster.observe.report import read_run
from smolcluster.plan.types import PredictedStep
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import GradientRecord, LinkRecord
from smolcluster.runtime.runfolder import RunFolder, write_atomic

EVIL = '<script>alert("1")</script>'
VOID = {"meta", "!doctype"}


class Reader(HTMLParser):
    """Every element, and that each is closed where it was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def with_links(folder: RunFolder) -> RunFolder:
    """The link between ranks 1 and 2 is a tenth as fast as the others."""
    for rank in read_run(folder.path).plan.ranks:
        with MetricsWriter(folder.metrics(rank.node, rank.rank)) as metrics:
            for peer in {0, 1, 2} - {rank.rank}:
                slow = {rank.rank, peer} == {1, 2}
                for step, mbps in ((1, 0.0), (2, 90.0 if slow else 900.0), (3, 92.0 if slow else 900.0)):
                    metrics.write(
                        LinkRecord(step=step, time=1000.0 + step, peer=peer, mbps=mbps, rtt_ms=2.0, buffered=0)
                    )
    return folder


def test_the_page_is_whole_and_asks_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_links(run_folder(tmp_path / "a-run", ended(0), ended(1), ended(2)))
    with MetricsWriter(folder.metrics("node1", 0)) as metrics:
        metrics.write(GradientRecord(step=3, time=1003.0, norms={"h.0.a": 3.0, "h.0.b": 4.0, "ln_f.weight": 1.0}))
    assert main(["report", str(folder.path), "--html"]) == 0
    assert f"page: {folder.path / 'report.html'}" in capsys.readouterr().out
    text = folder.page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|<script|<img|<link|srcset|\ssrc=|\shref=", text)
    assert "Content-Security-Policy\" content=\"default-src 'none'" in text
    page = read_page(folder.page)
    headings = [word for word in page.words if word in text and f"<h2>{word}</h2>" in text]
    assert headings == ["Curves", "Nodes", "Topology", "Predicted and measured", "Events", "Plan", "Config"]
    charts = [attributes["aria-label"] for name, attributes in page.seen if name == "svg"]
    assert charts == [
        "Loss", "Tokens per second, by rank", "Seconds of a step, mean over ranks", "MB sent in a step, by rank",
        "Norm of the gradient, by layer", "Mbit/s on each link", "3 ranks, mesh",
    ]  # fmt: skip
    assert "Slowest link: from rank 1 (node2) to rank 2 (node3), 91 Mbit/s as it was used" in text
    assert "training.learning_rate" in page.words
    assert "completed" in page.words


def test_names_and_settings_are_text(tmp_path: Path) -> None:
    folder = run_folder(
        tmp_path / "run<b>", ended(0), ended(1, status="failed", exit_code=1, reason=EVIL, root_cause=True)
    )
    plan = plan_of(run_spec("fsdp", (2, 2, 2)).model_copy(update={"project_name": EVIL}), (2, 2, 2))
    ranks = tuple(rank.model_copy(update={"node": f"{rank.node}<script>x()"}) for rank in plan.ranks)
    write_atomic(folder.plan, plan.model_copy(update={"ranks": ranks, "notes": (EVIL, "&amp;")}).to_json())
    for rank in ranks:
        folder.node(rank.node[:5]).rename(folder.node(rank.node))
    write_atomic(folder.log(ranks[1].node, 1), f"2026-11-29T10:00:00Z ERROR {EVIL}\n")
    with MetricsWriter(folder.metrics(ranks[0].node, 0)) as metrics:
        metrics.write(GradientRecord(step=3, time=1003.0, norms={f"{EVIL}.weight": 3.0}))
    assert main(["report", str(folder.path), "--html"]) == 0
    page = read_page(folder.page)
    assert not [name for name, _ in page.seen if name == "script"]
    text = folder.page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;") >= 5
    assert "&amp;amp;" in text
    assert "<h1>Run run&lt;b&gt;</h1>" in text
    assert tag("p", EVIL, title='"') == ('<p title="&quot;">&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;</p>')


def test_a_run_without_a_step_has_a_page(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    for rank in read_run(folder.path).plan.ranks:
        folder.metrics(rank.node, rank.rank).unlink()
    assert main(["report", str(folder.path), "--html"]) == 0
    text = folder.page.read_text(encoding="utf-8")
    assert "No step was recorded." in text
    assert "not ended" in text


def test_what_logs_tell(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, ended(0), ended(1), ended(2))
    plan = read_run(folder.path).plan
    write_atomic(
        folder.log("node1", 0),
        "2026-11-29T10:00:00Z INFO rank 0 of 3 is in generation 0\n"
        "2026-11-29T10:00:01Z INFO step 1/3  loss 4.0\n"
        "2026-11-29T10:00:02Z INFO rank 2 is here, 2 worker(s) now\n"
        "2026-11-29T10:00:03Z INFO checkpoint of step 2 in /runs/x\n"
        "no line of ours\n"
        "2026-11-29T10:00:04Z WARNING the disk is slow\n"
        "2026-13-45T99:00:00Z WARNING no such time\n"
        "2026-11-29T10:00:20Z INFO rank 0 of 3 is in generation 1\n",
    )
    write_atomic(folder.log("node2", 1), "2026-11-29T10:00:21Z INFO rank 1 of 3 is in generation 1\n\xff")
    write_atomic(
        folder.supervisor_log("node2"),
        "2026-11-29 10:00:05,123 rank 1 started, pid 7, 1 thread(s)\n"
        "2026-11-29 10:00:06,123 rank 1 ended: ended by signal 9 (SIGKILL)\n"
        "2026-11-29T10:00:06.500Z INFO stopping: rank 1 of this node failed\n"
        "2026-11-29T10:00:07Z INFO restart 1 of 3: ended by signal 9 (SIGKILL)\n"
        "2026-11-29T10:00:30Z INFO rank 1 ended: done\n"
        "2026-11-29T10:00:31Z INFO completed\n",
    )
    found = events_of(folder, plan.ranks)
    told = [(event.node, event.kind, event.text) for event in found if event.node == "node1"]
    assert told == [
        ("node1", "warning", "no such time"),
        ("node1", "join", "rank 2 is here, 2 worker(s) now"),
        ("node1", "checkpoint", "checkpoint of step 2 in /runs/x"),
        ("node1", "warning", "the disk is slow"),
        ("node1", "restart", "rank 0 of 3 is in generation 1"),
    ]
    assert [(event.kind, event.text) for event in found if event.node == "node2"][-5:] == [
        ("leave", "rank 1 ended: ended by signal 9 (SIGKILL)"),
        ("stop", "stopping: rank 1 of this node failed"),
        ("restart", "restart 1 of 3: ended by signal 9 (SIGKILL)"),
        ("restart", "rank 1 of 3 is in generation 1"),
        ("end", "completed"),
    ]
    assert found[-1].time == datetime.datetime(2026, 11, 29, 10, 0, 31, tzinfo=datetime.UTC).timestamp()
    assert events_of(RunFolder(tmp_path / "none"), plan.ranks) == ()


def test_events_are_read_on_as_logs_grow(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    ranks = plan_of(run_spec("fsdp", (2, 2, 2)), (2, 2, 2)).ranks
    logs = EventLogs(folder, ranks, read_bytes=300)
    assert logs.look() == ()
    log = folder.log("node1", 0)
    log.parent.mkdir(parents=True)

    def say(second: int, text: str, end: str = "\n") -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"2026-11-29T10:00:{second:02d}Z WARNING {text}{end}")

    say(1, "one")
    assert [event.text for event in logs.look()] == ["one"]
    say(2, "tw", "")
    assert [event.text for event in logs.look()] == ["one"]
    with log.open("a", encoding="utf-8") as file:
        file.write("o\n")
    assert [event.text for event in logs.look()] == ["one", "two"]
    # Whoever looks for the first time reads the end of what is long by then.
    for second in range(3, 30):
        say(second, f"number {second}")
    assert len(logs.look()) == 29
    late = [event.text for event in EventLogs(folder, ranks, read_bytes=300).look()]
    assert 2 < len(late) < 9
    assert late[-1] == "number 29"
    # Another file of that name: what the first one said is gone.
    log.unlink()
    say(40, "anew")
    assert [event.text for event in logs.look()] == ["anew"]


def test_who_holds_up_the_others(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, ended(0), ended(1), ended(2))
    assert straggler(read_run(folder.path)) is None
    folder.metrics("node2", 1).unlink()
    with MetricsWriter(folder.metrics("node2", 1)) as metrics:
        for step in range(1, 4):
            metrics.write(record(step, 1).model_copy(update={"compute_s": 0.8}))
    found = straggler(read_run(folder.path))
    assert found is not None
    assert (found[0].plan.node, found[1]) == ("node2", pytest.approx(2.0))
    last = training_events(folder, read_run(folder.path))[-1]
    assert (last.kind, last.node, last.time) == ("straggler", "node2", None)
    assert main(["report", str(folder.path), "--html"]) == 0
    assert "rank 1 on node2 computed 2.00 times as long as the others" in folder.page.read_text(encoding="utf-8")


def test_the_slowest_link(tmp_path: Path) -> None:
    links = links_of(read_run(with_links(run_folder(tmp_path, ended(0), ended(1), ended(2))).path))
    assert len(links) == 6
    slow = slowest_link(links)
    assert slow is not None
    assert (slow.rank, slow.peer, slow.mbps, slow.rtt_ms) == (1, 2, 91.0, 2.0)
    assert [(link.rank, link.peer) for link in slow_links(links)] == [(1, 2), (2, 1)]
    assert slow_links([link for link in links if link.mbps == 900.0]) == ()
    assert slowest_link([]) is None


def test_the_prediction_beside_what_it_was(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, ended(0), ended(1), ended(2))
    assert outcome_of(read_run(folder.path)) is None
    plan = read_run(folder.path).plan
    assert '"predicted"' not in plan.to_json(), "as plans were before predictions were kept"
    predicted = PredictedStep(compute_s=0.2, wire_s=0.05)
    write_atomic(folder.plan, plan.model_copy(update={"predicted": predicted}).to_json())
    found = outcome_of(read_run(folder.path))
    assert found is not None
    assert (found.step_s, found.compute_s, found.wire_s) == (0.25, 0.2, 0.05)
    assert (found.was_step_s, found.was_compute_s) == (pytest.approx(0.5), pytest.approx(0.4))
    assert main(["report", str(folder.path), "--html"]) == 0
    assert '<td class="number">2.00</td>' in folder.page.read_text(encoding="utf-8")


def test_charts_of_little() -> None:
    assert line_chart("Empty", [Line("none", [])]) == ""
    assert area_chart("Empty", []) == ""
    assert "circle" in line_chart("One", [Line("a", [(1.0, 2.0)])])
    assert line_chart("Log", [Line("a", [(1.0, 0.0), (2.0, -1.0)])], log=True) == ""
    assert "nan" not in line_chart("Bad", [Line("a", [(1.0, float("nan")), (2.0, 1.0), (3.0, float("inf"))])])
    assert [round_up(value) for value in (0.3, 1.0, 1.1, 20.0, 70.0)] == [0.5, 1.0, 2.0, 20.0, 100.0]


def test_in_a_browser_at_a_phone_s_width(tmp_path: Path) -> None:
    pytest.importorskip("websockets")
    from tests.chat.browser import Browser, chromium

    if chromium() is None:
        pytest.skip("Chromium is not installed")
    folder = with_links(run_folder(tmp_path / "a-run", ended(0), ended(1), ended(2)))
    assert main(["report", str(folder.path), "--html"]) == 0
    shots = Path(__file__).parents[2] / ".cache" / "page"
    shots.mkdir(parents=True, exist_ok=True)
    with Browser() as browser:
        tab = browser.tab(folder.page.as_uri(), 390, 800)
        for width, dark in ((390, True), (1280, False)):
            tab.dark(dark)
            tab.size(width, 800)
            assert tab.js("document.documentElement.scrollWidth") <= width
            assert tab.js("getComputedStyle(document.body).backgroundColor") == (
                "rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)"
            )
            tab.screenshot(shots / f"report-{width}.png")
        asked = [event["request"]["url"] for event in tab.events("Network.requestWillBeSent")]
        assert asked == [folder.page.as_uri()]
        assert not tab.events("Log.entryAdded")
        assert not tab.events("Runtime.exceptionThrown")
