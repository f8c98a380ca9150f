"""The error tree: exit codes as the design states them, and a report that carries every problem."""

import pytest

from smolcluster import errors
from smolcluster.errors import ConfigError, Problem


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.PeerError, 3),
        (errors.HandshakeError, 3),
        (errors.ProtocolError, 3),
        (errors.DeadlineError, 3),
        (errors.PeerLostError, 3),
        (errors.TrainingError, 4),
        (errors.RequestError, 2),
        (errors.BusyError, 2),
        (errors.InterruptedRun, 130),
    ],
)
def test_exit_codes(kind, code):
    assert kind("x").exit_code == code


def test_a_deadline_is_a_timeout_for_those_who_catch_that():
    assert issubclass(errors.DeadlineError, TimeoutError)


def test_config_error_reports_all_problems_sorted_and_once():
    later = Problem("b.yaml", 7, "training.batch_size", "expected a whole number, found 'many'", "write a number")
    first = Problem("a.yaml", 2, "modle", "unknown key", "did you mean model?")
    error = ConfigError([later, first, later])
    assert error.exit_code == 2
    assert error.problems == (first, later)
    assert str(error) == (
        "2 problems in the configuration; nothing was started.\n"
        "  1. a.yaml:2: modle: unknown key\n"
        "       fix: did you mean model?\n"
        "  2. b.yaml:7: training.batch_size: expected a whole number, found 'many'\n"
        "       fix: write a number"
    )


def test_what_a_command_reads_is_no_configuration():
    error = errors.InputError([Problem("runs/nope", 0, "", "there is no such run")])
    assert isinstance(error, ConfigError)
    assert error.exit_code == 2
    assert str(error) == "1 problem.\n  1. runs/nope: there is no such run"


def test_a_flag_has_no_line():
    assert str(Problem("--nodes", 0, "", "no such node: mini9")) == "--nodes: no such node: mini9"
