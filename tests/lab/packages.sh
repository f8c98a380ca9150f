#!/usr/bin/env bash
# Gets the Debian packages that the lab and the tests of Prometheus need and this machine lacks. As root.
#
# Programs are installed, and none of their services is started. A network manager is not installed: it would take this
# machine's own interface into its care. It is unpacked into .cache/lab/root, which the lab's hosts have as a part of
# their root and this machine never runs anything of. Prometheus is unpacked too, into .cache/prometheus: installed it
# would run from then on, and at boot.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=.cache/lab/root

lacks() { ! PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }

need=()
lacks ip && need+=(iproute2)
lacks nsenter && need+=(util-linux)
lacks sudo && need+=(sudo)
lacks ping && need+=(iputils-ping)
lacks nft && need+=(nftables)
lacks dbus-daemon && need+=(dbus)
lacks ssh && need+=(openssh-client)
lacks sshd && need+=(openssh-server)
[ -x /lib/systemd/systemd ] || need+=(systemd)
# A login by SSH begins a session of systemd's through it.
compgen -G '/lib/*/security/pam_systemd.so' >/dev/null || need+=(libpam-systemd)
# systemd-run --user finds its manager by it.
[ -e /usr/lib/systemd/user/dbus.socket ] || need+=(dbus-user-session)
manager=
lacks NetworkManager && [ ! -x "$root/usr/sbin/NetworkManager" ] && manager=network-manager

prometheus=
metrics=.cache/prometheus
lacks prometheus && [ ! -x "$metrics/usr/bin/prometheus" ] && prometheus=prometheus

if [ ${#need[@]} -gt 0 ] || [ "$manager" ] || [ "$prometheus" ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
fi
if [ ${#need[@]} -gt 0 ]; then
  # Debian asks this file whether a package may start its services.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi
if [ "$manager" ]; then
  debs=$PWD/.cache/lab/debs
  rm -rf "$debs" "$root.part"
  mkdir -p "$debs/partial" "$root.part"
  # It, and what it depends on that is not here.
  apt-get install -y -qq --download-only --no-install-recommends -o "Dir::Cache::archives=$debs" "$manager" >/dev/null
  # polkit's daemon would fail for want of the account that its installation makes, and root needs no polkit.
  rm -f "$debs"/polkitd_*.deb "$debs"/policykit-1_*.deb
  for deb in "$debs"/*.deb; do
    dpkg-deb --extract "$deb" "$root.part"
  done
  # Where /lib is a link to /usr/lib, a folder of that name would hide it.
  for name in bin sbin lib lib64; do
    if [ -L "/$name" ] && [ -d "$root.part/$name" ]; then
      mkdir -p "$root.part/usr/$name"
      cp -a "$root.part/$name/." "$root.part/usr/$name/"
      rm -r "${root:?}.part/$name"
    fi
  done
  # Whole or not at all.
  mv "$root.part" "$root"
  rm -r "$debs"
fi
if [ "$prometheus" ]; then
  rm -rf "$metrics" "$metrics.part"
  mkdir -p "$metrics.part"
  # Its one program is linked with nothing but the C library. apt's own user may not write here, and says so.
  (cd "$metrics.part" && apt-get download -qq "$prometheus" 2>/dev/null)
  dpkg-deb --extract "$metrics.part"/prometheus_*.deb "$metrics.part"
  rm "$metrics.part"/prometheus_*.deb
  mv "$metrics.part" "$metrics"
fi
