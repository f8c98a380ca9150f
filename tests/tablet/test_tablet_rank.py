"""A served run in which a tablet has a stage: the rank that hands over to it, and what the head makes of a loss."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import PeerError
from smolcluster.infer.request import Done, Failed, Request
from smolcluster.models.decoder import Row
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.plan.types import ServePlan, TabletPlan
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.runtime.tabletnote import TabletNote, read_tablet, tablet_key
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.door import dial
from smolcluster.tablet.greeting import Self
from smolcluster.tablet.reference import OnnxTablet, ReferenceTablet
from smolcluster.tablet.web import SOCKET
from tests.infer.gates import wait_for
from tests.infer.infer_models import CONTEXT, LAYERS, generate
from tests.infer.served_run import Run, model_folder, plan_of, served
from tests.infer.test_engine import CUTS, GREEDY, collect, prompt_of
from tests.infer.test_keeper import assert_all_go_on, layers, until
from tests.infer.test_loss import stop_at_first_token
from tests.tablet.tablets import LONG, listening

pytestmark = pytest.mark.timeout(300)
SECRET = b"a secret of the tests"
ALL = (0, 1, 2)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def small(request, models, tmp_path_factory):
    model, folder = models(request.param)
    return model, model_folder(folder, tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def llama(models, tmp_path_factory):
    model, folder = models("llama")
    return model, model_folder(folder, tmp_path_factory.mktemp("served") / "model")


def with_tablet(
    wait_s: float = LONG, optional: bool = False, rejoin_s: float = 60.0, cuts=CUTS, **changes
) -> ServePlan:
    """The middle layers are an iPad's."""
    plan = plan_of(cuts, rejoin_s)
    given = {"node": "ipad", "app": "browser", "host": "127.0.0.1", "port": 0, "precision": "fp32", **changes}
    tablet = TabletPlan(**given, optional=optional)
    stages = tuple(one.model_copy(update={"tablet": tablet if one.rank == 1 else None}) for one in plan.stages)
    serve = plan.serve.model_copy(update={"tablet_wait_s": wait_s, "optional": ("ipad",) if optional else ()})
    return plan.model_copy(update={"stages": stages, "serve": serve})


class Player:
    """An iPad whose browser has the page open, in a thread: it comes again whenever it is let go."""

    def __init__(self, address: str, cache: Path, key: bytes = tablet_key(SECRET)) -> None:
        page = urlsplit(address)
        self._where = Endpoint(page.hostname or "", page.port or 0)
        self._me = Self("tablet", "served", "ipad", key)
        self._tablet = OnnxTablet(cache, "a test")
        self._over, self._awake = threading.Event(), threading.Event()
        self._awake.set()
        self.ends: list[PeerError] = []
        self.channel: Channel | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def sleep(self) -> None:
        """Gone, until it wakes."""
        self._awake.clear()
        assert self.channel is not None
        self.channel.abort()

    def wake(self) -> None:
        self._awake.set()

    def close(self) -> None:
        self._over.set()
        self._awake.set()
        if self.channel is not None:
            self.channel.abort()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            self._awake.wait()
            try:
                self.channel = dial(self._where, self._me, Deadline(5.0), path=SOCKET)
                if not self._awake.is_set() or self._over.is_set():
                    self.channel.abort()
                self._tablet.serve(self.channel)
            except PeerError as error:
                self.ends.append(error)
            self._over.wait(0.2)


def told(run: Run, good) -> TabletNote:
    """What the rank says, once it is as wished."""
    pause, folder = threading.Event(), RunFolder(run.folder / "run")
    for _ in range(1200):
        note = read_tablet(folder, "n1", 1)
        if note is not None and good(note):
            return note
        pause.wait(0.1)
    raise AssertionError(note)


@contextmanager
def hybrid(stages, folder: Path, tmp_path: Path, plan: ServePlan) -> Iterator[tuple[Run, object, Player]]:
    """The run with its tablet, serving."""
    with served(stages, folder, tmp_path, CUTS, plan=plan) as (run, client):
        player = Player(told(run, lambda note: note.state == "waiting").address, tmp_path / "cache")
        try:
            wait_for(client, "ready")
            yield run, client, player
        finally:
            player.close()


def test_the_text_is_that_of_one_process_and_a_loss_costs_no_token(stages, small, tmp_path):
    model, folder = small
    requests = [Request(prompt_of(9, number), 39, GREEDY, ignore_end=True) for number in range(3)]
    with hybrid(stages, folder, tmp_path, with_tablet()) as (run, client, player):
        health = client.health()
        assert [(stage.node, stage.tablet, stage.alive) for stage in health.stages] == [
            ("n0", "", True), ("ipad", "browser", True), ("n2", "", True),
        ]  # fmt: skip
        # What the rank of the tablet notes, its head tells.
        assert [(note.tablet, note.state, note.device) for note in health.tablets] == [("ipad", "connected", "a test")]
        tokens, _, end = collect(client.submit(requests[0]))
        assert (tokens, type(end)) == (generate(model, list(requests[0].prompt), 39), Done)
        note = told(run, lambda note: note.state == "connected")
        assert (note.came, note.layers, note.format, note.device, note.left_s) == (True, "1:3", "onnx", "a test", None)

        # Its Wi-Fi goes in the middle of three texts, and comes again.
        running = stop_at_first_token(client, requests, player.sleep)
        lost = until(client, lambda health: not health.stages[1].alive)
        assert lost.stages[1].tablet == "browser"
        [gone] = until(client, lambda health: health.tablets[0].state == "waiting").tablets
        assert (gone.address, gone.came, gone.left_s) == (note.address, True, None)
        assert told(run, lambda note: note.state == "waiting").came
        player.wake()
        assert_all_go_on(model, running, requests)
        health = until(client, lambda health: health.state == "ready")
        assert layers(health) == list(CUTS)
        health = until(client, lambda health: not any(stage.sessions for stage in health.stages))
        assert all(stage.cache_bytes == 0 for stage in health.stages)
        assert run.stop(1) == [""]
        run.stop(0, 2)


def test_a_tablet_that_stays_away_ends_what_waits_for_it(stages, llama, tmp_path):
    """Not later than it is waited for; when it comes after all, it serves again."""
    model, folder = llama
    request = Request(prompt_of(9), 39, GREEDY, ignore_end=True)
    with hybrid(stages, folder, tmp_path, with_tablet(wait_s=4.0, rejoin_s=1.0)) as (run, client, player):
        [(_, reader)] = stop_at_first_token(client, [request], player.sleep)
        *_, end = reader
        assert isinstance(end, Failed), end
        assert (end.trouble, end.message) == (
            "stage_lost", "rank 1 is gone, and the others are too few: ipad must have its layers",
        )  # fmt: skip
        player.wake()
        wait_for(client, "ready")
        assert collect(client.submit(request))[0] == generate(model, list(request.prompt), 39)
        run.stop(*ALL)


@pytest.mark.slow
def test_the_others_go_on_without_an_optional_one_and_take_it_in_again(stages, llama, tmp_path):
    model, folder = llama
    request = Request(prompt_of(9), 39, GREEDY, ignore_end=True)
    plan = with_tablet(optional=True, rejoin_s=1.0)
    with hybrid(stages, folder, tmp_path, plan) as (run, client, player):
        running = stop_at_first_token(client, [request], player.sleep)
        assert_all_go_on(model, running, [request])
        health = client.health()
        assert (health.state, layers(health)[1]) == ("ready", (0, 0))
        assert sorted(layers(health)) == [(0, 0), (0, 2), (2, 4)]
        player.wake()
        health = until(client, lambda health: health.state == "ready" and layers(health) == list(CUTS))
        assert collect(client.submit(request))[0] == generate(model, list(request.prompt), 39)
        run.stop(*ALL)


def test_a_tablet_that_never_comes_ends_the_run_and_says_what_to_do(stages, llama, tmp_path):
    plan = with_tablet(wait_s=1.0)
    with served(stages, llama[1], tmp_path, CUTS, plan=plan) as (run, _):
        note = told(run, lambda note: note.state == "waiting")
        assert (note.came, note.reason, note.tablet, note.layers) == (False, "", "ipad", "1:3")
        assert note.left_s is not None
        assert run.ended(1) == (
            "AbsentError: ipad did not come within 1 s\n    fix: open the page's link in its browser, and keep it in"
            " front; wait longer with -e tablet_wait_s=300 (--override tablet_wait=300); or serve without it:"
            " -e optional=ipad (--override optional=ipad)"
        )
        run.stop(0, 2)


def test_without_an_optional_one_that_never_comes_the_others_begin(stages, llama, tmp_path):
    model, folder = llama
    request = Request(prompt_of(9), 39, GREEDY, ignore_end=True)
    with served(stages, folder, tmp_path, CUTS, plan=with_tablet(wait_s=1.0, optional=True)) as (run, client):
        health = wait_for(client, "ready")
        assert layers(health)[1] == (0, 0)
        assert collect(client.submit(request))[0] == generate(model, list(request.prompt), 39)
        run.stop(*ALL)


def test_who_has_another_key_gets_nothing(stages, llama, tmp_path):
    with served(stages, llama[1], tmp_path, CUTS, plan=with_tablet(wait_s=6.0)) as (run, _):
        address = told(run, lambda note: note.state == "waiting").address
        stranger = Player(address, tmp_path / "cache", tablet_key(b"another secret"))
        try:
            assert "did not come within 6 s" in run.ended(1)
        finally:
            stranger.close()
        # The last one may have met the run's own end in mid-greeting, which has words of its own.
        assert any("did not prove" in str(end) for end in stranger.ends), stranger.ends
        assert stranger.channel is None, "it was never let in"
        assert not (tmp_path / "cache").exists()
        run.stop(0, 2)


def with_halves(folder: Path, prompt: list[int], count: int) -> list[int]:
    """The greedy text where the middle stage's numbers come and go as float16, as Core ML has them."""
    first, middle, last = (load_stage(folder, LayerRange(*part, LAYERS)) for part in CUTS)
    caches = [one.new_cache(CONTEXT) for one in (first, middle, last)]
    text, position = list(prompt), 0
    while len(text) < len(prompt) + count:
        ids = torch.tensor(text[position:])
        position = len(text)
        hidden = first(ids, [Row(caches[0], len(ids), False)]).half().float()
        hidden = middle(hidden, [Row(caches[1], len(ids), False)]).half().float()
        text.append(int(last(hidden, [Row(caches[2], len(ids), True)])[-1].argmax()))
    return text[len(prompt) :]


def test_an_app_is_dialled_where_the_inventory_says(stages, models, tmp_path):
    """Its package is Core ML's; a tablet in Python computes with torch."""
    folder = model_folder(models("gpt2")[1], tmp_path / "model")
    tablet = ReferenceTablet(load_stage(folder, LayerRange(1, 3, LAYERS)), CONTEXT)
    with listening(tablet, Self("tablet", "served", "ipad", tablet_key(SECRET))) as app:
        plan = with_tablet(app="native", port=app.where.port, precision="int8")
        with served(stages, folder, tmp_path, CUTS, plan=plan) as (run, client):
            wait_for(client, "ready")
            note = told(run, lambda note: note.state == "connected")
            assert (note.app, note.address, note.format) == ("native", str(app.where), "torch")
            [export] = (tmp_path / "exports").iterdir()
            assert "-coreml-int8-" in export.name
            tokens, _, _ = collect(client.submit(Request(prompt_of(9), 20, GREEDY, ignore_end=True)))
            assert tokens == with_halves(folder, prompt_of(9), 20)
            run.stop(*ALL)
