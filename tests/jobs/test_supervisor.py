"""`python -m smolcluster.supervisor` in the foreground: what it leaves with, and what it says."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from smolcluster.jobs.state import read_state

from .conftest import NodeMaker
from .node import FAKE_SUPERVISOR, FakeNode


def foreground(node: FakeNode, send: int | None = None) -> tuple[int, str, str]:
    """Run the supervisor to its end; `send` it a signal once its ranks run."""
    with subprocess.Popen(
        [sys.executable, *FAKE_SUPERVISOR, node.file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        if send is not None:
            node.rank_pids(0)
            node.remember()
            process.send_signal(send)
        said, complained = process.communicate(timeout=30)
        return process.returncode, said, complained


@pytest.mark.parametrize(
    ("behaviours", "code", "state"),
    [
        (("done", "done"), 0, "completed"),
        (("run", "code:4"), 4, "failed"),
        (("code:3",), 3, "failed"),
        (("run", "kill"), 3, "failed"),
        (("code:1",), 1, "failed"),
        (("code:130",), 130, "stopped"),
    ],
)
def test_exit_code(new_node: NodeMaker, behaviours: tuple[str, ...], code: int, state: str) -> None:
    node = new_node(*behaviours)
    assert foreground(node)[0] == code
    assert read_state(node.folder, "node1").state == state
    assert node.registry.active() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_it_in_order(new_node: NodeMaker, number: int) -> None:
    node = new_node("run")
    code, said, _ = foreground(node, send=number)
    assert code == 130
    assert f"the supervisor was asked to stop ({signal.Signals(number).name})" in said
    assert read_state(node.folder, "node1").ranks == {0: "130"}
    node.gone()


def test_bad_node_yaml_is_two_and_words(new_node: NodeMaker) -> None:
    node = new_node("run")
    node.file.write_text("nonsense: 1\n")
    code, _, complained = foreground(node)
    assert code == 2
    assert "1. " in complained
    assert "Traceback" not in complained
