"""One rank's training from data to model: what the worker runs, and what one process runs when there is no cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable

from smolcluster.data import TokenFolder
from smolcluster.models import GPT, build_model
from smolcluster.models.hf import save_pretrained
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.generation import note_step
from smolcluster.runtime.metrics import MetricsWriter, cut_after
from smolcluster.strategies.base import build_strategy
from smolcluster.train.account import Account
from smolcluster.train.keeping import Keeper, resume
from smolcluster.train.loop import Loop

log = logging.getLogger(__name__)


def train_rank(context: RunContext, account: Account, stop: Callable[[], bool]) -> None:
    """Train this rank's part; rank 0 then writes the model. `account` is filled as it goes, right at any moment.

    Errors of the tree in errors.py, or torch's wrapping of a PeerError.
    """
    data = TokenFolder.open(context.data_dir)
    data.require(context.plan.global_batch)
    model = build_model(context.run.model, data.meta.vocab_size, seed=context.run.seed).to(context.device)
    model.train()
    strategy = build_strategy(context, model)
    log.info("rank %d of %d on %s: %s", context.rank, context.world_size, context.device, context.run.strategy)
    resume(context, strategy, account)
    note_step(context.folder, context.me.node, context.seat, account.steps)
    metrics_file = context.folder.metrics(context.me.node, context.seat)
    cut_after(metrics_file, account.steps)
    keeper = Keeper(context, strategy)
    with MetricsWriter(metrics_file) as metrics:
        try:
            Loop(context, strategy, data, metrics, account, stop, keeper).run()
        except BaseException:
            keeper.abandon()
            raise
    tensors = strategy.export()
    if tensors is not None and isinstance(model, GPT):
        save_pretrained(model, context.data_dir / "tokenizer.json", context.folder.model, tensors)
        log.info("model written to %s", context.folder.model)
    # Nobody is done before the model is there: if a rank dies here all begin again, and must be there for that. Twice,
    # for a rank's number is under way while it waits: the first says that the model is there, the second that it heard.
    strategy.exchange([0.0])
    strategy.exchange([0.0])
    strategy.close()
