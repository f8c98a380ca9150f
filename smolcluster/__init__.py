"""smolcluster: a few unequal computers as one machine that trains and serves PyTorch models."""

__version__ = "0.1.0"
