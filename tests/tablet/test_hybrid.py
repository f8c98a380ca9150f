"""The documentation's hybrid cluster in small: torch, a tablet, torch. The text is that of one process."""

import itertools

import pytest
import torch

from smolcluster.models.decoder import Row
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.tablet.reference import ReferenceTablet, assignment
from smolcluster.tablet.remote import SessionGoneError, TabletStage
from tests.infer.infer_models import CONTEXT, LAYERS, generate
from tests.tablet.tablets import PATIENT, dialler, listening

PROMPT, NEW = [5, 17, 200, 3], 12


@pytest.mark.parametrize("cut_after", [None, 5])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_greedy_text_is_that_of_one_process(models, kind, cut_after):
    model, folder = models(kind)
    first, middle, last = (load_stage(folder, LayerRange(*part, LAYERS)) for part in ((0, 1), (1, 3), (3, 4)))
    sessions = itertools.count(1)
    with listening(ReferenceTablet(middle, CONTEXT)) as served:
        stage = TabletStage(dialler(served.where), assignment(middle, kind, CONTEXT), PATIENT)
        try:
            text, prefills = list(PROMPT), 0
            while len(text) < len(PROMPT) + NEW:
                session, caches = next(sessions), (first.new_cache(CONTEXT), last.new_cache(CONTEXT))
                position, prefills = 0, prefills + 1
                try:
                    while len(text) < len(PROMPT) + NEW:
                        ids = torch.tensor(text[position:])
                        hidden = first(ids, [Row(caches[0], len(ids), False)])
                        hidden = stage.forward(session, hidden, position)
                        logits = last(hidden, [Row(caches[1], len(ids), True)])
                        position = len(text)
                        text.append(int(logits[-1].argmax()))
                        if cut_after == len(text) - len(PROMPT) and prefills == 1:
                            stage.forget(session)  # as after a connection that was lost
                except SessionGoneError:
                    continue
        finally:
            stage.close()
    assert text[len(PROMPT) :] == generate(model, PROMPT, NEW)
    assert prefills == (1 if cut_after is None else 2)
