"""One rank's training from data to model: what the worker runs, and what one process runs when there is no cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor, nn

from smolcluster.data import ImageMeta, Samples, open_samples
from smolcluster.errors import ConfigError, Problem
from smolcluster.models import GPT, build_model, build_stage
from smolcluster.models.classifier import Scaling, save_classifier
from smolcluster.models.compiled import require_compiler
from smolcluster.models.gpt_stage import GPTStage
from smolcluster.models.hf import load_weights, read_weights, save_tensors
from smolcluster.models.llama import Llama
from smolcluster.models.nn import SimpleNN
from smolcluster.models.nn_stage import NNStage
from smolcluster.models.partition import cut
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.generation import Origin, note_step
from smolcluster.runtime.metrics import MetricsWriter, cut_after
from smolcluster.runtime.precision import require_precision
from smolcluster.spec.run import GPTSpec, RunSpec
from smolcluster.strategies.base import Strategy, build_strategy
from smolcluster.strategies.mp.stage import ModelParallel
from smolcluster.train.account import Account
from smolcluster.train.keeping import Keeper, resume
from smolcluster.train.loop import Loop
from smolcluster.train.survive import Survivor

log = logging.getLogger(__name__)


def train_rank(
    context: RunContext,
    account: Account,
    stop: Callable[[], bool],
    done: Callable[[], None] = lambda: None,
    survivor: Survivor | None = None,
) -> None:
    """Train this rank's part; rank 0 then writes the model. `account` is filled as it goes, right at any moment.

    `done` is called once everybody's work is: the model is written. What follows is only that all hear of it.
    `survivor` has what this rank carries from a group that failed, and gets it where this one does.

    Errors of the tree in errors.py, or torch's wrapping of a PeerError.
    """
    data, model = prepared(context)
    strategy = build_strategy(context, model)
    _hand_out_given_weights(context, strategy)
    log.info("rank %d of %d on %s: %s", context.rank, context.world_size, context.device, context.run.strategy)
    survivor = survivor or Survivor()
    try:
        _train(context, account, stop, data, model, strategy, survivor)
        # Nobody is done before the model is there: if a rank dies here all begin again, and must be there for that.
        # Twice: the first says that the model is there, the second that everybody knows and has noted it.
        strategy.exchange([0.0])
    except BaseException as error:
        survivor.keep(strategy, error)
        raise
    survivor.forget()
    done()
    strategy.exchange([0.0])
    strategy.close()


def _train(
    context: RunContext,
    account: Account,
    stop: Callable[[], bool],
    data: Samples,
    model: nn.Module,
    strategy: Strategy,
    survivor: Survivor,
) -> None:
    """From where the run stands to the model that is written."""
    if not survivor.meet(context, strategy, account) and not resume(context, strategy, account):
        require_given_weights(context)
    survivor.arrive()
    note_step(context.folder, context.me.node, context.seat, account.steps, origin_of(context, account))
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
    if tensors is not None:
        write_model(context, data, model, tensors)


def prepared(context: RunContext) -> tuple[Samples, nn.Module]:
    """The data, and the model on the rank's device, made ready for the run. ConfigError where that cannot be."""
    data = open_samples(context.data_dir)
    data.require(context.plan.global_batch)
    return data, model_of(context, data)


def model_of(context: RunContext, data: Samples) -> nn.Module:
    """The run's model on this rank's device, ready to be trained as the run wants it. ConfigError where it cannot."""
    model = _build(context, _vocabulary(context.run, data)).to(context.device)
    model.train()
    _prepare(context, model)
    return model


def _build(context: RunContext, vocabulary: int | None) -> nn.Module:
    """The model, or of a model whose layers are split this rank's."""
    run, stages = context.run, context.plan.stages
    if not stages:
        return build_model(run.model, vocabulary, run.seed)
    mine = cut(stages, stages[-1][1])[context.plan.grid.stage_of(context.rank)]
    return build_stage(run.model, mine, vocabulary, run.seed)


def write_model(context: RunContext, data: Samples, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The trained model, into the run's folder."""
    if isinstance(model, GPT | GPTStage | Llama):
        save_tensors(model.spec, tensors, context.data_dir / "tokenizer.json", context.folder.model)
    if isinstance(model, SimpleNN | NNStage) and isinstance(data.meta, ImageMeta):
        save_classifier(model.spec, Scaling(data.meta.mean, data.meta.std), context.folder.model, tensors)
    log.info("model written to %s", context.folder.model)


def origin_of(context: RunContext, account: Account) -> Origin | None:
    """The earlier run whose checkpoint this start began with; None where it was the run's own, or none."""
    if account.resumed_step is None or account.resumed_from == context.run_id:
        return None
    return Origin(run_id=account.resumed_from, step=account.resumed_step)


def _vocabulary(run: RunSpec, data: Samples) -> int | None:
    """How many tokens the model knows, as the data have them; None where that is the model's own affair.

    Given weights have a vocabulary of their own, which may be longer than the tokenizer's: ConfigError if shorter.
    """
    own = run.own_vocabulary or run.init is not None
    if not own or not isinstance(run.model, GPTSpec):
        return data.vocab_size
    if data.vocab_size is not None and data.vocab_size > run.model.vocab_size:
        what = f"this tokenizer has {data.vocab_size:,} tokens, and the model knows {run.model.vocab_size:,}"
        raise ConfigError([Problem("", 0, "data.tokenizer", what, "use the one that the model was trained with")])
    return None


def _prepare(context: RunContext, model: nn.Module) -> None:
    """Make the model compute as the run wants it. ConfigError where this machine cannot."""
    training, node = context.run.training, context.me.node
    require_precision(training.precision, context.device, node)
    if not isinstance(model, GPT | GPTStage | Llama):
        return
    if context.rank == 0 and context.init_dir is not None and not context.plan.stages:  # the others get rank 0's
        assert not isinstance(model, GPTStage), "of layers that are split each stage gets its own (start_from)"
        load_weights(context.init_dir, model)
        log.info("starts from the weights in %s", context.init_dir)
    if context.me.role == "server":  # it computes only to evaluate
        return
    if training.activation_checkpointing:
        model.checkpoint_blocks()
    if training.compile:
        require_compiler(context.device, node)
        model.compile_blocks()


def _hand_out_given_weights(context: RunContext, strategy: Strategy) -> None:
    """Where no rank holds the whole model: rank 0 reads the weights to start from, and every stage gets its own."""
    if not isinstance(strategy, ModelParallel) or context.run.init is None:
        return
    given = None
    if context.rank == 0 and context.init_dir is not None and isinstance(context.run.model, GPTSpec):
        given = read_weights(context.init_dir, context.run.model, strategy.whole_shapes())
        log.info("starts from the weights in %s", context.init_dir)
    if any(row[0] for row in strategy.exchange([float(given is not None)])):
        strategy.start_from(given)


def require_given_weights(context: RunContext) -> None:
    """ConfigError where the run starts from given weights that are not here: an elastic run's new rank 0."""
    if context.run.init is not None and context.init_dir is None and context.rank == 0:
        what = f"{context.me.node} was given no weights to start from, and there is no checkpoint yet"
        raise ConfigError([Problem("", 0, "init_dir", what, "start the run again from the controller")])
