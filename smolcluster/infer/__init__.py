"""Serving a model that is split over ranks by layers: the head owns the order, stages are FIFO state machines.

    Engine(...).start(within_s)  engine.submit(Request) -> Stream of events

messages   what travels, and its bytes       request    what is asked for, what comes back, limits
stage      a stage's state machine           session    one request on its way: tokens, text, where it stands
worker     the process of a later stage      schedule   who is in the next step
pipeline   the head's ends of the chain      sampling   the next token    text   stop strings
control    the link of the head to a stage   engine     the loop that holds it together

It never meets training: both use models/.
"""
