"""What the page's strip shows: recent speeds, who is lost, what was done about it, and nothing sent twice."""

from smolcluster.chat.backend.stages import StageWatch
from smolcluster.infer.head import Health, StageNow
from tests.chat.fake_head import READY


def stage(rank: int, node: str, start: int, stop: int, alive: bool = True, **counts) -> StageNow:
    return StageNow(rank=rank, node=node, start=start, stop=stop, alive=alive, **counts)


def chain(*stages: StageNow, state: str = "ready", epoch: int = 1, reason: str = "") -> Health:
    return Health(state=state, epoch=epoch, reason=reason, stages=stages)


MINI, PI = stage(0, "mini1", 0, 2), stage(1, "pi5", 2, 4)
PI_GONE = stage(1, "pi5", 2, 4, alive=False)


def told(watch: StageWatch, health: Health) -> list[dict]:
    events = [event.model_dump() for event in watch.answer(health, 0.0).events]
    for event in events:
        assert event.pop("time") > 1e9
    return events


def test_a_stage_that_died_and_came_back():
    watch = StageWatch()
    watch.saw(chain(MINI, PI), 0.0)
    lost = chain(MINI, PI_GONE, state="lost", reason="rank 1 has left")
    watch.saw(lost, 10.0)
    assert [one.health for one in watch.answer(lost, 0.0).stages] == ["recovering", "lost"]
    event = {"number": 0, "ranks": [1], "nodes": ["pi5"], "reason": "rank 1 has left", "done": "", "seconds": None}
    assert told(watch, lost) == [event]
    back = chain(MINI, PI, state="lost", epoch=1, reason="waiting")
    watch.saw(back, 13.0)
    assert [one.health for one in watch.answer(back, 0.0).stages] == ["recovering", "recovering"]
    ready = chain(MINI, PI, epoch=2)
    watch.saw(ready, 14.25)
    assert [one.health for one in watch.answer(ready, 0.0).stages] == ["serving", "serving"]
    assert told(watch, ready) == [{**event, "done": "pi5 came back: mini1 0:2, pi5 2:4", "seconds": 4.2}]


def test_the_others_go_on_and_take_it_in_again():
    watch = StageWatch()
    watch.saw(chain(MINI, PI), 0.0)
    watch.saw(chain(MINI, PI_GONE, state="lost", reason="rank 1 has left"), 1.0)
    alone = chain(stage(0, "mini1", 0, 4), stage(1, "pi5", 0, 0, alive=False), epoch=2)
    watch.saw(alone, 17.0)
    strip = watch.answer(alone, 0.0).stages
    assert [(one.layers, one.health) for one in strip] == [((0, 4), "serving"), (None, "lost")]
    idle = chain(stage(0, "mini1", 0, 4), stage(1, "pi5", 0, 0), epoch=2)
    watch.saw(idle, 20.0)
    assert [one.health for one in watch.answer(idle, 0.0).stages] == ["serving", "recovering"]
    watch.saw(chain(*idle.stages, state="lost", epoch=2, reason="rank 1 came back, the layers are spread anew"), 21.0)
    watch.saw(chain(MINI, PI, epoch=3), 22.0)
    first, second = told(watch, idle)
    assert (first["done"], first["seconds"]) == ("went on without pi5: mini1 0:4", 16.0)
    assert (second["nodes"], second["done"], second["seconds"]) == ([], "took pi5 in: mini1 0:2, pi5 2:4", 1.0)


def test_without_the_head_nobody_knows_of_the_others():
    watch = StageWatch()
    watch.saw(chain(MINI, PI, epoch=5), 0.0)
    gone = chain(stage(0, "mini1", 0, 2, alive=False), PI_GONE, state="lost", epoch=5, reason="the head was lost")
    watch.saw(gone, 1.0)
    watch.saw(chain(MINI, PI, epoch=1), 9.0)  # its next process counts anew
    [event] = told(watch, gone)
    assert (event["nodes"], event["done"]) == (["mini1"], "mini1 came back: mini1 0:2, pi5 2:4")


def test_what_happened_between_two_answers():
    watch = StageWatch()
    watch.saw(chain(MINI, PI), 0.0)
    watch.saw(chain(MINI, PI, epoch=2), 1.0)
    [event] = told(watch, READY)
    assert (event["nodes"], event["done"], event["seconds"]) == ([], "connected anew: mini1 0:2, pi5 2:4", 0.0)


def test_a_start_is_no_loss_and_events_are_bounded():
    watch = StageWatch()
    watch.saw(Health(state="starting"), 0.0)
    watch.saw(chain(MINI, PI), 1.0)
    assert told(watch, READY) == []
    for epoch in range(2, 102):
        watch.saw(chain(MINI, PI, state="lost", epoch=epoch - 1), epoch)
        watch.saw(chain(MINI, PI, epoch=epoch), epoch + 0.5)
    assert [event["number"] for event in told(watch, READY)] == list(range(68, 100))


def test_the_recent_speed_is_a_median():
    watch = StageWatch()

    def ms(*counts: tuple[int, float], stop: int = 2) -> float | None:
        for steps, busy_s in counts:
            now = chain(stage(0, "mini1", 0, stop, steps=steps, busy_s=busy_s))
            watch.saw(now, 0.0)
        return watch.answer(now, 0.0).stages[0].ms_per_token

    assert ms((100, 50.0)) is None, "that was before anybody looked"
    assert ms((110, 50.1)) == 10.0
    assert ms((110, 50.1), (0, 0.0), (111, 60.1)) == 5005.0, "a long prompt, and an answer that did not come"
    assert ms((121, 60.3)) == 20.0
    assert ms((5, 0.1)) == 20.0, "its process began anew"
    assert ms((15, 0.2), (25, 0.3), (35, 0.4)) == 10.0
    assert ms((45, 0.6), stop=4) is None, "with other layers it is another stage"
    assert ms((55, 0.8), stop=4) == 20.0


def test_the_endpoint(api, head):
    answer = api.client.get("/stages")
    assert answer.status_code == 200
    assert answer.json() == {
        "state": "ready", "reason": "", "epoch": 1, "tokens_per_s": 0.0, "events": [],
        "stages": [
            {"rank": 0, "node": "mini1", "layers": [0, 2], "ms_per_token": None, "health": "serving", "tablet": "",
             "connection": ""},
            {"rank": 1, "node": "pi5", "layers": [2, 4], "ms_per_token": None, "health": "serving", "tablet": "",
             "connection": ""},
        ],
    }  # fmt: skip
    assert answer.headers["cache-control"] == "private, no-cache"
    tag = {"If-None-Match": answer.headers["etag"]}
    for path in ("/stages", "/api/stages"):
        same = api.client.get(path, headers=tag)
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag["If-None-Match"])
    gone = READY.stages[1].model_copy(update={"alive": False, "steps": 0, "busy_s": 0.0})
    head.now = READY.model_copy(update={"state": "lost", "reason": "pi5 is gone", "stages": (READY.stages[0], gone)})
    answer = api.client.get("/stages", headers=tag)
    assert answer.status_code == 200
    assert [one["health"] for one in answer.json()["stages"]] == ["recovering", "lost"]
    assert [event["nodes"] for event in answer.json()["events"]] == [["pi5"]]
