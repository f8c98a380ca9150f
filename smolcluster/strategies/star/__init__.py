"""What strategies with a server share (edp, syncps): rank 0 owns weights and optimizer, the others send it gradients.

messages.py    the letters they write each other
leases.py      which samples of the run are whose; none is lost, none is applied twice
ledger.py      what became of every gradient
solo.py        a rank of a star as its model sees it: alone
weights.py     how weights travel from the server to a worker, whole or as changes
server.py      the server: answers, leases, ledger; what is done with a gradient is the strategy's
worker.py      a worker: a step on a lease, its gradient pushed, weights pulled now and then

Data, evaluation, checkpoints and metrics are not here: see train/star.
"""
