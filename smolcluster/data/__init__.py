"""Data: from a person's text or pictures to the samples of a training step. Preparing needs no torch; batches do."""

from smolcluster.data.images import ImageFolder
from smolcluster.data.meta import DataMeta, ImageMeta, Split
from smolcluster.data.order import step_indices, steps_per_epoch
from smolcluster.data.prepare import prepare_data
from smolcluster.data.samples import Samples, open_samples
from smolcluster.data.tokens import TokenFolder

__all__ = [
    "DataMeta",
    "ImageFolder",
    "ImageMeta",
    "Samples",
    "Split",
    "TokenFolder",
    "open_samples",
    "prepare_data",
    "step_indices",
    "steps_per_epoch",
]
