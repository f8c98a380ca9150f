"""Where each rank of an mp run stands: in which pipeline, at which stage. Pure.

    rank      stage 0  stage 1  stage 2
    pipeline 0      0        1        2
    pipeline 1      3        4        5

A pipeline's ranks follow each other, so that its first one's share of a batch follows those of the pipelines before.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """`replicas` pipelines of as many `stages`. The ranks of one stage are replicas of each other."""

    stages: int
    replicas: int = 1

    def stage_of(self, rank: int) -> int:
        """Which stage a rank computes."""
        return rank % self.stages

    def pipeline_of(self, rank: int) -> int:
        """Which pipeline a rank is in."""
        return rank // self.stages

    def feeder_of(self, rank: int) -> int:
        """The first rank of a rank's pipeline: its samples are the pipeline's."""
        return rank - self.stage_of(rank)

    def pipeline(self, number: int) -> range:
        """The ranks of a pipeline, in the order of their stages."""
        return range(number * self.stages, (number + 1) * self.stages)

    def stage(self, number: int) -> range:
        """The ranks that hold a stage, in the order of their pipelines."""
        return range(number, self.stages * self.replicas, self.stages)
