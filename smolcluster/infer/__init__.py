"""Serving a model that is split over ranks by layers: the head owns the order, stages are FIFO state machines.

    Engine(...).start(within_s)  engine.submit(Request) -> Stream of events

messages   what travels, and its bytes       request    what is asked for, what comes back, limits
stage      a stage's state machine           session    one request on its way: tokens, text, where it stands
worker     the process of a later stage      schedule   who is in the next step
chain      one epoch of it                   sampling   the next token    text   stop strings
control    the link of the head to a stage   loop       the head's thread
roster     which stages are there            keeper     after a loss: wait, plan anew (replan), connect
pipeline   the head's ends of the chain      engine     the face of it all

head       what the API knows of a head: an Engine in its process (local), or behind a link (client ... words ... gate)
rank       a stage as a rank of its run      about      what the model's folder says of itself

It never meets training: both use models/.
"""
