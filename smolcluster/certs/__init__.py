"""Certificates: the cluster's own authority (CA) on the controller, a key on each node that never leaves it. No torch.

places      where the files lie: ~/.smolcluster/ca on the controller, ~/.smolcluster/certs/<node> on a node
checking    what workers and preflight need: TLS contexts from files, and whether they would be accepted. `ssl` alone
names       under which names and addresses a node is certified
authority   signs, revokes, keeps the list of revoked ones; ledger: what it has signed
node        a node's key, its request, and taking in what the authority answered

Only authority and node import `cryptography`, so a worker never does.
"""
