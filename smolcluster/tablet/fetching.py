"""How a tablet gets its package from the cluster: file after file, resumed where it broke off, checked, kept by hash.

cache/<hash of the stage>/            whole: every file's hash was right
cache/<hash of the stage>.partial/    of a download that broke off; the next one goes on with it
"""

from __future__ import annotations

import shutil
from pathlib import Path

from smolcluster.comm.clock import Deadline
from smolcluster.errors import HandshakeError, InputError, ProtocolError
from smolcluster.files import hash_of
from smolcluster.models.swap import put_in_place
from smolcluster.tablet.channel import Channel
from smolcluster.tablet.kinds import MOST_LISTING
from smolcluster.tablet.manifest import read_manifest
from smolcluster.tablet.messages import Assign, Failure, Fetch, Message, Piece, Ping, Pong
from smolcluster.tablet.packages import File, Listing, read_listing

# Asked for at once: some tenths of a second of a home's Wi-Fi, so that signs of life come through.
PIECE_BYTES = 256 << 10


def fetch_package(channel: Channel, assign: Assign, name: str, cache: Path, silence_s: float) -> Path:
    """The folder of the package of the format `name` that `assign` asks for: out of the cache, or from the cluster.

    HandshakeError: the cluster has none, or another. ProtocolError: what it sent is not what its listing says. Other
    PeerErrors: the connection broke; what came so far is kept.
    """
    wanted = assign.packages.get(name)
    if wanted is None or len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise HandshakeError(f"{channel.who} assigns layers {assign.layers} not as {name}")
    folder = cache / wanted
    if _is_whole(folder, wanted):
        return folder
    return _Download(channel, name, silence_s).into(folder, wanted)


class _Download:
    """One package over one connection."""

    def __init__(self, channel: Channel, name: str, silence_s: float) -> None:
        self._channel = channel
        self._name = name
        self._silence_s = silence_s
        self._request = 0

    def into(self, folder: Path, wanted: str) -> Path:
        """All of it."""
        listing = self._listing()
        if listing.stage.hash != wanted:
            raise HandshakeError(f"{self._channel.who} has the package {listing.stage.hash[:12]}, not {wanted[:12]}")
        partial = folder.with_name(f"{folder.name}.partial")
        for file in listing.files:
            self._file(file, partial / file.path)
        put_in_place(partial, folder)
        return folder

    def _listing(self) -> Listing:
        data, size = b"", 1
        while len(data) < size:
            piece = self._piece("", len(data))
            data, size = data + piece.data, piece.size
            if size > MOST_LISTING:
                raise ProtocolError(f"{self._channel.who} sent a listing of {size} bytes")
        return read_listing(data, self._channel.who)

    def _file(self, file: File, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > file.size:
            path.unlink()
        with path.open("ab") as opened:
            while opened.tell() < file.size:
                piece = self._piece(file.path, opened.tell())
                if piece.size != file.size:
                    raise ProtocolError(f"{self._channel.who} says {file.path} has {piece.size} bytes, not {file.size}")
                opened.write(piece.data)
        if hash_of(path) != file.sha256:
            path.unlink()  # the next download begins it anew
            raise ProtocolError(f"{file.path} came from {self._channel.who} with another hash than in its listing")

    def _piece(self, path: str, offset: int) -> Piece:
        """The next bytes, at least one; PINGs that come before are answered."""
        self._request += 1
        self._channel.send(Fetch(self._request, self._name, path, offset, PIECE_BYTES), Deadline(self._silence_s))
        while True:
            message: Message = self._channel.receive(Deadline(self._silence_s))
            if isinstance(message, Ping):
                self._channel.send(Pong(message.number), Deadline(self._silence_s))
            elif isinstance(message, Failure):
                raise HandshakeError(f"{self._channel.who} refused: {message.reason}")
            elif not isinstance(message, Piece):
                raise ProtocolError(f"{self._channel.who} sent {message.kind.name} where PIECE was due")
            elif (message.request, message.offset) != (self._request, offset) or not message.data:
                raise ProtocolError(f"{self._channel.who} sent a piece that was not asked for")
            else:
                return message


def _is_whole(folder: Path, wanted: str) -> bool:
    try:
        return folder.is_dir() and read_manifest(folder).hash == wanted
    except InputError:
        shutil.rmtree(folder)  # somebody took a part of it away
        return False
