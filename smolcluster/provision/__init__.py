"""What setup.yml puts on a machine: which interpreter, which wheels, which firewall exceptions; and the first login.

`node.py` and `firewall.py` run on machines that have nothing of ours yet: the standard library alone, from stdin.
"""
