"""Data: from a person's text to the samples of a training step. Preparing needs no torch; batches do."""

from smolcluster.data.meta import DataMeta, Split
from smolcluster.data.order import step_indices, steps_per_epoch
from smolcluster.data.prepare import prepare_data
from smolcluster.data.tokens import TokenFolder

__all__ = ["DataMeta", "Split", "TokenFolder", "prepare_data", "step_indices", "steps_per_epoch"]
