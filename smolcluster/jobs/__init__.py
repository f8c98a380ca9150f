"""Jobs: a run's part on one node, started, followed and stopped. No torch.

start_job -> launch.py    claims the node (registry.py), starts a supervisor that outlives the starter
supervise.py              the supervisor's life: ranks (processes.py), lease.py, control link (control.py, wire.py)
  supervise_together.py   a training's ranks end and are started again together
  supervise_each.py       a served model's, each for itself
poll_job  -> poll.py      state (state.py), progress (tail.py), failures (endings.py, verdict.py); renews the lease
asking.py                 questions that leave by the clock, for whoever follows a node over a slow connection
stop_job  -> stop.py      through the control link, by force where it does not answer (identity.py)
"""
