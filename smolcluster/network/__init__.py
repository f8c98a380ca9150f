"""The network of an inventory: what every machine should have, what it has, and the steps between the two. No torch.

wanted_network(cluster, cables)   addresses, routes (the ways back too) and forwarding of every machine
found_host(text)                  what a machine said of itself (gather.py, which runs there), as a value
plan_host(wanted, found)          ordered steps with exact inverses; none when nothing is to be done
diagnose(expected, measured)      what is wrong, by name, from all-pairs measurements (probe.py, which runs there)

Everything here but gather.py, probe.py and mdns.py is pure: values in, values out.
"""

from __future__ import annotations
