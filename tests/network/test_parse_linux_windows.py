"""What `ip -j`, nmcli and PowerShell print, the odd cases too, to values."""

from __future__ import annotations

import json

import pytest

from smolcluster.network.found import Ipv4, KeptRoute, LiveRoute
from smolcluster.network.parse import FormatError, linux, windows

ADDR = """[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"mtu":65536,"qdisc":"noqueue",
"operstate":"UNKNOWN","group":"default","txqlen":1000,"link_type":"loopback","address":"00:00:00:00:00:00",
"addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host","label":"lo"}]},
{"ifindex":2,"ifname":"eth0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"mtu":1500,"operstate":"UP",
"link_type":"ether","address":"D8:3A:DD:00:00:01","addr_info":[
{"family":"inet","local":"192.168.50.2","prefixlen":24,"broadcast":"192.168.50.255","scope":"global","noprefixroute":true},
{"family":"inet6","local":"fe80::da3a:ddff:fe00:1","prefixlen":64,"scope":"link"}]},
{"ifindex":3,"ifname":"wlan0","flags":["NO-CARRIER","BROADCAST","MULTICAST","UP"],"mtu":1500,"operstate":"DOWN",
"link_type":"ether","address":"d8:3a:dd:00:00:02","addr_info":[]},
{"ifindex":4,"ifname":"br-1","flags":["UP"],"mtu":1500,"operstate":"DOWN","link_type":"ether",
"linkinfo":{"info_kind":"bridge"},"addr_info":[]},
{"ifindex":5,"ifname":"eth1","master":"br-1","link_index":6,"flags":["UP","LOWER_UP"],"mtu":1500,"operstate":"UP",
"link_type":"ether","linkinfo":{"info_kind":"veth"},"addr_info":[{"family":"inet","local":"10.0.0.9","prefixlen":24}]},
{"ifindex":7,"ifname":"tun0","flags":["POINTOPOINT","UP","LOWER_UP"],"mtu":1500,"operstate":"UNKNOWN",
"link_type":"none","linkinfo":{"info_kind":"tun"},"addr_info":[]},{},
{"ifindex":8,"ifname":"thunderbolt0","flags":["UP","LOWER_UP"],"operstate":"UP","link_type":"ether"}]"""


def test_ip_addr() -> None:
    found = {link.device: link for link in linux.links(ADDR)}
    assert {name: (link.kind, link.up) for name, link in found.items()} == {
        "lo": ("loopback", True),
        "eth0": ("ethernet", True),
        "wlan0": ("wifi", False),
        "br-1": ("bridge", False),
        "eth1": ("ethernet", True),
        "tun0": ("other", True),
        "thunderbolt0": ("thunderbolt", True),
    }
    assert found["eth0"].addresses == ("192.168.50.2/24", "fe80::da3a:ddff:fe00:1/64")
    assert (found["eth0"].mac, found["eth1"].master) == ("d8:3a:dd:00:00:01", "br-1")


def test_ip_route() -> None:
    text = """[{"dst":"default","gateway":"192.168.1.1","dev":"wlan0","protocol":"dhcp","metric":600,"flags":[]},
    {"dst":"10.10.0.0/24","gateway":"192.168.50.1","dev":"eth0","protocol":"static","metric":100,"flags":[]},
    {"dst":"192.168.50.0/24","dev":"eth0","protocol":"kernel","scope":"link","prefsrc":"192.168.50.2","flags":[]},
    {"dst":"10.9.8.7","gateway":"192.168.50.1","dev":"eth0","flags":[]},
    {"type":"blackhole","dst":"10.66.0.0/16","flags":[]},
    {"dst":"10.77.0.0/16","nexthops":[{"gateway":"192.168.50.1","dev":"eth0","weight":1,"flags":[]}],"flags":[]}]"""
    assert linux.routing_table(text) == (
        LiveRoute(destination="0.0.0.0/0", device="wlan0", via="192.168.1.1"),
        LiveRoute(destination="10.10.0.0/24", device="eth0", via="192.168.50.1"),
        LiveRoute(destination="192.168.50.0/24", device="eth0"),
        LiveRoute(destination="10.9.8.7/32", device="eth0", via="192.168.50.1"),
        LiveRoute(destination="10.77.0.0/16", device="eth0", via="192.168.50.1"),
    )
    assert linux.routing_table("") == ()


def test_nmcli_connections_whatever_their_names() -> None:
    text = "a1:Wired connection 1:802-3-ethernet:eth0\nb2:Caf\\: au lait \\\\o/:802-11-wireless:\nc3:lo:loopback:lo\n"
    assert [(c.uuid, c.name, c.type, c.device) for c in linux.connections(text)] == [
        ("a1", "Wired connection 1", "802-3-ethernet", "eth0"),
        ("b2", "Caf: au lait \\o/", "802-11-wireless", ""),
        ("c3", "lo", "loopback", "lo"),
    ]
    with pytest.raises(FormatError, match="nmcli connection show: a line does not have the four fields"):
        linux.connections("Error: NetworkManager is not running.\n")


@pytest.mark.parametrize(
    "routes",
    [
        "10.10.0.0/24 192.168.50.1, 192.168.51.0/24 192.168.50.1 100",
        "{ ip = 10.10.0.0/24, nh = 192.168.50.1 }; { ip = 192.168.51.0/24, nh = 192.168.50.1, mt = 100 }",
    ],
    ids=["new", "old"],
)
def test_nmcli_settings(routes: str) -> None:
    values = linux.settings(
        "connection.id:smolcluster-eth0\nconnection.uuid:a1\nipv4.method:manual\nipv4.gateway:\nipv4.dhcp-client-id:\n"
        f"ipv4.addresses:192.168.50.2/24, 10.0.0.1/8\nipv4.routes:{routes}\n802-3-ethernet.mtu:9000\n"
    )
    assert values["connection.id"] == "smolcluster-eth0"
    assert linux.ipv4_of(values) == Ipv4(method="manual", address="192.168.50.2/24")
    assert linux.mtu_of(values) == 9000
    assert linux.routes_of(values) == (
        KeptRoute(destination="10.10.0.0/24", via="192.168.50.1"),
        KeptRoute(destination="192.168.51.0/24", via="192.168.50.1"),
    )


def test_nmcli_defaults() -> None:
    values = linux.settings(
        "ipv4.method:auto\nipv4.addresses:\nipv4.gateway:--\nipv4.routes:\n802-3-ethernet.mtu:auto\n"
    )
    assert (linux.ipv4_of(values), linux.routes_of(values), linux.mtu_of(values)) == (Ipv4(method="dhcp"), (), None)
    assert linux.ipv4_of({"ipv4.method": "shared"}).method == "other"
    assert linux.ipv4_of({"ipv4.method": "disabled"}).method == "off"


def test_linux_forwarding() -> None:
    assert linux.forwarding("net.ipv4.ip_forward = 1\n")
    assert not linux.forwarding("net.ipv4.ip_forward = 0\n")


ADAPTERS = json.dumps([
    {"Name": "Wi-Fi", "InterfaceDescription": "Intel(R) Wi-Fi 6", "MacAddress": "AA-BB-CC-00-00-01", "Status": "Up",
     "NdisPhysicalMedium": 9, "Virtual": False},
    {"Name": "Ethernet 2", "InterfaceDescription": "Realtek PCIe GbE", "MacAddress": "AA-BB-CC-00-00-02",
     "Status": "Disconnected", "NdisPhysicalMedium": 14, "Virtual": False},
    {"Name": "vEthernet", "InterfaceDescription": "Hyper-V", "MacAddress": "00-15-5D-00-00-03", "Status": "Up",
     "NdisPhysicalMedium": 0, "Virtual": True},
])  # fmt: skip
ADDRESSES = json.dumps([
    {"InterfaceAlias": "Wi-Fi", "IPAddress": "172.20.10.9", "PrefixLength": 28, "PrefixOrigin": 3},
    {"InterfaceAlias": "Ethernet 2", "IPAddress": "192.168.52.2", "PrefixLength": 24, "PrefixOrigin": "Manual"},
])  # fmt: skip
SETTINGS = json.dumps([
    {"InterfaceAlias": "Wi-Fi", "Dhcp": 1, "NlMtu": 1500, "Forwarding": 2},
    {"InterfaceAlias": "Ethernet 2", "Dhcp": "Disabled", "NlMtu": 1500, "Forwarding": 2},
    {"InterfaceAlias": "vEthernet", "Dhcp": 0, "NlMtu": 1500, "Forwarding": 2},
])  # fmt: skip
ROUTES = json.dumps([
    {"DestinationPrefix": "0.0.0.0/0", "NextHop": "172.20.10.1", "InterfaceAlias": "Wi-Fi", "Protocol": 3},
    {"DestinationPrefix": "192.168.50.0/24", "NextHop": "172.20.10.5", "InterfaceAlias": "Wi-Fi",
     "Protocol": "NetMgmt"},
    {"DestinationPrefix": "172.20.10.0/28", "NextHop": "0.0.0.0", "InterfaceAlias": "Wi-Fi", "Protocol": 2},
])  # fmt: skip


def test_windows() -> None:
    table = windows.routing_table(ROUTES)
    found = windows.interfaces(ADAPTERS, ADDRESSES, SETTINGS, table, windows.kept_routes(ROUTES))
    assert [(i.device, i.kind, i.up, i.mac) for i in found] == [
        ("Wi-Fi", "wifi", True, "aa:bb:cc:00:00:01"),
        ("Ethernet 2", "ethernet", False, "aa:bb:cc:00:00:02"),
        ("vEthernet", "other", True, "00:15:5d:00:00:03"),
    ]
    assert [i.profiles[0].ipv4 for i in found] == [
        Ipv4(method="dhcp"),
        Ipv4(method="manual", address="192.168.52.2/24"),
        Ipv4(method="off"),
    ]
    assert found[0].profiles[0].routes == (KeptRoute(destination="192.168.50.0/24", via="172.20.10.5"),)
    assert table[2] == LiveRoute(destination="172.20.10.0/28", device="Wi-Fi")


def test_windows_a_single_object_and_nothing_at_all() -> None:
    one = '\ufeff{"DestinationPrefix":"10.0.0.0/8","NextHop":"1.2.3.4","InterfaceAlias":"Wi-Fi","Protocol":3}\r\n'
    assert windows.routing_table(one) == (LiveRoute(destination="10.0.0.0/8", device="Wi-Fi", via="1.2.3.4"),)
    assert windows.routing_table("\r\n") == ()
    with pytest.raises(FormatError, match="Get-NetRoute: is no JSON"):
        windows.routing_table("Get-NetRoute : Access denied")
