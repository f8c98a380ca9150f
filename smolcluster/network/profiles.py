"""One interface: what its profile holds against what it should hold, as steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from smolcluster.network.found import FoundHost, Interface, Ipv4, KeptRoute, Profile
from smolcluster.network.read import OWN_PREFIX
from smolcluster.network.steps import ActiveStep, Ipv4Step, MtuStep, ProfileStep, RoutesStep, Step
from smolcluster.network.values import DEFAULT_MTU
from smolcluster.spec.cluster import Kind


@dataclass
class Target:
    """What an interface should have. `ipv4` None: its address is a router's business, and only routes are kept here."""

    interface: Interface
    network: str
    ipv4: Ipv4 | None
    mtu: int | None
    routes: list[KeptRoute] = field(default_factory=list)

    def profile_id(self, kind: Kind) -> str:
        """The profile that holds it. On Linux a cable gets one of ours, so that its owner's stays as it was."""
        current = self.interface.profile
        if current is None or (kind == "linux" and self.ipv4 is not None):
            return OWN_PREFIX + self.interface.device
        return current.id

    def profile(self, kind: Kind) -> Profile | None:
        """That profile, if it is there."""
        return next((p for p in self.interface.profiles if p.id == self.profile_id(kind)), None)


def new_ipv4(kind: Kind) -> Ipv4:
    """What a profile of ours has when it is made: networksetup's is on DHCP."""
    return Ipv4(method="dhcp" if kind == "macos" else "off")


def target_steps(found: FoundHost, target: Target) -> list[Step]:
    """The steps of one interface, in order; none where nothing differs."""
    kind, interface, name = found.kind, target.interface, target.profile_id(found.kind)
    profile = target.profile(kind)
    in_force = profile is not None and profile.active
    steps: list[Step] = []
    if profile is None:
        steps.append(
            ProfileStep(node=found.node, os=kind, device=interface.device, profile=name, before=False, after=True)
        )
    had = profile.ipv4 if profile is not None else new_ipv4(kind)
    watched = in_force and interface.up
    if target.ipv4 is not None:
        missing = watched and not interface.has(str(target.ipv4.address))
        if had != target.ipv4 or missing:
            steps.append(
                Ipv4Step(
                    node=found.node,
                    os=kind,
                    device=interface.device,
                    profile=name,
                    live=in_force,
                    before=had,
                    after=target.ipv4,
                )
            )
    steps += _mtu(found, target, profile, name, in_force)
    routes = profile.routes if profile is not None else ()
    wanted = tuple(target.routes)
    lost = watched and not all(found.has_route(route.destination, route.via) for route in wanted)
    if set(routes) != set(wanted) or lost:
        steps.append(
            RoutesStep(
                node=found.node,
                os=kind,
                device=interface.device,
                profile=name,
                live=in_force,
                before=routes,
                after=wanted,
            )
        )
    # NetworkManager refuses where the cable is out, and does it by itself when it is in.
    waits = kind == "linux" and not interface.up
    if not in_force and not waits and (profile is not None or kind == "linux"):
        now = next((p.id for p in interface.profiles if p.active), None) if kind == "linux" else None
        steps.append(
            ActiveStep(node=found.node, os=kind, device=interface.device, profile=name, before=now, after=name)
        )
    return steps


def drop_steps(
    found: FoundHost, interface: Interface, profile: Profile, stale: tuple[KeptRoute, ...], ours: bool, moved: bool
) -> list[Step]:
    """Take our routes and our address off a profile; if it is one of ours, take all of it away."""
    steps: list[Step] = []

    def common(live: bool) -> dict[str, object]:
        return {
            "node": found.node, "os": found.kind, "device": interface.device, "profile": profile.id, "live": live,
        }  # fmt: skip

    live = profile.active
    if ours and live and found.kind == "linux":
        steps.append(ActiveStep.model_validate({**common(True), "before": profile.id, "after": None}))
        live = False
    gone = profile.routes if ours else stale
    if gone:
        left = tuple(route for route in profile.routes if route not in gone)
        steps.append(RoutesStep.model_validate({**common(live), "before": profile.routes, "after": left}))
    off = new_ipv4(found.kind) if ours else Ipv4(method="off")
    if (ours or moved) and profile.ipv4 != off:
        steps.append(Ipv4Step.model_validate({**common(live), "before": profile.ipv4, "after": off}))
    if ours and found.kind == "linux" and profile.mtu is not None:  # a Mac's belongs to the device, not to the service
        steps.append(MtuStep.model_validate({**common(live), "before": profile.mtu, "after": None}))
    if ours and not profile.active and found.kind == "macos":
        # One that is made anew is enabled: so that taking it back disables it again.
        steps.append(ActiveStep.model_validate({**common(False), "before": None, "after": profile.id}))
    if ours:
        steps.append(ProfileStep.model_validate({**common(live), "before": True, "after": False}))
    return steps


def _mtu(found: FoundHost, target: Target, profile: Profile | None, name: str, in_force: bool) -> list[Step]:
    if target.mtu is None:
        return []
    # A Mac keeps it with the device, whatever service is on it.
    had = profile.mtu if profile is not None else target.interface.mtu if found.kind == "macos" else None
    differs = (had or DEFAULT_MTU) != target.mtu
    lost = in_force and target.interface.up and target.interface.mtu not in (None, target.mtu)
    if not differs and not lost:
        return []
    return [
        MtuStep(
            node=found.node,
            os=found.kind,
            device=target.interface.device,
            profile=name,
            live=in_force,
            before=had,
            after=target.mtu,
        )
    ]
