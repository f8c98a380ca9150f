"""Writing a run's page: what its folder holds, read, and put beside it as report.html."""

from __future__ import annotations

from pathlib import Path

from smolcluster.observe.compare import status_of
from smolcluster.observe.events import events_of, training_events
from smolcluster.observe.page.build import page_of
from smolcluster.observe.report import RunStory
from smolcluster.observe.served import Story
from smolcluster.runtime.runfolder import RunFolder, Summary, write_atomic


def write_page(folder: RunFolder, story: Story, summary: Summary) -> Path:
    """Write report.html whole or not at all; gives the file. OSError."""
    if isinstance(story, RunStory):
        events, status = training_events(folder, story), status_of(story, summary)
    else:
        events, status = events_of(folder, story.plan.ranks), summary.status
    write_atomic(folder.page, page_of(story, summary, status, events))
    return folder.page
