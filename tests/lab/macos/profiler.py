"""system_profiler(8): SPThunderboltDataType, from which the cable graph is read, as text or JSON."""

from __future__ import annotations

import json
from typing import Any

from . import hardware
from .told import unknown

_TYPE = "SPThunderboltDataType"


def main(arguments: list[str]) -> int:
    """One call."""
    as_json = "-json" in arguments
    words = [word for word in arguments if word not in ("-json", "-xml", "-detailLevel", "basic", "full", "mini")]
    if words != [_TYPE] or "-xml" in arguments:
        raise unknown("system_profiler", " ".join(arguments))
    buses = [_bus(port) for port in reversed(hardware.ports()) if port["medium"] == "thunderbolt"]
    if as_json:
        print(json.dumps({_TYPE: buses}, indent=2, separators=(",", " : "), sort_keys=True))
    else:
        print("Thunderbolt/USB4:\n")
        for bus in buses:
            print(_text(bus))
    return 0


def _bus(port: dict[str, Any]) -> dict[str, Any]:
    number = int(port["label"].rsplit(" ", 1)[1])
    cable, peer = _other_end(port["device"])
    connected = peer is not None
    bus: dict[str, Any] = {
        "_name": f"thunderboltusb4_bus_{number - 1}",
        "device_name_key": hardware.host()["model_name"],
        "domain_uuid_key": port["uuid"],
        "receptacle_1_tag": {
            "current_speed_key": f"{cable['gbps']} Gb/s" if cable and connected else "Up to 40 Gb/s",
            "link_status_key": "0x2" if connected else "0x100",
            "receptacle_id_key": str(number),
            "receptacle_status_key": "receptacle_connected" if connected else "receptacle_no_devices_connected",
        },
        "route_string_key": "0",
        "switch_uid_key": "0x05AC" + port["uuid"].replace("-", "")[:12],
        "vendor_name_key": "Apple Inc.",
    }
    if peer is not None:
        name = peer["model_name"]
        bus["_items"] = [
            {
                "_name": name,
                "device_name_key": name,
                "domain_uuid_key": peer["uuid"],
                "mode_key": "usb_four",
                "route_string_key": "1",
                "vendor_name_key": "Apple Inc.",
            }
        ]
    return bus


def _other_end(device: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The cable in a port and what is at its other end; nothing when it is pulled or the other Mac is off."""
    me = hardware.host()["name"]
    for cable in hardware.cables():
        mine = [end for end in cable["ends"] if (end["host"], end["device"]) == (me, device)]
        others = [end for end in cable["ends"] if (end["host"], end["device"]) != (me, device)]
        if cable["medium"] == "thunderbolt" and mine and others and cable["up"] and others[0]["on"]:
            return cable, others[0]
    return None, None


def _text(bus: dict[str, Any]) -> str:
    tag = bus["receptacle_1_tag"]
    connected = tag["receptacle_status_key"] == "receptacle_connected"
    number = bus["_name"].rsplit("_", 1)[1]
    lines = [
        f"    Thunderbolt/USB4 Bus {number}:\n",
        f"      Vendor Name: {bus['vendor_name_key']}",
        f"      Device Name: {bus['device_name_key']}",
        f"      UID: {bus['switch_uid_key']}",
        f"      Route String: {bus['route_string_key']}",
        f"      Domain UUID: {bus['domain_uuid_key']}",
        "      Port:",
        f"          Status: {'Device connected' if connected else 'No device connected'}",
        f"          Link Status: {tag['link_status_key']}",
        f"          Speed: {tag['current_speed_key']}",
        f"          Receptacle: {tag['receptacle_id_key']}\n",
    ]
    for item in bus.get("_items", ()):
        lines.append(f"        {item['_name']}:\n\n          Vendor Name: {item['vendor_name_key']}")
        lines.append(f"          Device Name: {item['device_name_key']}\n          Mode: USB4\n")
    return "\n".join(lines)
