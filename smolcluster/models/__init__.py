"""Models: what is trained. They know nothing of ranks, strategies or data."""

from smolcluster.models.build import build_model, build_stage
from smolcluster.models.gpt import GPT
from smolcluster.models.nn import SimpleNN

__all__ = ["GPT", "SimpleNN", "build_model", "build_stage"]
