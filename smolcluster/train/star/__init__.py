"""Training with a server (edp, syncps): the loops around strategies/star, with data, evaluation, checkpoints, metrics.

part.py        a rank's part, from its wires to its result.json
server.py      the server's loop
worker.py      a worker's loop
inside.py      the server's own worker, where it has one
validation.py  the validation loss, measured on a copy while training goes on
journal.py     the server's ledger on the disk, for its next process
wires.py       what runtime and train look at of a mailbox's or caller's links
"""
