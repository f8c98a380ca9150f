"""Real processes for a measurement: spawned, joined into one group, doing what they are told one thing at a time."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from smolcluster.spec.faults import FaultSpec

ANSWER_S = 600.0
TIMEOUT_S = 300.0

# "smol": as in our worker; the other two: by init_process_group, as any script
Transport = Literal["smol", "smol script", "gloo"]
# rank, world size, the fabric (a script has none) -> what a rank can be told to do, by name
Setup = Callable[[int, int, Any], dict[str, Callable[[], Any]]]


@dataclass(frozen=True)
class Done:
    """What one rank did: its answer, wall and CPU seconds (all its threads), after a barrier of all ranks."""

    value: Any
    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Place:
    """Where a rank is: its address, the interface that has it, and a process in its network namespace (None: ours)."""

    address: str
    device: str
    namespace: int | None = None


# All ranks on this machine's loopback.
LOOPBACK = Place("127.0.0.1", "lo0" if sys.platform == "darwin" else "lo")


def _open_smol(
    rank: int, places: Sequence[Place], folder: Path, faults: Sequence[FaultSpec], certificates: Path | None
) -> AbstractContextManager[Any]:
    from smolcluster.certs.places import NodeFolder
    from smolcluster.comm import GroupConfig, TlsContexts, open_fabric
    from smolcluster.comm.faults import Faults

    peers = {peer: place.address for peer, place in enumerate(places) if peer != rank}
    tls = None
    if certificates is not None:
        mine = NodeFolder(certificates / str(rank))
        tls = TlsContexts.from_files(mine.certificate, mine.key, mine.ca, mine.crl)
    return open_fabric(
        GroupConfig(
            rank=rank,
            world_size=len(places),
            listen=(places[rank].address,),
            port=0,
            peers=peers,
            encrypt=dict.fromkeys(peers, tls is not None),
            tls=tls,
            timeout_s=TIMEOUT_S,
            secret=b"only of this benchmark",
            endpoint_file=folder / "endpoint.json",
            faults=Faults(faults, rank, seed=0) if faults else None,
        )
    )


class _Script:
    """The group of an ordinary script, as torch.distributed makes it."""

    def __init__(self, backend: str, rank: int, world_size: int, folder: Path) -> None:
        import torch.distributed as dist

        import smolcluster.comm  # noqa: F401  makes `smol` known

        place = (folder / "rendezvous").as_uri()
        limit = timedelta(seconds=TIMEOUT_S)
        dist.init_process_group(backend, init_method=place, rank=rank, world_size=world_size, timeout=limit)

    def close(self) -> None:
        import torch.distributed as dist

        dist.destroy_process_group()


def _open(
    transport: str,
    rank: int,
    places: Sequence[Place],
    folder: Path,
    faults: Sequence[FaultSpec],
    certificates: Path | None,
) -> AbstractContextManager[Any]:
    if transport == "smol":
        return _open_smol(rank, places, folder, faults, certificates)
    return closing(_Script(transport.removesuffix(" script"), rank, len(places), folder))


def _go_to(place: Place, parent: int) -> None:
    """Enter the rank's network namespace. Threads that are begun later are in it too."""
    # gloo must not go looking for an interface by this machine's name.
    os.environ["GLOO_SOCKET_IFNAME"] = place.device
    if place.namespace is not None:
        from tests.lab.inside import syscalls

        # A namespace is there as long as a process is in it: this one does not outlive its parent.
        syscalls.die_with_parent(parent)
        namespace = os.open(f"/proc/{place.namespace}/ns/net", os.O_RDONLY)
        syscalls.join(namespace, syscalls.NEW_NETWORK)
        os.close(namespace)


def _serve(
    rank: int,
    places: Sequence[Place],
    parent: int,
    transport: str,
    keep_memory: bool,
    folder: str,
    pipe: Connection,
    setup: Setup,
    faults: Sequence[FaultSpec],
    certificates: Path | None,
) -> None:
    _go_to(places[rank], parent)
    import torch
    import torch.distributed as dist

    from smolcluster.comm.allocator import keep_freed_memory

    torch.set_num_threads(1)
    if keep_memory:
        keep_freed_memory()
    try:
        with _open(transport, rank, places, Path(folder), faults, certificates) as fabric:
            tasks = setup(rank, len(places), fabric)
            pipe.send((True, list(tasks)))
            while (name := pipe.recv()) is not None:
                dist.barrier()
                wall, cpu = time.perf_counter(), time.process_time()
                value = tasks[name]()
                done = Done(value, time.perf_counter() - wall, time.process_time() - cpu)
                pipe.send((True, done))
    except (EOFError, ConnectionError):  # the parent is gone
        return
    except Exception:  # noqa: BLE001  whatever it is, the parent reports it
        pipe.send((False, traceback.format_exc()))


class Team:
    """`world_size` processes of one group. `keep_memory`: with the allocator set as our worker sets it.

    Otherwise it is as it comes: over "smol script" the backend sets it, unless SMOL_KEEP_MEMORY is 0.
    `places`: where each rank is, if not all on loopback. `faults`: what is done to links of "smol" on purpose, once a
    rank has told its fabric of the step at which that begins. `certificates`: a folder with each rank's, by its number;
    all links of "smol" are then in TLS.
    """

    def __init__(
        self,
        world_size: int,
        transport: Transport,
        setup: Setup,
        keep_memory: bool,
        places: Sequence[Place] = (),
        faults: Sequence[FaultSpec] = (),
        certificates: Path | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        # One thread per rank.
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        places = tuple(places) or (LOOPBACK,) * world_size
        self._folder = tempfile.TemporaryDirectory()
        self._pipes: list[Connection] = []
        self.processes: list[Any] = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            mine = (rank, places, os.getpid(), transport, keep_memory, self._folder.name, theirs, setup)
            process = context.Process(target=_serve, args=(*mine, faults, certificates), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)
        self.tasks: list[str] = self._answers()[0]

    def do(self, task: str) -> list[Done]:
        """Have all ranks do a task at the same time; what they answered, in rank order."""
        for pipe in self._pipes:
            pipe.send(task)
        return self._answers()

    def _answers(self) -> list[Any]:
        return [self._answer(pipe, rank) for rank, pipe in enumerate(self._pipes)]

    def _answer(self, pipe: Connection, rank: int) -> Any:
        if not pipe.poll(ANSWER_S):
            raise RuntimeError(f"rank {rank} did not answer within {ANSWER_S:.0f} s")
        try:
            good, value = pipe.recv()
        except EOFError:
            raise RuntimeError(f"rank {rank} died") from None
        if not good:
            raise RuntimeError(f"rank {rank}:\n{value}")
        return value

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for pipe in self._pipes:
            if kind is None:
                pipe.send(None)
            pipe.close()
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()
