"""torchrun's and our own variables become settings; what is wrong with them is told all at once, with the remedy."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from smolcluster.comm.endpoint import Endpoint
from smolcluster.comm.environment import read_settings
from smolcluster.comm.route import address_towards, is_loopback, nearest
from smolcluster.errors import ConfigError, PeerError
from tests.comm.certificates import make_certificates

ALONE = Endpoint("127.0.0.1", 29500)


def test_nothing_said_means_loopback_in_the_clear() -> None:
    settings = read_settings({}, ALONE)
    assert settings.hosts == ("127.0.0.1",)
    assert (settings.port, settings.buffer_bytes, settings.timeout_s, settings.generation) == (0, 8 << 20, 60.0, 0)
    assert settings.secret == b""
    assert settings.tls is None


def test_everything_said(tmp_path: Path) -> None:
    make_certificates(tmp_path, "a")
    (tmp_path / "secret").write_text("  quiet\n")
    settings = read_settings(
        {
            "SMOL_ADDRESS": "127.0.0.2, 127.0.0.3",
            "SMOL_PORT": "41000",
            "LOCAL_RANK": "2",
            "SMOL_SECRET_FILE": str(tmp_path / "secret"),
            "SMOL_TLS_CERT": str(tmp_path / "a.pem"),
            "SMOL_TLS_KEY": str(tmp_path / "a.key"),
            "SMOL_TLS_CA": str(tmp_path / "ca.pem"),
            "SMOL_BUFFER_MB": "0.5",
            "SMOL_TIMEOUT_S": "7.5",
            "TORCHELASTIC_RESTART_COUNT": "3",
            "SMOL_KEEP_MEMORY": "0",
        },
        ALONE,
    )
    assert settings.hosts == ("127.0.0.2", "127.0.0.3")
    assert settings.port == 41002  # each rank of a machine has its own
    assert settings.secret == b"quiet"
    assert "quiet" not in repr(settings)
    assert settings.tls is not None
    assert (settings.buffer_bytes, settings.timeout_s, settings.generation) == (1 << 19, 7.5, 3)
    assert not settings.keep_memory


def test_every_problem_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(
            {
                "SMOL_ADDRESS": "192.0.2.7,0.0.0.0",
                "SMOL_PORT": "70000",
                "SMOL_SECRET_FILE": str(tmp_path / "empty"),
                "SMOL_TLS_KEY": "key.pem",
                "SMOL_BUFFER_MB": "-1",
                "SMOL_TIMEOUT_S": "soon",
                "SMOL_KEEP_MEMORY": "no",
            },
            ALONE,
        )
    text = str(caught.value)
    assert text.startswith("9 problems in the configuration; nothing was started.")
    for part in (
        "SMOL_ADDRESS: cannot listen on 192.0.2.7:0: 192.0.2.7 is not an address of this machine now.",
        "SMOL_ADDRESS: refusing to listen on 0.0.0.0",
        "SMOL_PORT: 70000 is no port",
        "SMOL_SECRET_FILE: the run's secret is empty",
        "SMOL_TLS_CERT: is not set, though other variables of TLS are",
        "SMOL_TLS_CA: is not set",
        "SMOL_BUFFER_MB: '-1' is not a number above zero",
        "SMOL_TIMEOUT_S: 'soon' is not a number above zero",
        "SMOL_KEEP_MEMORY: 'no' is neither 0 nor 1",
    ):
        assert part in text


def test_tls_files_that_are_missing_or_do_not_fit(tmp_path: Path) -> None:
    make_certificates(tmp_path, "a", "b")
    files = {"SMOL_TLS_CERT": "a.pem", "SMOL_TLS_KEY": "b.key", "SMOL_TLS_CA": "ca.pem"}
    with pytest.raises(ConfigError, match="these files make no TLS"):
        read_settings({key: str(tmp_path / name) for key, name in files.items()}, ALONE)
    files["SMOL_TLS_KEY"] = "gone.key"
    with pytest.raises(ConfigError, match=r"SMOL_TLS_KEY: there is no file .*gone\.key"):
        read_settings({key: str(tmp_path / name) for key, name in files.items()}, ALONE)
    files |= {"SMOL_TLS_KEY": "a.key", "SMOL_TLS_CRL": "none.pem"}
    with pytest.raises(ConfigError, match=r"SMOL_TLS_CRL: there is no file .*none\.pem"):
        read_settings({key: str(tmp_path / name) for key, name in files.items()}, ALONE)
    (tmp_path / "none.pem").write_text("no list")
    with pytest.raises(ConfigError, match=r"SMOL_TLS_CRL: these files make no TLS.*\n.*its list of revoked ones"):
        read_settings({key: str(tmp_path / name) for key, name in files.items()}, ALONE)
    with pytest.raises(ConfigError, match="SMOL_TLS_CERT: is not set, though other variables of TLS are"):
        read_settings({"SMOL_TLS_CRL": str(tmp_path / "none.pem")}, ALONE)


def test_one_machine_keeps_to_loopback_whatever_its_name_means() -> None:
    nowhere = Endpoint("no-such-host.invalid", 29500)
    assert read_settings({"LOCAL_WORLD_SIZE": "3", "WORLD_SIZE": "3"}, nowhere).hosts == ("127.0.0.1",)
    with pytest.raises(ConfigError, match="this machine's own address cannot be found out"):
        read_settings({"LOCAL_WORLD_SIZE": "3", "WORLD_SIZE": "6"}, nowhere)


def test_the_address_is_that_of_the_route_to_the_master() -> None:
    assert read_settings({}, Endpoint("127.0.0.9", 1)).hosts == ("127.0.0.1",)
    assert read_settings({"MASTER_ADDR": "127.0.0.9", "MASTER_PORT": "1"}, None).hosts == ("127.0.0.1",)
    assert read_settings({}, None).hosts == ("127.0.0.1",)  # a file on a disk that they share
    assert is_loopback(address_towards(Endpoint("localhost", 1)))


def test_a_machine_whose_name_means_loopback_has_to_say_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian writes the machine's own name beside 127.0.1.1 in its hosts file."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 29500))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    with pytest.raises(ConfigError, match=r"here that name means 127\.0\.1\.1, which no other machine reaches"):
        read_settings({}, Endpoint("mini1", 29500))
    with pytest.raises(PeerError):
        address_towards(Endpoint("mini1", 29500))


@pytest.mark.parametrize(
    ("hosts", "own", "chosen"),
    [
        (("10.0.1.2", "10.0.2.2"), ("10.0.2.3",), "10.0.2.2"),
        (("10.0.1.2", "10.0.2.2"), ("192.168.1.4", "10.0.1.9"), "10.0.1.2"),
        (("192.168.1.9", "10.0.2.2"), ("172.16.0.1",), "192.168.1.9"),
        (("mini1.local", "fe80::1"), ("10.0.0.1",), "mini1.local"),
        (("10.0.0.1", "fd00::1"), ("fd00::2",), "fd00::1"),
        (("mini1.local",), (), "mini1.local"),
        ((), ("10.0.0.1",), ""),
    ],
)
def test_the_nearest_of_several_addresses(hosts: tuple[str, ...], own: tuple[str, ...], chosen: str) -> None:
    assert nearest(hosts, own) == chosen
