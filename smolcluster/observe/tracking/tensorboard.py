"""A run as event files for TensorBoard. Of one that has ended they are written beside, then put in place whole; of one
that goes on they grow in their place, for whoever looks. Again replaces what was there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smolcluster.observe.tracking.rows import Row
from smolcluster.observe.tracking.sink import About, TrackerError, fresh, put_in_place


class TensorBoard:
    """Scalars by step, the config and the summary as text."""

    def __init__(self, writer: Any, about: About) -> None:
        self._writer = writer
        self._about = about

    def write(self, row: Row) -> None:
        """One event with all values of the step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=_tag(name), simple_value=value) for name, value in row.values.items()]
        self._writer.add_event(Event(wall_time=row.time, step=row.step, summary=Summary(value=values)))

    def flush(self) -> None:
        """To the disk."""
        self._writer.flush()

    def finish(self, summary: dict[str, Any]) -> str:
        """The summary as text."""
        self._text("summary", summary)
        return f"tensorboard --logdir {self._about.folder.parent}"

    def _text(self, tag: str, value: dict[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.plugins.text.summary_v2 import text_pb

        # Markdown shows what is indented as it is.
        text = "\n".join("    " + line for line in json.dumps(value, indent=2).splitlines())
        self._writer.add_event(Event(step=0, summary=text_pb(tag, text)))

    @classmethod
    @contextmanager
    def open(cls, about: About) -> Iterator[TensorBoard]:
        """As a sink; TrackerError where the files cannot be written."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        try:
            written = fresh(about.folder)
            if about.live:
                written = put_in_place(written, about.folder)
            writer = EventFileWriter(str(written), filename_suffix=".smolcluster")
            try:
                sink = cls(writer, about)
                sink._text("config", about.config)
                yield sink
            finally:
                writer.close()
            if not about.live:
                put_in_place(written, about.folder)
        except OSError as error:
            raise TrackerError(f"TensorBoard's files could not be written: {error}") from error


def _tag(name: str) -> str:
    """Tags of one prefix stand together; those of the run itself too."""
    return name if "/" in name else f"run/{name}"
