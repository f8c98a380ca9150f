"""The report of runs that served a model, from folders written by hand; and the lines while one is followed."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from smolcluster.commands.report import report
from smolcluster.errors import InputError
from smolcluster.jobs.served import served_here
from smolcluster.observe.report import read_run
from smolcluster.observe.served import busy_seconds, read_story, summarise_story
from smolcluster.observe.serving_lines import ServingLines, address_lines, example_lines
from smolcluster.observe.tables import show
from smolcluster.plan.types import ApiPlan, RankPlan, ServePlan, StagePlan
from smolcluster.runtime.results import write_result
from smolcluster.runtime.runfolder import (
    JobState,
    RankResult,
    RequestRecord,
    RunFolder,
    ServingNote,
    Summary,
    write_atomic,
)
from smolcluster.spec.modelfile import ServedModel
from smolcluster.spec.serving import ServeSpec, ServingStage

NODES = ("node1", "node2", "node3", "node1")


def plan() -> ServePlan:
    model = ServedModel(hf_model_name="a/tiny", weights_model_name="tiny", num_layers=6)
    stages = tuple(ServingStage(node=NODES[r], start=2 * r, stop=2 * r + 2, port=0) for r in range(3))
    ranks = tuple(
        RankPlan(
            rank=r, node=node, local_rank=int(r == 3), role="api" if r == 3 else "stage", device="cpu",
            listen=("127.0.0.1",), port=0, peers={}, samples=0, buffer_mb=1, threads=1,
        )
        for r, node in enumerate(NODES)
    )  # fmt: skip
    return ServePlan(
        cluster="test",
        serve=ServeSpec(
            model_name="tiny", model=model, stages=stages, api_port=0, frontend_port=0, request_timeout_s=30, seed=1
        ),
        layers=6,
        world_size=4,
        ranks=ranks,
        stages=tuple(StagePlan(rank=r, start=2 * r, stop=2 * r + 2, need_mb=500) for r in range(3)),
        api=ApiPlan(rank=3, listen=("127.0.0.1",), api_port=0, frontend_port=0),
        params=1234,
    )


def ended(rank: int, **changes) -> RankResult:
    values = {
        "rank": rank, "node": NODES[rank], "status": "stopped", "exit_code": 130, "reason": "stopped as asked",
        "seconds": 60.0, "peak_rss_mb": 200.5,
    }  # fmt: skip
    return RankResult(**{**values, **changes})


def asked(time: float, **changes) -> RequestRecord:
    values = {
        "time": time, "id": f"r{time:g}", "endpoint": "/v1/completions", "status": 200, "stream": True,
        "prompt_tokens": 4, "completion_tokens": 10, "first_s": 0.1, "seconds": 2.0, "finish": "stop",
    }  # fmt: skip
    return RequestRecord(**{**values, **changes})


def run_folder(
    path: Path, *results: RankResult, ready: bool = True, requests: tuple[RequestRecord, ...] = (), seconds: float = 0
):
    folder = RunFolder(path)
    write_atomic(folder.plan, plan().to_json())
    for rank, node in enumerate(NODES):
        write_atomic(folder.log(node, rank), "".join(f"line {n} of rank {rank}\n" for n in range(40)))
    for result in results:
        write_result(folder, result)
    for node, restarts in (("node1", 0), ("node2", 2), ("node3", 1)):
        job = JobState(
            run_id="r", node=node, state="stopped", pid=1, generation=restarts, ranks={}, restarts=restarts,
            seconds=seconds,
        )  # fmt: skip
        write_atomic(folder.job_state(node), job.model_dump_json(by_alias=True))
    if ready:
        write_atomic(folder.was_ready, "")
    lines = [request.model_dump_json(by_alias=True) + "\n" for request in requests]
    write_atomic(folder.requests("node1", 3), "".join(lines))
    return folder


def summary_of(folder: RunFolder) -> Summary:
    return summarise_story(read_story(folder.path))


def printed(path: Path) -> str:
    text = io.StringIO()
    story = read_story(path)
    show(Console(file=text, width=160), story, summarise_story(story))
    return text.getvalue()


REQUESTS = (
    asked(102.0, first_s=0.2),
    asked(103.0, first_s=0.4, finish="length"),
    asked(111.0, first_s=0.3, seconds=1.0, finish="cancelled"),
    asked(112.0, first_s=None, seconds=1.0, completion_tokens=0, status=503, finish="unavailable"),
)


def test_summary_and_merged_requests_of_a_run_that_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late_first = (REQUESTS[1], REQUESTS[0], *REQUESTS[2:])
    folder = run_folder(tmp_path / "a-run", *map(ended, range(4)), requests=late_first)
    report(str(folder.path))
    told = Summary.model_validate_json(folder.summary.read_text())
    assert (told.kind, told.strategy, told.status, told.exit_code) == ("inference", "inference", "stopped", 130)
    assert (told.requests, told.failed, told.tokens, told.restarts) == (4, 1, 30, 3)
    # Under way from 100 to 103 and from 110 to 112: two seconds of four requests are counted once.
    assert told.tokens_per_s == pytest.approx(30 / 5)
    assert (told.first_token_s, told.first_token_p95_s) == (pytest.approx(0.3), pytest.approx(0.4))
    assert (told.seconds, told.params, told.peak_rss_mb) == (60, 1234, (200.5,) * 4)
    raw = json.loads(folder.summary.read_text())
    trained = ("steps", "loss_first", "loss_last", "val_loss", "wire_bytes_per_step", "staleness_max", "data_share")
    assert {key: raw[key] for key in trained} == dict.fromkeys(trained)
    lines = [json.loads(line) for line in folder.all_requests.read_text().splitlines()]
    assert [line["time"] for line in lines] == [102.0, 103.0, 111.0, 112.0]
    assert not folder.plots.exists()
    out = capsys.readouterr().out
    assert "4, 1 failed" in out
    assert "tiny, fp32, 3 stage(s)" in out
    assert "30 generated, 6.0 per second" in out
    assert "layers 2:4" in out
    assert "API" in out


def test_a_run_nobody_asked(tmp_path: Path) -> None:
    told = summary_of(run_folder(tmp_path, *map(ended, range(4))))
    assert (told.requests, told.failed, told.tokens, told.tokens_per_s) == (0, 0, 0, 0.0)
    assert (told.first_token_s, told.first_token_p95_s) == (None, None)
    assert "first token" in printed(tmp_path)


def test_the_time_of_serving_is_that_of_all_starts(tmp_path: Path) -> None:
    killed = run_folder(tmp_path, *map(ended, range(3)), ended(3, seconds=28.0), seconds=300.5)
    assert summary_of(killed).seconds == 300.5
    assert "300.5 s" in printed(tmp_path)


def test_layers_are_those_that_were_served_last(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, *map(ended, range(4)))
    assert "layers 2:4 as planned" in printed(tmp_path)
    said = note("closed", layers={0: "0:3", 2: "3:6"})
    write_atomic(folder.serving("node1", 3), said.model_dump_json(by_alias=True))
    text = printed(tmp_path)
    assert "layers 0:3 " in text
    assert "no layers (planned: 2:4)" in text
    assert served_here(tmp_path, "node2") == "tiny: layers 2:4 as planned"
    assert served_here(tmp_path, "node1", said).startswith("tiny: layers 0:3, API, 0 requests")


def test_a_stage_that_was_lost_for_good_is_no_failure_of_a_run_that_went_on(tmp_path: Path) -> None:
    killed = ended(1, status="failed", exit_code=137, reason="ended by signal 9 (SIGKILL)", root_cause=True)
    told = summary_of(run_folder(tmp_path, ended(0), killed, ended(2), ended(3)))
    assert (told.status, told.exit_code) == ("stopped", 130)
    assert "failed" in printed(tmp_path)


def test_before_it_was_ready_every_rank_is_needed(tmp_path: Path) -> None:
    wrong = ended(1, status="failed", exit_code=2, reason="no such layer", root_cause=True)
    folder = run_folder(tmp_path, ended(0), wrong, ended(2), ended(3), ready=False)
    told = summary_of(folder)
    assert (told.status, told.exit_code, told.reason) == ("failed", 2, "rank 1 on node2: no such layer")
    text = printed(tmp_path)
    assert "rank 1 on node2 failed first" in text
    assert "line 39 of rank 1" in text


def test_the_api_s_failure_is_the_run_s(tmp_path: Path) -> None:
    taken = ended(3, status="failed", exit_code=2, reason="port 8080 is taken", root_cause=True)
    told = summary_of(run_folder(tmp_path, *map(ended, range(3)), taken))
    assert (told.status, told.exit_code, told.reason) == ("failed", 2, "rank 3 on node1: port 8080 is taken")


def test_one_that_never_became_ready_says_what_it_waited_for(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, *map(ended, range(4)), ready=False)
    assert summary_of(folder).status == "stopped", "nobody gave it up: somebody stopped it"
    note = {"state": "failed", "reason": "not ready after 300 s: stage 1 on node2 did not come", "at_once": True}
    write_atomic(folder.followed("node1"), json.dumps(note))
    told = summary_of(folder)
    assert (told.status, told.exit_code) == ("failed", 3)
    assert told.reason == "rank 0 on node1: not ready after 300 s: stage 1 on node2 did not come"
    assert "line 39 of rank 0" in printed(tmp_path)


def test_damaged_requests_are_skipped_with_a_note(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, *map(ended, range(4)), requests=REQUESTS)
    file = folder.requests("node1", 3)
    file.write_text(file.read_text() + '5\n{"schema": 1, "time": 1}\n{"schema": 1, "ti')
    story = read_story(folder.path)
    assert story.notes == (f"{file}: 3 damaged lines skipped (lines 5, 6, 7)",)
    assert summarise_story(story).requests == 4


def test_it_is_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="served a model"):
        read_run(run_folder(tmp_path, *map(ended, range(4))).path)


def test_time_under_way_is_a_union() -> None:
    assert busy_seconds(()) == 0
    assert busy_seconds((asked(10, seconds=4), asked(9, seconds=1), asked(12, seconds=2.5))) == pytest.approx(6)


@pytest.mark.parametrize(
    ("status", "finish", "failed"),
    [
        (200, "stop", False), (200, "length", False), (200, "cancelled", False),
        (400, "context_length_exceeded", False),
        (200, "stage_lost", True), (504, "deadline", True), (500, "internal_error", True),
    ],
)  # fmt: skip
def test_what_was_refused_or_given_up_has_not_failed(status: int, finish: str, failed: bool) -> None:
    assert asked(1, status=status, finish=finish).failed == failed


def note(state: str, **changes) -> ServingNote:
    return ServingNote(time=0, state=state, **changes)


def test_lines_tell_what_changed_and_nothing_twice() -> None:
    lines = ServingLines(every_s=5)
    assert lines.lines(note("starting", reason="1 of 3 stages"), 0) == ["starting: 1 of 3 stages"]
    assert lines.lines(note("starting", reason="1 of 3 stages"), 1) == []
    assert lines.lines(note("ready"), 2) == ["ready"]
    busy = note("ready", requests=1, active=2, waiting=1, tokens=1234, tokens_per_s=56.78)
    assert lines.lines(busy, 3) == ["1 request  2 under way, 1 waiting  1,234 tokens  56.8 tokens/s"]
    assert lines.lines(note("ready", requests=2, failed=1, tokens=1300), 4) == [], "not every second"
    assert lines.lines(note("lost", reason="stage 1 on node2 is gone", requests=2, failed=1, tokens=1300), 8.5) == [
        "lost: stage 1 on node2 is gone",
        "2 requests (1 failed)  1,300 tokens  0.0 tokens/s",
    ]
    assert lines.lines(note("ready", requests=2, failed=1, tokens=1300), 9) == ["ready again"]
    assert lines.lines(note("ready", requests=2, failed=1, tokens=1300), 99) == []
    asked_more = note("ready", requests=3, failed=1, tokens=1301)
    assert lines.lines(asked_more, 99, last=True) == ["3 requests (1 failed)  1,301 tokens  0.0 tokens/s"]
    assert lines.lines(asked_more, 99, last=True) == []


def test_addresses_with_and_without_a_key() -> None:
    urls = {"api": "http://192.0.2.1:8080", "page": "http://192.0.2.1:5050"}
    assert address_lines(urls) == ["api   http://192.0.2.1:8080", "page  http://192.0.2.1:5050"]
    told = address_lines(urls, "k3y", "0nce", elsewhere="mini1")
    assert told[:4] == [
        "api   http://192.0.2.1:8080", "page  http://192.0.2.1:5050/?key=0nce",
        "key   k3y", "the link lets one browser in, once, within 60 minutes",
    ]  # fmt: skip
    # A QR code of version 3 has 29 modules a side, two of border around; two rows of them make a line.
    assert [len(line) for line in told[4:]] == [33] * 17
    assert {character for line in told[4:] for character in line} == set("█▀▄ ")
    own = {"api": "http://127.0.0.1:8080", "page": "http://[::1]:5050"}
    assert len(address_lines(own, "k3y", "0nce", elsewhere="mini1")) == 4, "no QR code: no phone reaches loopback"
    assert address_lines(own, elsewhere="mini1") == [
        "api   http://127.0.0.1:8080  (on mini1 itself)",
        "page  http://[::1]:5050  (on mini1 itself)",
    ]


def test_a_first_request_to_paste() -> None:
    urls = {"api": "http://127.0.0.1:8080", "page": "http://127.0.0.1:5050"}
    ready = note("ready", urls=urls, model="runs/it's", chat=True)
    [line] = example_lines(ready)
    assert line.startswith("try   curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' ")
    words = shlex.split(line)
    assert json.loads(words[-1]) == {"model": "runs/it's", "messages": [{"role": "user", "content": "Hello"}]}
    [line] = example_lines(note("ready", urls=urls, model="small"))
    assert shlex.split(line)[2] == "http://127.0.0.1:8080/v1/completions"
    assert json.loads(shlex.split(line)[-1]) == {"model": "small", "prompt": "Once upon a time"}
    assert example_lines(note("lost", urls=urls)) == []
    assert example_lines(ready, needs_key=True) == [], "a key does not belong on a command line"
