"""What macOS's tools print, the odd cases too, to values."""

from __future__ import annotations

import json

import pytest

from smolcluster.network.found import FoundHost, Ipv4, KeptRoute, LiveRoute, ThunderboltPort
from smolcluster.network.parse import FormatError, macos
from smolcluster.network.parse.thunderbolt import cables_between, thunderbolt_ports

from .clusters import cable

PORTS = """
Hardware Port: Ethernet
Device: en0
Ethernet Address: d0:11:e5:0a:0b:0c

Hardware Port: Ethernet Adapter (en5)
Device: en5
Ethernet Address: 12:2A:6F:00:00:05

Hardware Port: Thunderbolt Bridge
Device: bridge0
Ethernet Address: 36:5f:d5:00:00:00

Hardware Port: Wi-Fi
Device: en1
Ethernet Address: d0:11:e5:0a:0b:0d

Hardware Port: Thunderbolt 1
Device: en2
Ethernet Address: 36:5f:d5:00:00:01

Hardware Port: Thunderbolt 2
Device: en3
Ethernet Address: 36:5f:d5:00:00:02

Hardware Port: Thunderbolt Ethernet Slot 1
Device: en7
Ethernet Address: 00:e0:4c:00:00:07

Hardware Port: Tailscale
Device:
Ethernet Address: N/A

VLAN Configurations
===================
"""
# A German Mac: names are translated, one was renamed by its owner, one is disabled in either of two ways.
ORDER = """An asterisk (*) denotes that a network service is disabled.
(1) WLAN zu Hause
(Hardware Port: Wi-Fi, Device: en1)

(2) Thunderbolt-Brücke
(Hardware Port: Thunderbolt Bridge, Device: bridge0)

(*) USB 10/100/1000 LAN
(Hardware Port: USB 10/100/1000 LAN, Device: en5)

(3) *Ethernet (alt), Keller
(Hardware Port: Ethernet, Device: en0)

(4) Tailscale
(Hardware Port: io.tailscale.ipn.macsys, Device: )
"""
IFCONFIG = """lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 16384
\toptions=1203<RXCSUM,TXCSUM,TXSTATUS,SW_TIMESTAMP>
\tinet 127.0.0.1 netmask 0xff000000
\tinet 10.10.0.1 netmask 0xffffffff
\tinet6 ::1 prefixlen 128
\tinet6 fe80::1%lo0 prefixlen 64 scopeid 0x1
\tnd6 options=201<PERFORMNUD,DAD>
gif0: flags=8010<POINTOPOINT,MULTICAST> mtu 1280
en0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\toptions=6460<TSO4,TSO6,CHANNEL_IO,PARTIAL_CSUM,ZEROINVERT_CSUM>
\tether d0:11:e5:0a:0b:0c
\tinet 192.168.50.1 netmask 0xffffff00 broadcast 192.168.50.255
\tmedia: autoselect (1000baseT <full-duplex>)
\tstatus: active
en2: flags=8963<UP,BROADCAST,SMART,RUNNING,PROMISC,SIMPLEX,MULTICAST> mtu 1500
\tether 36:5f:d5:00:00:01
\tmedia: autoselect <full-duplex>
\tstatus: inactive
bridge0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\toptions=63<RXCSUM,TXCSUM,TSO4,TSO6>
\tether 36:5f:d5:00:00:00
\tinet6 fe80::1c2b:3a4d:5e6f:1%bridge0 prefixlen 64 secured scopeid 0xb
\tConfiguration:
\t\tid 0:0:0:0:0:0 priority 0 hellotime 0 fwddelay 0
\t\tmaxage 0 holdcnt 0 proto stp maxaddr 100 timeout 1200
\t\troot id 0:0:0:0:0:0 priority 0 ifcost 0 port 0
\t\tipfilter disabled flags 0x0
\tmember: en2 flags=3<LEARNING,DISCOVER>
\t        ifmaxaddr 0 port 8 priority 0 path cost 0
\tmember: en3 flags=3<LEARNING,DISCOVER>
\t        ifmaxaddr 0 port 9 priority 0 path cost 0
\tmedia: <unknown type>
\tstatus: inactive
utun4: flags=8051<UP,POINTOPOINT,RUNNING,MULTICAST> mtu 1380
\tinet 100.64.0.7 --> 100.64.0.7 netmask 0xffffffff
"""
NETSTAT = """Routing tables

Internet:
Destination        Gateway            Flags               Netif Expire
default            172.20.10.1        UGScg                 en1
10.10/24           link#11            UCS               bridge0      !
10.10.0.2          36:5f:d5:0:1:0     UHLWIi            bridge0   1187
10.10.0.3/32       10.10.1.6          UGSc                  en3
127                127.0.0.1          UCS                   lo0
127.0.0.1          127.0.0.1          UH                    lo0
169.254            link#12            UCS                   en1      !
172.20.10/28       link#12            UCS                   en1      !
192.168.50         link#4             UC                    en0
192.168.51         10.10.0.3          UGSc              bridge0
224.0.0/4          link#12            UmCS                  en1      !
255.255.255.255/32 link#12            UCS                   en1      !
"""
OLD_NETSTAT = """Internet:
Destination        Gateway            Flags        Refs      Use   Netif Expire
default            192.168.1.1        UGSc           61        0     en0
192.168.50         10.10.0.1          UGSc            0        0  bridge
"""


def test_hardware_ports() -> None:
    found = [(port.device, port.kind) for port in macos.hardware_ports(PORTS)]
    assert found == [
        ("en0", "ethernet"),
        ("en5", "ethernet"),
        ("bridge0", "bridge"),
        ("en1", "wifi"),
        ("en2", "thunderbolt"),
        ("en3", "thunderbolt"),
        ("en7", "ethernet"),
    ]
    assert macos.hardware_ports(PORTS)[1].mac == "12:2a:6f:00:00:05"


def test_services_by_device_whatever_they_are_called() -> None:
    assert [(s.device, s.name, s.enabled) for s in macos.services(ORDER)] == [
        ("en1", "WLAN zu Hause", True),
        ("bridge0", "Thunderbolt-Brücke", True),
        ("en5", "USB 10/100/1000 LAN", False),
        ("en0", "Ethernet (alt), Keller", False),
    ]


MANUAL = "Manual Configuration\nIP address: 10.10.0.1\nSubnet mask: 255.255.255.0\nRouter: {}\nIPv6: Automatic\n"
INFOS = {
    "manual": (MANUAL.format("192.168.1.1"), Ipv4(method="manual", address="10.10.0.1/24", router="192.168.1.1")),
    "no router": (MANUAL.format("(null)"), Ipv4(method="manual", address="10.10.0.1/24")),
    "router none": (MANUAL.format("none"), Ipv4(method="manual", address="10.10.0.1/24")),
    "router empty": (MANUAL.format(""), Ipv4(method="manual", address="10.10.0.1/24")),
    "dhcp": (
        "DHCP Configuration\nIP address: 172.20.10.5\nSubnet mask: 255.255.255.240\nRouter: 172.20.10.1\n"
        "Client ID: \nIPv6: Automatic\nIPv6 IP address: none\nIPv6 Router: none\nWi-Fi ID: d0:11:e5:0a:0b:0d\n",
        Ipv4(method="dhcp"),
    ),
    "dhcp without a lease": ("DHCP Configuration\nClient ID: m1\nIPv6: Off\n", Ipv4(method="dhcp", client_id="m1")),
    "dhcp's router": (
        "Manually Using DHCP Router Configuration\nIP address: 192.168.1.7\nSubnet mask: 255.255.255.0\n"
        "Router: 192.168.1.1\nIPv6: Automatic\n",
        Ipv4(method="manual_dhcp_router", address="192.168.1.7/24"),
    ),
    "bootp": ("BOOTP Configuration\nIP address: (null)\nSubnet mask: (null)\nRouter: (null)\n", Ipv4(method="bootp")),
    "off": ("IPv6: Automatic\nIPv6 IP address: none\nEthernet Address: d0:11:e5:0a:0b:0c\n", Ipv4(method="off")),
}  # fmt: skip


@pytest.mark.parametrize("name", INFOS)
def test_service_info(name: str) -> None:
    text, expected = INFOS[name]
    assert macos.service_info(text) == expected


def test_a_manual_configuration_without_an_address_is_not_guessed_at() -> None:
    with pytest.raises(FormatError, match="networksetup -getinfo: a manual configuration without an address"):
        macos.service_info("Manual Configuration\nIP address: (null)\n")


def test_additional_routes() -> None:
    assert macos.additional_routes("There are no additional IPv4 routes on Thunderbolt-Brücke.\n") == ()
    text = "192.168.51.0 255.255.255.0 10.10.0.3\n10.10.0.2 255.255.255.255 10.10.1.2\n"
    assert macos.additional_routes(text) == (
        KeptRoute(destination="192.168.51.0/24", via="10.10.0.3"),
        KeptRoute(destination="10.10.0.2/32", via="10.10.1.2"),
    )


def test_ifconfig() -> None:
    found = {link.device: link for link in macos.links(IFCONFIG)}
    assert list(found) == ["lo0", "gif0", "en0", "en2", "bridge0", "utun4"]
    assert found["lo0"].addresses == ("127.0.0.1/8", "10.10.0.1/32", "::1/128", "fe80::1/64")
    assert (found["en0"].up, found["en0"].mtu, found["en0"].mac) == (True, 1500, "d0:11:e5:0a:0b:0c")
    assert found["en0"].addresses == ("192.168.50.1/24",)
    assert (found["en2"].up, found["gif0"].up) == (False, False)
    assert (found["bridge0"].members, found["bridge0"].up) == (("en2", "en3"), False)
    assert found["utun4"].addresses == ("100.64.0.7/32",)


def test_netstat() -> None:
    assert macos.routing_table(NETSTAT) == (
        LiveRoute(destination="0.0.0.0/0", device="en1", via="172.20.10.1"),
        LiveRoute(destination="10.10.0.0/24", device="bridge0"),
        LiveRoute(destination="10.10.0.3/32", device="en3", via="10.10.1.6"),
        LiveRoute(destination="127.0.0.0/8", device="lo0"),
        LiveRoute(destination="127.0.0.1/32", device="lo0"),
        LiveRoute(destination="169.254.0.0/16", device="en1"),
        LiveRoute(destination="172.20.10.0/28", device="en1"),
        LiveRoute(destination="192.168.50.0/24", device="en0"),
        LiveRoute(destination="192.168.51.0/24", device="bridge0", via="10.10.0.3"),
        LiveRoute(destination="224.0.0.0/4", device="en1"),
        LiveRoute(destination="255.255.255.255/32", device="en1"),
    )


def test_netstat_of_an_older_version_has_more_columns() -> None:
    assert [(r.destination, r.device) for r in macos.routing_table(OLD_NETSTAT)] == [
        ("0.0.0.0/0", "en0"),
        ("192.168.50.0/24", "bridge"),
    ]


def test_sysctl() -> None:
    assert macos.forwarding("net.inet.ip.forwarding: 1\n")
    assert not macos.forwarding("net.inet.ip.forwarding: 0\n")
    with pytest.raises(FormatError):
        macos.forwarding("sysctl: unknown oid\n")


def bus(number: str, domain: str, peer: str | None = None, tag: str = "receptacle_1_tag") -> dict:
    found = {
        "_name": f"thunderboltusb4_bus_{number}",
        "device_name_key": "Mac mini",
        "domain_uuid_key": domain,
        "route_string_key": "0",
        tag: {"receptacle_id_key": number, "current_speed_key": "Up to 40 Gb/s"},
    }
    return found | ({"_items": [{"_name": "Mac mini", "domain_uuid_key": peer}]} if peer else {})


def test_thunderbolt() -> None:
    """A cable to a Mac, one to a dock (which is no computer), and a socket that has no network device."""
    dock = bus("2", "D-2") | {"_items": [{"_name": "Dock", "device_name_key": "TS4"}]}
    report = {"SPThunderboltDataType": [bus("1", "D-1", "E-3", "receptacle_2_tag"), dock, bus("9", "D-9", "E-9")]}
    found = thunderbolt_ports(json.dumps(report), macos.hardware_ports(PORTS))
    assert found == (
        ThunderboltPort(device="en2", domain="D-1", peer="E-3"),
        ThunderboltPort(device="en3", domain="D-2"),
    )
    assert thunderbolt_ports("", macos.hardware_ports(PORTS)) == ()


def mac(node: str, **ports: tuple[str, str | None]) -> FoundHost:
    thunderbolt = tuple(ThunderboltPort(device=d, domain=own, peer=peer) for d, (own, peer) in ports.items())
    return FoundHost(node=node, kind="macos", interfaces=(), thunderbolt=thunderbolt)


def test_cables_once_each_and_strangers_left_out() -> None:
    hosts = [
        mac("mini2", en2=("B2", "A2"), en3=("B3", "C2")),
        mac("mini1", en2=("A2", "B2"), en3=("A3", "STRANGER")),
        mac("mini3", en2=("C2", None)),  # has not noticed yet
    ]
    assert cables_between(hosts) == (cable("mini1:en2", "mini2:en2"), cable("mini2:en3", "mini3:en2"))
