"""The guide's hybrid cluster with a real page: layers 0-3 torch, 4-7 headless Chromium, 8-11 torch, in a served run."""

from __future__ import annotations

import pytest

from smolcluster.infer.request import Request
from smolcluster.runtime.tabletnote import tablet_key, tablet_link
from tests.chat.page import IN_CHROMIUM, browser
from tests.infer.gates import wait_for
from tests.infer.infer_models import generate, save
from tests.infer.served_run import model_folder, served
from tests.infer.test_engine import GREEDY, collect, prompt_of
from tests.infer.test_keeper import assert_all_go_on
from tests.infer.test_loss import stop_at_first_token
from tests.tablet.test_tablet_rank import ALL, SECRET, told, with_tablet

__all__ = ["browser"]
pytestmark = [*IN_CHROMIUM, pytest.mark.timeout(300)]
GUIDE = ((0, 4), (4, 8), (8, 12))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_page_has_the_middle_layers_and_a_reload_costs_no_token(stages, browser, tmp_path, kind):
    model, source = save(kind, tmp_path / "transformers", layers=12)
    folder = model_folder(source, tmp_path / "model")
    requests = [Request(prompt_of(9, number), 39, GREEDY, ignore_end=True) for number in range(2)]
    with served(stages, folder, tmp_path, GUIDE, plan=with_tablet(wait_s=200.0, cuts=GUIDE)) as (run, client):
        note = told(run, lambda note: note.state == "waiting")
        tab = browser.tab(tablet_link(note, tablet_key(SECRET)))
        try:
            wait_for(client, "ready")
            assert told(run, lambda note: note.state == "connected").format == "onnx"
            assert collect(client.submit(requests[0]))[0] == generate(model, list(requests[0].prompt), 39)
            running = stop_at_first_token(client, requests, tab.reload)
            assert_all_go_on(model, running, requests)
        finally:
            tab.close()
        run.stop(*ALL)
