"""The dashboard's page in headless Chromium: what people see, and what goes wrong. Screenshots: .cache/page."""

from __future__ import annotations

import json
import re
import time

import pytest

from smolcluster.dashboard.answers import SlowestAnswer
from smolcluster.dashboard.reading import Reading
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.runfolder import write_atomic
from tests.chat.conftest import serve
from tests.chat.page import IN_CHROMIUM, browser, checked, quiet
from tests.dashboard.folders import NODES, record, run_folder, with_links, with_machine
from tests.dashboard.pages import (
    DRAWN,
    HEARD,
    LINES,
    LIVE,
    choose,
    dashboard,
    node_states,
    pointed_at,
    port_of,
    remarks,
)
from tests.dashboard.scripted import Scripted, loss
from tests.dashboard.test_folders import heard

__all__ = ["browser", "serve"]
pytestmark = IN_CHROMIUM


@pytest.mark.core
def test_a_run_with_one_machine_killed_and_one_throttled(browser):
    """The page shows which, and why: on the picture, in the list, in words at the top, as marks on the charts."""
    run = Scripted()
    run.happen("join", "pi5", "rank 2 is here", step=1)
    run.happen("checkpoint", "mini1", "checkpoint of step 100 in 0.4 s", step=100)
    with dashboard(run) as url:
        tab = browser.tab(url)
        tab.until(f"{LIVE} && {DRAWN}")
        assert remarks(tab) == []
        assert node_states(tab) == {"mini1": "running", "mini2": "running", "pi5": "running"}
        assert re.search(r"step 120 of 500\s+24 % · 0:29 so far · 1:33 to go", tab.text)
        chips = tab.js("[...document.querySelectorAll('.picture .figure')].map(one => one.textContent)")
        assert chips == ["2.14 Gbit/s", "611 Mbit/s", "188 Mbit/s"]
        assert tab.js("document.querySelectorAll('.picture .slow .link').length") == 1
        assert "via mini1" in tab.js("document.querySelector('.picture').textContent")
        run.lost["mini2"] = "killed by signal 9"
        run.throttled["pi5"] = 84.2
        run.slowest = SlowestAnswer(node="pi5", why="pi5 is the slowest: it computes 2.2 times as long as the others")
        run.happen("leave", "mini2", "rank 1 is gone", step=118)
        run.move(3)
        tab.until("document.querySelectorAll('.remark').length === 3")
        assert remarks(tab) == [
            "mini2 was lost: killed by signal 9.",
            "pi5 is slowed down by its own system (throttled, 84 °C): look at its cooling and its power supply.",
            "pi5 is the slowest: it computes 2.2 times as long as the others.",
        ]
        assert node_states(tab) == {"mini1": "running", "mini2": "lost", "pi5": "throttled 84 °C"}
        picture = tab.js("document.querySelector('.picture').getAttribute('aria-label')")
        assert picture == ("Topology: mini1 running, mini2 lost, pi5 throttled 84 °C. 3 links, in the table below.")
        rows = "[...document.querySelectorAll('.links tbody tr')]"
        assert tab.js(f"{rows}.map(one => one.innerText.includes('down'))") == [True, False, True]
        tab.until("document.querySelector('.event').innerText.startsWith('Left mini2: rank 1 is gone')")
        checked(tab, "dashboard-overview")
        # Said aloud it is once, though its figures change at every look.
        loud = "[...document.querySelectorAll('.board > [role=status] p')].map(one => one.innerText)"
        assert tab.js(loud) == remarks(tab)
        run.slowest = SlowestAnswer(node="pi5", why="pi5 is the slowest: it computes 2.4 times as long as the others")
        run.throttled["pi5"] = 85.9
        run.move(1)
        tab.until("document.querySelectorAll('.remark')[2].innerText.includes('2.4 times')")
        assert "throttled, 86 °C" in remarks(tab)[1]
        assert [one for one in tab.js(loud) if "pi5" in one] == [
            "pi5 is slowed down by its own system (throttled, 84 °C): look at its cooling and its power supply.",
            "pi5 is the slowest: it computes 2.2 times as long as the others.",
        ]
        quiet(tab)


def test_charts_grow_zoom_and_come_back_after_a_reload(browser):
    run = Scripted(step=60)
    with dashboard(run) as url:
        tab = browser.tab(f"{url}#view=charts&hidden=pi5")
        tab.until(f"{LIVE} && {DRAWN} && document.querySelectorAll('.chart').length >= 9")
        # Only what is new is asked for.
        run.asked.clear()
        run.move(5)
        tab.until("document.querySelector('.progress').innerText.includes('step 65')")
        tab.until(f"document.querySelector('.legend b').innerText === '{loss(65):.4f}'")
        assert {since for name, since, _ in run.asked if name == "loss"} == {60}
        # Hidden in one chart is hidden in all: a machine is the same everywhere.
        pressed = "[...document.querySelectorAll('.legend button')].filter(one => one.innerText.startsWith('pi5'))"
        assert set(tab.js(f"{pressed}.map(one => one.getAttribute('aria-pressed'))")) == {"false"}
        tab.js(f"{pressed}[0].click()")
        tab.until("location.hash === '#view=charts'")
        # Drag over the first chart.
        box = tab.js("(one => ({x: one.left, y: one.top, w: one.width, h: one.height}))"
                     "(document.querySelector('.u-over').getBoundingClientRect())")  # fmt: skip
        for kind, share in (("mousePressed", 0.25), ("mouseMoved", 0.4), ("mouseMoved", 0.5), ("mouseReleased", 0.5)):
            at = {"x": box["x"] + box["w"] * share, "y": box["y"] + box["h"] / 2}
            tab.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at)
        tab.until("location.hash.includes('steps=')")
        low, high = map(float, re.findall(r"steps=([\d.]+)-([\d.]+)", tab.js("location.hash"))[0])
        assert (15, 31) < (low, high) < (19, 36)
        # What is under the cursor is said in the legends of all charts: they move together.
        tab.until("[...document.querySelectorAll('.under')].every(one => one.innerText.startsWith('step '))")
        tab.js("""(field => {
          Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, '0.6');
          field.dispatchEvent(new Event('input', {bubbles: true}));
        })(document.querySelector('input[type=range]'))""")
        tab.click("Loss on a log scale")
        tab.until("location.hash.includes('smooth=0.6') && location.hash.includes('scale=log')")
        view = tab.js("location.hash")
        tab.reload()
        tab.until(f"{LIVE} && {DRAWN}")
        assert tab.js("location.hash") == view
        assert "Smoothing 0.60" in tab.text
        checked(tab, "dashboard-charts")
        tab.click("Reset")
        tab.until("location.hash === '#view=charts'")
        # A run that was set back to a checkpoint takes steps again: what it took before is not shown with it.
        run.step, run.generation = 40, 1
        tab.until("document.querySelector('.progress').innerText.includes('step 40')")
        tab.until(f"document.querySelector('.legend b').innerText === '{loss(40):.4f}'")
        quiet(tab)


def test_a_stretch_of_a_long_run_is_seen_step_by_step(browser):
    """As many points are asked for between the steps that are zoomed into, and no more once all is seen again."""
    run = Scripted(step=20_000, total=30_000)
    with dashboard(run) as url:
        tab = browser.tab(f"{url}#view=charts&steps=5000-5200")
        tab.until(f"{LIVE} && {DRAWN}")

        def asked(name: str) -> set[tuple[int, int | None]]:
            return {(since, until) for one, since, until in run.asked if one == name}

        assert asked("loss") == asked("compute_ms") == asked("memory_mb") == {(0, None), (4999, 5200)}
        # Of the whole run every 34th step is known, here every one.
        for step in (5050, 5051, 5149):
            pointed_at(tab, (step - 5000) / 200, step)
            tab.until(f"document.querySelector('.legend b').innerText === '{loss(step):.4f}'")
        checked(tab, "dashboard-zoomed")
        # What is complete is not asked for again, however far the run goes.
        run.asked.clear()
        run.move(1)
        tab.until("document.body.innerText.includes('step 20,001')")
        tab.until("document.querySelector('.legend b').innerText === '" + f"{loss(20_001):.4f}'")
        assert asked("loss") == {(20_000, None)}
        # A stretch that goes on beyond the last step grows with the run.
        tab.js("location.hash = '#view=charts&steps=19990.5-20010.5'")
        tab.until("document.querySelector('select').innerText.includes('19991 to 20011')")
        pointed_at(tab, 0.225, 19_995)
        run.asked.clear()
        run.move(3)
        tab.until("document.body.innerText.includes('step 20,004')")
        pointed_at(tab, 0.625, 20_003)
        assert asked("loss") == {(20_001, None), (20_001, 20_010)}
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
        tab.until("document.querySelector('.under').innerText === ''")
        # A run that was set back takes these steps again: they are asked for anew.
        run.asked.clear()
        run.step, run.generation = 19_995, 1
        tab.until("document.body.innerText.includes('step 19,995')")
        tab.until(f"document.querySelector('.legend b').innerText === '{loss(19_995):.4f}'")
        assert asked("loss") == {(0, None), (19_990, 20_010)}
        tab.click("Reset")
        tab.until("location.hash === '#view=charts'")
        run.asked.clear()
        run.move(1)
        tab.until("document.body.innerText.includes('step 19,996')")
        tab.until(f"document.querySelector('.legend b').innerText === '{loss(19_996):.4f}'")
        assert asked("loss") == {(19_995, None)}
        quiet(tab)


def test_logs_are_followed_filtered_searched_and_read_backwards(browser):
    run = Scripted()
    run.say(*(f"line {number}" for number in range(1500)))
    run.say("CPU is throttled <b>now</b>", node="pi5", level="WARNING")
    run.say("rank 1 does not answer", node="mini1", level="ERROR")
    with dashboard(run) as url:
        tab = browser.tab(f"{url}#view=logs")
        tab.until(f"{LINES}.at(-1)?.innerText.includes('rank 1 does not answer')")
        # Only what is in sight is in the page.
        assert tab.js(f"{LINES}.length") < 120
        run.move(1, lines=3)
        tab.until(f"{LINES}.at(-1).innerText.includes('step 121')")
        # Scrolling up ends following, and loads what is older; what is in sight stays.
        tab.js("document.querySelector('.logs').scrollTop = 200")
        tab.until("location.hash.includes('follow=no')")
        for _ in range(4):
            tab.js("document.querySelector('.logs').scrollTop = 0")
            tab.until("document.querySelector('.logfoot').innerText.trim().length > 0")
        tab.until(f"document.querySelector('.logs').scrollTop = 0, {LINES}[0]?.innerText.endsWith('line 0')")
        assert "1,505 lines" in tab.text
        run.move(1, lines=3)
        tab.until("document.body.innerText.includes('1,508 lines')")
        assert tab.js(f"{LINES}[0].innerText").endswith("line 0")
        tab.click("Follow")
        tab.until(f"{LINES}.at(-1).innerText.includes('step 122')")
        # Filters.
        choose(tab, "Level", "WARNING")
        tab.until(f"{LINES}.length === 2")
        choose(tab, "Machine", "pi5")
        tab.until(f"{LINES}.length === 1")
        assert "CPU is throttled <b>now</b>" in tab.js(f"{LINES}[0].innerText")
        choose(tab, "Level", "")
        tab.type("Find", "LINE 149")
        tab.until(f"{LINES}.length === 5 && document.querySelector('mark').innerText === 'line 149'")
        tab.reload()
        tab.until(f"{LINES}.length === 5 && document.querySelector('mark')")
        assert tab.js("document.querySelector('input[type=search]').value") == "LINE 149"
        tab.type("Find", "never said")
        tab.until("document.body.innerText.includes('No line is like that.')")
        tab.type("Find", "")
        choose(tab, "Machine", "")
        tab.until(f"{LINES}.length > 20")
        checked(tab, "dashboard-logs")
        quiet(tab)


def test_a_backend_that_is_started_again_loses_nothing_that_is_shown(browser):
    run = Scripted()
    run.happen("checkpoint", "mini1", "checkpoint of step 100", step=100)
    with dashboard(run) as url:
        tab = browser.tab(f"{url}#view=charts")
        tab.until(f"{LIVE} && {DRAWN}")
    tab.until(f"{HEARD} === 'reconnecting …'")
    tab.until("document.body.innerText.includes('It is asked again by itself.')")
    assert tab.js(DRAWN)
    assert "step 120 of 500" in tab.text
    run.move(10)
    run.asked.clear()
    with dashboard(run, port=port_of(url)):
        tab.until(f"{LIVE} && document.querySelector('.progress').innerText.includes('step 130')")
        tab.until(f"document.querySelector('.legend b').innerText === '{loss(130):.4f}'")
        # It went on from where it was.
        assert {since for _, since, _ in run.asked} == {120}
    quiet(tab, "net::ERR")


def test_the_stop_button_says_what_happens_and_asks(browser):
    run = Scripted()
    with dashboard(run) as url:
        tab = browser.tab(url)
        tab.until(LIVE)
        tab.click("Stop")
        tab.until("document.querySelector('dialog[open]')")
        assert "The ranks on all 3 machines finish the step they are in, save the model" in tab.text
        assert "It is at step 120 of 500, with 1:33 to go." in tab.text
        # Enter by mistake stops nothing.
        assert tab.js("document.activeElement.innerText") == "Let it run"
        checked(tab, "dashboard-stop")
        tab.press("Escape")
        tab.until("!document.querySelector('dialog')")
        assert run.stopped == []
        run.refuse = "the run is over already"
        tab.click("Stop")
        tab.click("Stop the run")
        tab.until("document.querySelector('dialog [role=alert]')?.innerText === 'the run is over already'")
        run.refuse = ""
        tab.click("Stop the run")
        tab.until("document.body.innerText.includes('mini1, mini2, pi5: asked to stop')")
        assert run.stopped == [run.run_id]
        run.over, run.ended = True, "stopped"
        tab.until(f"{HEARD} === 'over'")
        assert not tab.has("Stop")
        quiet(tab, "409")


def test_runs_that_say_little(browser):
    """One that has not begun, one of another version, and one whose folder has gone."""
    problem = "plan.json is version 0; this smolcluster reads version 1. Read it with the smolcluster that wrote it"
    with dashboard(Scripted(problem=problem, over=True)) as url:
        tab = browser.tab(url)
        tab.until("document.querySelector('.remark')")
        assert remarks(tab) == [f"{problem}."]
        for view, empty in (
            ("overview", "No machine has been heard of yet."), ("charts", "Nothing was measured yet."),
            ("events", "Nothing besides steps so far."), ("logs", "No machine has said anything yet."),
            ("settings", "The plan cannot be read."),
        ):  # fmt: skip
            tab.js(f"location.hash = '#view={view}'")
            tab.until(f"document.body.innerText.includes({json.dumps(empty)})")
            tab.until("document.documentElement.scrollWidth <= innerWidth")
        assert not tab.has("Stop")
        quiet(tab)


def test_by_keyboard_alone(browser):
    run = Scripted()
    run.say("one line")
    with dashboard(run) as url:
        tab = browser.tab(url)
        tab.until(f"{LIVE} && {DRAWN}")
        tab.press("Tab")
        assert tab.js("document.activeElement.innerText") == "To the content"
        names = []
        for _ in range(24):
            tab.press("Tab")
            names.append(
                tab.js("(one => one.getAttribute('aria-label') ?? one.innerText.trim())(document.activeElement)")
            )
        assert {"Stop", "Overview", "Charts", "Events", "Logs", "Settings", "Links"} <= {
            name.split(" ")[0] for name in names
        }
        assert any(name.startswith("training") for name in names)
        quiet(tab)


@pytest.mark.core
def test_a_run_s_folder_that_grows(browser, tmp_path):
    """The real backend, which is started again in the middle: one machine is throttled, then another one lost."""
    folder = run_folder(tmp_path / "a-run", steps=0)
    # They will not have been silent for long, however slow this machine is.
    began = time.time() + 600
    with_links(folder)
    for node in NODES:
        heard(folder, node, age_s=-600)

    def grow(steps: range) -> None:
        for rank, node in enumerate(NODES):
            with MetricsWriter(folder.metrics(node, rank)) as metrics:
                for step in steps:
                    slow = {"compute_s": 0.8, "comm_s": 0.02} if rank == 1 else {"comm_s": 0.42}
                    metrics.write(record(step, rank, time=began + step, total_steps=100, step_s=0.9, **slow))

    grow(range(1, 41))
    with dashboard(Reading(folder, "wish")) as url:
        tab = browser.tab(url)
        tab.until(f"{LIVE} && {DRAWN}")
        assert "step 40 of 100" in tab.text
        assert "90 Mbit/s" in tab.js("document.querySelector('.picture').textContent")
        tab.until("document.querySelector('.remark')")
        assert remarks(tab)[0].startswith("node2 is the slowest: it computes 2.0 times as long")
        with_machine(folder, "node3", began + 41, throttled="too little voltage")
        grow(range(41, 51))
        tab.until("document.body.innerText.includes('step 50 of 100')")
        hot = "node3 is slowed down by its own system (too little voltage, 81 °C): look at its cooling"
        tab.until(f"document.body.innerText.includes({json.dumps(hot)})")
        tab.until(f"document.querySelector('.legend b').innerText === '{5.0 / 50:.4f}'")
    tab.until(f"{HEARD} === 'reconnecting …'")
    assert "step 50 of 100" in tab.text
    grow(range(51, 61))
    note = {"state": "lost", "reason": "no answer for 15 s", "at_once": False, "time": began + 55}
    write_atomic(folder.followed("node1"), json.dumps(note))
    with dashboard(Reading(folder, "wish"), port=port_of(url)):
        tab.until(f"{LIVE} && document.body.innerText.includes('step 60 of 100')")
        tab.until("document.body.innerText.includes('node1 was lost: no answer for 15 s.')")
        assert node_states(tab)["node1"] == "lost"
        assert node_states(tab)["node3"] == "throttled 81 °C"
        tab.until(f"document.querySelector('.legend b').innerText === '{5.0 / 60:.4f}'")
        tab.until("document.querySelector('.events').innerText.includes('node1 is lost: no answer for 15 s')")
        tab.reload()
        tab.until(f"{LIVE} && document.body.innerText.includes('step 60 of 100')")
        tab.js("location.hash = '#view=logs&node=node2'")
        tab.until(f"{LINES}.length === 1 && {LINES}[0].innerText.endsWith('rank 1 of 3 is in generation 0')")
        tab.click("Stop")
        tab.click("Stop the run")
        tab.until("document.body.innerText.includes('asked to stop')")
        assert folder.stop_wish.exists()
        quiet(tab, "net::ERR")
