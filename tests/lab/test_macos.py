"""The stand-ins of a Mac's tools: real formats, real effects, what lasts and what does not, and a record of it all."""

from __future__ import annotations

import plistlib
import re

import pytest

from . import Host, Lab

# Starting hosts takes seconds, on a machine that is busy with other tests many.
pytestmark = pytest.mark.timeout(600)

_BRIDGE = "Thunderbolt Bridge"


@pytest.fixture
def mac(minis: Lab) -> Host:
    """A Mac mini."""
    return minis.host("mini1")


def _services(host: Host) -> dict[str, str]:
    """Name of each service by its device, read as anybody would read it."""
    told = host.run(["networksetup", "-listnetworkserviceorder"]).stdout
    pairs = re.findall(r"^\((?:\d+|\*)\) (.+)\n\(Hardware Port: .+, Device: (\w+)\)$", told, re.MULTILINE)
    return {device: name for name, device in pairs}


def test_services_and_ports_are_found_by_device(mac: Host) -> None:
    assert _services(mac) == {"en0": "Ethernet", "bridge0": _BRIDGE, "en1": "Wi-Fi"}
    told = mac.run(["networksetup", "-listallhardwareports"]).stdout
    ports = dict(
        re.findall(r"^Hardware Port: (.+)\nDevice: (\w+)\nEthernet Address: [0-9a-f:]{17}$", told, re.MULTILINE)
    )
    assert ports["Thunderbolt 1"] == "en2"
    assert ports[_BRIDGE] == "bridge0"
    # A person may have called it anything.
    mac.run(["networksetup", "-renamenetworkservice", _BRIDGE, "Thunderbolt-Brücke"])
    assert _services(mac)["bridge0"] == "Thunderbolt-Brücke"
    mac.run(["networksetup", "-renamenetworkservice", "Thunderbolt-Brücke", _BRIDGE])


def test_a_manual_address_is_real_and_lasts(minis: Lab, mac: Host) -> None:
    mac.run(["networksetup", "-setmanual", "Ethernet", "192.168.50.1", "255.255.255.0"])
    mac.run(["networksetup", "-setadditionalroutes", "Ethernet", "10.9.0.0", "255.255.0.0", "192.168.50.2"])
    mac.run(["networksetup", "-setMTU", "en0", "9000"])
    mac.run(["ifconfig", "en0", "inet", "192.168.77.1", "netmask", "255.255.255.0", "alias"])
    mac.run(["sysctl", "-w", "net.inet.ip.forwarding=1"])

    def state() -> tuple[str, str, str]:
        routes = mac.run(["netstat", "-rn", "-f", "inet"]).stdout
        return mac.run(["ifconfig", "en0"]).stdout, routes, mac.run(["sysctl", "-n", "net.inet.ip.forwarding"]).stdout

    shown, routes, forwarding = state()
    assert "inet 192.168.50.1 netmask 0xffffff00 broadcast 192.168.50.255" in shown
    assert "inet 192.168.77.1" in shown
    assert "mtu 9000" in shown
    assert re.search(r"^10\.9 +192\.168\.50\.2 +UGSc +en0$", routes, re.MULTILINE)
    assert forwarding == "1\n"

    minis.reboot("mini1")
    shown, routes, forwarding = state()
    assert "inet 192.168.50.1" in shown
    assert "192.168.77.1" not in shown
    assert "mtu 9000" in shown
    assert re.search(r"^10\.9 +192\.168\.50\.2 ", routes, re.MULTILINE)
    assert forwarding == "0\n"
    info = mac.run(["networksetup", "-getinfo", "Ethernet"]).stdout.splitlines()
    assert info[:4] == [
        "Manual Configuration",
        "IP address: 192.168.50.1",
        "Subnet mask: 255.255.255.0",
        "Router: (null)",
    ]
    told = mac.run(["networksetup", "-getadditionalroutes", "Ethernet"]).stdout
    assert told == "10.9.0.0 255.255.0.0 192.168.50.2\n"

    mac.run(["networksetup", "-setadditionalroutes", "Ethernet"])
    assert (
        "There are no additional IPv4 routes on Ethernet."
        in mac.run(["networksetup", "-getadditionalroutes", "Ethernet"]).stdout
    )
    mac.run(["networksetup", "-setdhcp", "Ethernet"])
    assert "192.168.50.1" not in mac.run(["ifconfig", "en0"]).stdout


def test_ssh_lives_on_while_a_service_is_set_again(mac: Host, minis: Lab) -> None:
    address = minis.wiring.wifi_address("mini1")
    assert address is not None
    with minis.controller.popen(["ssh", "mini1", "sleep 1; echo alive"], user="smol", stdout=-1) as process:
        mac.run(["networksetup", "-setmanual", "Wi-Fi", address, "255.255.255.0", "172.20.10.1"])
        mac.run(["networksetup", "-setdhcp", "Wi-Fi"])
        told, _ = process.communicate(timeout=60)
    assert told == b"alive\n"


def test_services_for_single_ports_can_be_made(mac: Host) -> None:
    mac.run(["ifconfig", "bridge0", "deletem", "en2"])
    mac.run(["networksetup", "-createnetworkservice", "cable", "Thunderbolt 1"])
    mac.run(["networksetup", "-setmanual", "cable", "10.10.1.1", "255.255.255.252"])
    assert _services(mac)["en2"] == "cable"
    assert "inet 10.10.1.1 netmask 0xfffffffc broadcast 10.10.1.3" in mac.run(["ifconfig", "en2"]).stdout
    assert "member: en2" not in mac.run(["ifconfig", "bridge0"]).stdout
    mac.run(["networksetup", "-removenetworkservice", "cable"])
    mac.run(["ifconfig", "bridge0", "addm", "en2"])
    assert "en2" not in _services(mac)
    assert mac.run(["ipconfig", "getifaddr", "en2"], check=False).returncode == 1


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["networksetup", "-setdhcp", "Nothing"], 4, "Nothing is not a recognized network service."),
        (["networksetup", "-setmanual", "Ethernet", "1.2.3", "255.255.255.0"], 4, "The parameters were not valid"),
        (["networksetup", "-setmanual", "Ethernet", "10.0.0.1", "255.0.255.0"], 4, "The parameters were not valid"),
        (["networksetup", "-setMTU", "en1", "9000"], 4, "The parameters were not valid"),
        (["networksetup", "-switchtolocation", "Home"], 64, "does not know"),
        (["ifconfig", "en9"], 1, "interface en9 does not exist"),
        (["route", "-n", "delete", "-net", "10.77.0.0/16"], 1, "not in table"),
        (["sysctl", "net.inet.nothing"], 1, "unknown oid 'net.inet.nothing'"),
        (["launchctl", "print", "system/nobody"], 113, 'Could not find service "nobody"'),
        (["launchctl", "bootout", "system/nobody"], 3, "Boot-out failed: 3: No such process"),
    ],
)
def test_what_is_wrong_is_refused_in_the_tools_own_words(mac: Host, command: list[str], code: int, words: str) -> None:
    before = mac.run(["cat", "/Library/Preferences/SystemConfiguration/preferences.plist"]).stdout
    done = mac.run(command, check=False)
    assert done.returncode == code
    assert words in done.stdout + done.stderr
    assert mac.run(["cat", "/Library/Preferences/SystemConfiguration/preferences.plist"]).stdout == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["networksetup", "-setdhcp", "Ethernet"], "Command requires admin privileges"),
        (["sysctl", "-w", "net.inet.ip.forwarding=1"], "Operation not permitted"),
        (["route", "add", "-net", "10.0.0.0/8", "172.20.10.1"], "must be root"),
        (["ifconfig", "en0", "down"], "permission denied"),
    ],
)
def test_a_person_changes_nothing_without_sudo(mac: Host, command: list[str], words: str) -> None:
    done = mac.run(command, user="smol", check=False)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


def test_routes_by_hand(mac: Host) -> None:
    assert (
        "add net 10.77.0.0/16: gateway 172.20.10.1"
        in mac.run(["route", "-n", "add", "-net", "10.77.0.0/16", "172.20.10.1"]).stdout
    )
    told = mac.run(["route", "-n", "get", "10.77.1.1"]).stdout
    assert re.search(r"gateway: 172\.20\.10\.1\n +interface: en1$", told, re.MULTILINE)
    assert mac.run(["route", "-n", "add", "-net", "10.77.0.0/16", "172.20.10.1"], check=False).returncode == 1
    mac.run(["route", "-n", "delete", "-net", "10.77.0.0/16"])


def test_a_daemon_runs_at_boot(minis: Lab, mac: Host) -> None:
    job = {
        "Label": "org.smolcluster.forwarding",
        "ProgramArguments": ["/usr/sbin/sysctl", "-w", "net.inet.ip.forwarding=1"],
        "RunAtLoad": True,
    }
    path = "/Library/LaunchDaemons/org.smolcluster.forwarding.plist"
    mac.write(path, plistlib.dumps(job).decode())
    mac.run(["launchctl", "bootstrap", "system", path])
    again = mac.run(["launchctl", "bootstrap", "system", path], check=False)
    assert (again.returncode, again.stderr) == (5, "Bootstrap failed: 5: Input/output error\n")
    minis.reboot("mini1")
    _until(mac, ["launchctl", "print", "system/org.smolcluster.forwarding"], "last exit code = 0")
    assert mac.run(["sysctl", "-n", "net.inet.ip.forwarding"]).stdout == "1\n"
    mac.run(["launchctl", "bootout", "system/org.smolcluster.forwarding"])
    mac.run(["rm", path])


def test_every_call_is_noted(mac: Host) -> None:
    before = len(mac.calls())
    mac.run(["networksetup", "-getcurrentlocation"])
    mac.run(["sw_vers", "-productVersion"])
    mac.run(["networksetup", "-switchtolocation", "Home"], check=False)
    assert mac.calls()[before:] == [
        ["networksetup", "-getcurrentlocation"],
        ["sw_vers", "-productVersion"],
        ["networksetup", "-switchtolocation", "Home"],
    ]


@pytest.mark.parametrize("name", ["ip", "systemctl", "nmcli", "apt-get"])
def test_a_mac_has_none_of_linuxs_tools(mac: Host, name: str) -> None:
    assert mac.run(["sh", "-c", f"command -v {name}"], check=False).stdout == ""


def _until(host: Host, command: list[str], words: str) -> None:
    """Ask until the answer has these words; a job's end is told a moment after it. AssertionError after a minute."""
    script = 'for i in $(seq 600); do "$@" | grep -q "$0" && exit 0; sleep 0.1; done; exit 1'
    host.run(["sh", "-c", script, words, *command])
