"""What the tests of the tablets' page share: a cluster that has a stage for a page, and how the page is read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from smolcluster.comm.clock import Deadline
from smolcluster.models.decoder import Decoder, Row
from smolcluster.models.partition import LayerRange
from smolcluster.models.stage_weights import load_stage
from smolcluster.tablet.door import Door
from smolcluster.tablet.export import export_onnx
from smolcluster.tablet.messages import Assign
from smolcluster.tablet.reference import assignment
from smolcluster.tablet.remote import TabletStage, Waits
from smolcluster.tablet.web import TabletSite
from tests.chat.browser import Tab
from tests.infer.infer_models import CONTEXT, LAYERS
from tests.tablet.tablets import CLUSTER, KEY, LONG, PATIENT

HEADING = "document.querySelector('h1')?.textContent"
READY = f"{HEADING} === 'Ready'"


@dataclass
class Cluster:
    """A door with its site, and the stage behind it."""

    door: Door
    site: TabletSite
    decoder: Decoder
    stage: TabletStage
    # The bytes of every piece that was handed out.
    given: list[int] = field(default_factory=list)

    def counting(self) -> None:
        """From now on pieces are counted."""
        make = self.stage._packages.delivery

        def delivery():
            made = make()
            answer = made.answer

            def counted(fetch):
                piece, further = answer(fetch)
                self.given.append(len(piece.data))
                return piece, further

            made.answer = counted
            return made

        self.stage._packages.delivery = delivery

    @property
    def link(self) -> str:
        """What a person opens."""
        return f"{self.site.address}#key={KEY.hex()}"

    def local(self, pieces: list[Tensor]) -> list[Tensor]:
        """What torch makes of them."""
        cache = self.decoder.new_cache(CONTEXT)
        return [self.decoder(piece, [Row(cache, len(piece), True)]) for piece in pieces]

    def remote(self, session: int, pieces: list[Tensor]) -> list[Tensor]:
        """What the tablet makes of them."""
        out, position = [], 0
        for piece in pieces:
            out.append(self.stage.forward(session, piece, position))
            position += len(piece)
        return out

    def same(self, session: int, pieces: list[Tensor], within: float = 1e-4) -> None:
        """Prefill and decode, each within that of the largest number."""
        for got, wanted in zip(self.remote(session, pieces), self.local(pieces), strict=True):
            assert got.shape == wanted.shape
            assert (got - wanted).abs().max() <= within * wanted.abs().max()

    def alone(self) -> None:
        """Every page has gone, and the stage knows it."""
        with self.stage._lock:
            self.stage._drop()
        until, tries = Deadline(LONG), threading.Event()
        while self.door._current is not None and not until.expired:
            tries.wait(0.05)

    def cut(self) -> None:
        """What a lost network is to both ends, at once."""
        channel = self.stage._channel
        assert channel is not None
        channel.abort()


@contextlib.contextmanager
def cluster(
    folder: Path,
    out: Path,
    layers: tuple[int, int] = (1, 3),
    waits: Waits = PATIENT,
    dtype: str = "fp32",
    port: int = 0,
) -> Iterator[Cluster]:
    """One that serves these layers of the model in `folder` to a page, exported below `out`."""
    decoder = load_stage(folder, LayerRange(*layers, LAYERS))
    exported = export_onnx(decoder, folder.name, CONTEXT, out)
    assign: Assign = assignment(decoder, folder.name, CONTEXT, dtype)
    assign = assign.model_copy(update={"packages": {"onnx": exported.manifest.hash}})
    door = Door((), 0, CLUSTER)
    site = TabletSite(door, "127.0.0.1", port)
    site.start()
    stage = TabletStage(door.take, assign, waits, {"onnx": exported.folder})
    try:
        made = Cluster(door, site, decoder, stage)
        made.counting()
        yield made
    finally:
        stage.close()
        door.close()
        site.close()


def heading(tab: Tab) -> str:
    """What the page says first."""
    return str(tab.js(HEADING))


def fact(tab: Tab, term: str) -> str:
    """What the page says of it."""
    term = f"[...document.querySelectorAll('dt')].find(one => one.textContent === '{term}')"
    return str(tab.js(f"{term}.nextSibling.textContent"))
