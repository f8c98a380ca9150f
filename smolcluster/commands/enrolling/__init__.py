"""First contact with a machine over SSH: the parts of `python -m smolcluster enroll`. paramiko is imported lazily.

flow.py      one host from start to end
session.py   a connection with deadlines, and a command over it
hostkey.py   is this the machine it was? known_hosts
userkey.py   the person's own key, made when there is none
install.py   putting the public key into the remote authorized_keys
"""
