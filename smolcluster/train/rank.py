"""One rank's training from data to model: what the worker runs, and what one process runs when there is no cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable

from smolcluster.data import ImageMeta, open_samples
from smolcluster.models import GPT, build_model
from smolcluster.models.classifier import Scaling, save_classifier
from smolcluster.models.hf import save_pretrained
from smolcluster.models.nn import SimpleNN
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.strategies.base import build_strategy
from smolcluster.train.loop import Account, Loop

log = logging.getLogger(__name__)


def train_rank(context: RunContext, account: Account, stop: Callable[[], bool]) -> None:
    """Train this rank's part; rank 0 then writes the model. `account` is filled as it goes, right at any moment.

    Errors of the tree in errors.py, or torch's wrapping of a PeerError.
    """
    data = open_samples(context.data_dir)
    data.require(context.plan.global_batch)
    model = build_model(context.run.model, data.vocab_size, seed=context.run.seed).to(context.device)
    model.train()
    strategy = build_strategy(context, model)
    log.info("rank %d of %d on %s: %s", context.rank, context.world_size, context.device, context.run.strategy)
    with MetricsWriter(context.folder.metrics(context.me.node, context.rank)) as metrics:
        Loop(context, strategy, data, metrics, account, stop).run()
    tensors = strategy.export()
    strategy.close()
    if tensors is not None and isinstance(model, GPT):
        save_pretrained(model, context.data_dir / "tokenizer.json", context.folder.model, tensors)
    if tensors is not None and isinstance(model, SimpleNN) and isinstance(data.meta, ImageMeta):
        save_classifier(model.spec, Scaling(data.meta.mean, data.meta.std), context.folder.model, tensors)
    if tensors is not None:
        log.info("model written to %s", context.folder.model)
