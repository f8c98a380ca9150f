"""A real run of three machines, watched in headless Chromium: one is slow, another is killed, comes back, and is lost.

test_live.py asks the backend about such a run, and test_page.py shows the page runs that are made up.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from smolcluster.dashboard.reading import Reading
from smolcluster.spec.faults import FaultSpec
from smolcluster.spec.run import CheckpointSpec, RecoverySpec
from tests.chat.page import IN_CHROMIUM, browser, checked, quiet
from tests.dashboard.folders import NODES
from tests.dashboard.pages import DRAWN, HEARD, LINES, LIVE, dashboard, node_states, remarks
from tests.faults.crew import Crew, crew
from tests.train.train_folders import data_folder, plan_of, run_spec

__all__ = ["browser"]
pytestmark = [*IN_CHROMIUM, pytest.mark.timeout(600)]

SHARES = (2, 2, 2)
KILLED = "ended by signal 9 (SIGKILL)"
RESUMED = re.compile(r"resumed from step (\d+) of a-run")


def shown_step(tab) -> int:
    """Of how far the page says that the run is."""
    found = re.search(r"step ([\d,]+) of", tab.text)
    return int(found[1].replace(",", "")) if found is not None else 0


def tile(tab, name: str) -> str | None:
    """A figure at the top of the page."""
    return tab.js(f"[...document.querySelectorAll('.tiles div')].find(one => one.querySelector('dt').innerText === "
                  f"{json.dumps(name)})?.querySelector('dd').innerText.trim()")  # fmt: skip


def card(node: str) -> str:
    """What the list of machines says of one."""
    return f"[...document.querySelectorAll('.machine')].find(one => one.innerText.startsWith('{node}')).innerText"


def goes_on(run: Crew, tab, steps: int) -> None:
    """So many steps more are seen, and the curve of the loss grows with them."""
    last = "document.querySelector('.legend b').innerText"
    before, loss = shown_step(tab), tab.js(last)
    run.until(lambda: shown_step(tab) >= before + steps, "further steps on the page", pause_s=0.3)
    tab.until(f"{last} !== {json.dumps(loss)}")


def test_one_machine_is_slow_and_one_is_killed_started_again_and_lost(browser, tmp_path: Path) -> None:
    spec = run_spec("fsdp", SHARES, max_steps=100_000, eval_steps=100_000)
    # A restart does not mend it.
    slow = tuple(FaultSpec(rank=1, kind="slow", factor=4, step=1, generation=generation) for generation in (0, 1))
    settings = {
        "faults": slow, "recovery": RecoverySpec(max_restarts=1), "checkpoint": CheckpointSpec(every_steps=20),
    }  # fmt: skip
    plan = plan_of(spec.model_copy(update=settings), SHARES)
    folder, data = tmp_path / "a-run", data_folder(tmp_path / "data")
    with crew(folder, plan, data) as run, dashboard(Reading(run.folder, "wish")) as url:
        tab = browser.tab(url)
        tab.until(LIVE)
        assert node_states(tab) == dict.fromkeys(NODES, "no word yet")
        run.start()
        run.until(lambda: run.newest_checkpoint() >= 20 and tab.js(DRAWN), "steps are seen", pause_s=0.3)
        run.until(lambda: node_states(tab)["node2"] == "slowest", "who is slow is told", pause_s=0.3)
        assert re.fullmatch(r"node2 is the slowest: it computes [\d.]+ times as long as the others\.", remarks(tab)[-1])
        assert tile(tab, "Slowest") == "node2"
        assert tile(tab, "Restarts") is None
        tab.js("location.hash = '#view=events'")
        tab.until(
            "document.body.innerText.includes('Fault node2: fault, as the config asks: slow of rank 1 by 4 at step 1')"
        )
        tab.js("location.hash = ''")
        tab.until(DRAWN)
        goes_on(run, tab, 3)

        run.kill_rank(2)
        run.until(lambda: tile(tab, "Restarts") == "1", "the restart is seen", pause_s=0.3)
        tab.until(f"{card('node3')}.includes('1 restart: rank 2: {KILLED}')")
        # The others were started again too, and say because of whom.
        tab.until(f"{card('node1')}.includes('1 restart: rank 0: rank 2 was lost')")
        run.until(lambda: RESUMED.search(run.folder.log("node1", 0).read_text()), "the ranks are back", pause_s=0.3)
        goes_on(run, tab, 25)
        resumed = int(RESUMED.findall(run.folder.log("node1", 0).read_text())[0])
        # The curve goes on from the checkpoint, without a gap and without a step that counts twice.
        steps = tab.js("fetch('/dashboard/series?name=loss&points=5000').then(one => one.json())")["lines"][0]["steps"]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= resumed + 25
        run.until(lambda: node_states(tab)["node2"] == "slowest", "it is slow again", pause_s=0.3)
        tab.js("location.hash = '#view=events'")
        tab.until(f"document.body.innerText.includes('Restart node3: restart 1 of 1: rank 2: {KILLED}')")
        assert f"Left node3: rank 2 ended: {KILLED}" in tab.text
        assert "Restart node3: rank 2 of 3 is in generation 1" in tab.text
        assert f"Restart node1: resumed from step {resumed} of a-run" in tab.text
        tab.js("location.hash = ''")

        # The second time its supervisor goes with it: the whole machine, as far as this run is concerned.
        run.lost.add("node3")
        run.kill_supervisor("node3")
        run.kill_rank(2)
        run.until(lambda: tab.js(f"{HEARD} === 'over'"), "the end is seen", pause_s=0.3)
        tab.until(f"{DRAWN} && document.querySelectorAll('.remark').length === 4")
        said = remarks(tab)
        assert re.fullmatch(r"node3 was lost: the supervisor on node3 \(pid \d+\) ended without a word: .*\.", said[0])
        assert [one.partition(": rank 2 was lost")[0] for one in said[1:3]] == [
            "node1 failed: rank 0", "node2 failed: rank 1",
        ]  # fmt: skip
        assert said[3].startswith("node2 was the slowest: it computed ")
        assert node_states(tab) == {"node1": "failed", "node2": "failed", "node3": "lost"}
        picture = tab.js("document.querySelector('.picture').getAttribute('aria-label')")
        assert picture == "Topology: node1 failed, node2 failed, node3 lost. 3 links, in the table below."
        checked(tab, "dashboard-live")

        # The log of that machine alone tells it once more.
        tab.js("location.hash = '#view=logs&node=node3'")
        tab.until(f"{LINES}.some(one => one.innerText.includes('rank 2 ended: {KILLED}'))")
        whose = set(tab.js(f"{LINES}.map(one => one.innerText.split(/\\s+/)[1])"))
        assert whose == {"node3", "node3/2"}
        checked(tab, "dashboard-live-logs")
        quiet(tab)
